"""Models on the Hugging Face hub: addresses, downloads into its cache, uploads.

All traffic is huggingface_hub's, an extra, with the token, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and cache folder that it
documents.
"""

import contextlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from trajworld.errors import TrajWorldError, UsageError
from trajworld.models.files import SUFFIX

PREFIX = "hf://"
DEFAULT_FILE = "model.keras"

_NAME = r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?"
# A revision is one segment (%2F for a branch's slash) or one of the hub's own references.
_ADDRESS = re.compile(
    rf"hf://(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>refs/pr/\d+|[^/@]+))?(?:/(?P<file>.+))?", re.ASCII
)
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True)
class HubAddress:
    """Where a model is on the hub: ``USER/REPO``, a branch, tag or commit (None for the main branch), and a file."""

    text: str
    repo: str
    revision: str | None = None
    file: str = DEFAULT_FILE

    def __str__(self) -> str:
        return self.text


def hub_address(text: str) -> HubAddress:
    """The parts of ``hf://USER/REPO[@REVISION][/FILE.keras]``; ``UsageError`` for anything else."""
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise UsageError(
            f"{text!r} is not an address on the hub: {PREFIX}USER/REPO[@REVISION][/FILE{SUFFIX}]"
        )
    revision, file = unquote(found["revision"] or "") or None, found["file"] or DEFAULT_FILE
    for part in (*(revision or "x").split("/"), *file.split("/")):
        # What an operating system would take for another folder, a drive or an option is no part of a name.
        if not part or part.strip(". ") == "" or set(part) & set('\\:\0*?"<>|') or not part.isprintable():
            raise UsageError(f"{text!r} is refused: {part!r} is no part of a name in a repository")
    if Path(file).suffix != SUFFIX:
        raise UsageError(f"{text!r}: {file} does not end in {SUFFIX}, as a model file's name must")
    return HubAddress(text, found["repo"], revision, file)


def download(address: HubAddress) -> Path:
    """The file at an address, in the Hugging Face cache; fetched unless the cache holds its newest version.

    Raises:
        TrajWorldError: huggingface_hub is not installed, the hub cannot be reached and the cache lacks the file, or
            there is no such repository, revision or file, or none that this user may read.
    """
    with _client(address) as hub:
        _guard_cache(hub)
        errors = hub.errors
        asked = {"repo_id": address.repo, "filename": address.file, "revision": address.revision}
        try:
            # Asked for once and without huggingface_hub's retries, which take half a minute where there is no network.
            hub.HfApi().get_hf_file_metadata(url=hub.hf_hub_url(**asked))
        except (errors.HfHubHTTPError, errors.HTTPError, errors.OfflineModeIsEnabled) as error:
            answered = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 500
            if answered < 500 and answered != 429:
                raise
            with contextlib.suppress(errors.LocalEntryNotFoundError):
                return Path(hub.hf_hub_download(**asked, local_files_only=True))
            raise
        return Path(hub.hf_hub_download(**asked))


def upload(
    address: HubAddress,
    file: Path,
    *,
    card: str | None = None,
    private: bool | None = None,
    message: str | None = None,
) -> str:
    """Commit a model file, and its card (Markdown) as README.md, to a repository, which is created if missing.

    It is created only if the hub accepts the files. A revision is an existing branch. ``private`` creates a private
    repository, and does not upload to an existing public one; None is the account's default. Returns the repository's
    address in a browser.

    Raises:
        TrajWorldError: As :func:`download`; or there is no such branch, or the hub does not accept the files.
    """
    files: dict[str, Path | bytes] = {address.file: file}
    if card is not None:
        files["README.md"] = card.encode()
    with _client(address) as hub:
        api, page = hub.HfApi(), f"{hub.constants.ENDPOINT}/{address.repo}"
        try:
            there = api.model_info(address.repo, revision=address.revision)
            if private and not there.private:
                raise TrajWorldError(
                    f"{page} exists already and is public: make it private there, or leave out --private"
                )
        except hub.errors.RepositoryNotFoundError as error:
            # A branch cannot be created with the repository, which would stay empty.
            if isinstance(error, hub.errors.GatedRepoError) or address.revision is not None:
                raise
            if card is not None:
                _check_card(hub, card)
            page = str(api.create_repo(address.repo, private=private, exist_ok=True))
        api.create_commit(
            address.repo,
            [hub.CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=message or f"Upload {address.file}",
            revision=address.revision,
        )
    return page


def _check_card(hub: Any, card: str) -> None:
    """Ask the hub whether it accepts a card's front matter, as huggingface_hub does, before creating a repository."""
    answer = hub.utils.get_session().post(
        f"{hub.constants.ENDPOINT}/api/validate-yaml",
        json={"content": card, "repoType": "model"},
        headers=hub.utils.build_hf_headers(),
    )
    if answer.status_code == 400:
        problems = "; ".join(str(error["message"]) for error in answer.json()["errors"])
        raise ValueError(f"the hub does not accept the card's front matter: {problems}")
    hub.utils.hf_raise_for_status(answer)


def _guard_cache(hub: Any) -> None:
    """Refuse answers that would place a file outside the cache.

    huggingface_hub names the files and folders of its cache by what a server says in these headers, unchecked. No hub
    says anything but hashes there; the check stays on the client that this process shares.
    """
    client = hub.utils.get_session()
    hooks = client.event_hooks
    if _refuse_paths not in hooks["response"]:
        client.event_hooks = {**hooks, "response": [*hooks["response"], _refuse_paths]}


def _refuse_paths(response: Any) -> None:
    if "X-Repo-Commit" not in response.headers:
        return
    for header in ("X-Repo-Commit", "X-Linked-Etag", "ETag"):
        value = response.headers.get(header, "x").lstrip("W/").strip('"')
        if value in ("", ".", "..") or set(value) & set("/\\:\0"):
            raise TrajWorldError(
                f"{response.request.url.host} is refused: what it says of a file would lead out of the cache"
            )


@contextlib.contextmanager
def _client(address: HubAddress) -> Iterator[Any]:
    """Yield huggingface_hub, and turn what it raises into one line."""
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors, utils  # noqa: F401
    except ImportError:
        huggingface_hub = None
    if huggingface_hub is None or huggingface_hub.__version__.startswith("0."):
        raise TrajWorldError(
            "models on the Hugging Face hub need huggingface_hub 1.0 or newer: "
            f"{sys.executable} -m pip install -U huggingface_hub"
        )
    hub, page = constants.ENDPOINT, f"{constants.ENDPOINT}/{address.repo}"
    try:
        yield huggingface_hub
    except TrajWorldError:
        raise
    except Exception as error:
        said = str(getattr(error, "server_message", None) or error) or type(error).__name__
        text = " ".join(said.split())[:200]
        answered = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
        refusals = {
            401: f"{hub} requires a login: {_LOGIN}",
            403: f"your token may not do that at {hub}: {text}",
        }
        unreachable = f"{hub} cannot be reached ({text}), and the cache does not hold it"
        if constants.HF_HUB_OFFLINE:
            unreachable = "it is not in the cache, and HF_HUB_OFFLINE forbids fetching it"
        problems: list[tuple[Any, str]] = [
            (errors.GatedRepoError, f"it is gated: ask for access at {page}, then {_LOGIN}"),
            (errors.RepositoryNotFoundError, f"there is no repository {page}, or it is private: {_LOGIN}"),
            (errors.RevisionNotFoundError, f"{page} has no branch, tag or commit {address.revision}"),
            (errors.EntryNotFoundError, f"{page} holds no {address.file} there"),
            (errors.HfHubHTTPError, refusals.get(answered, f"{hub} answered {answered}: {text}")),
            ((errors.OfflineModeIsEnabled, errors.HTTPError, ConnectionError), unreachable),
            ((errors.FileMetadataError, errors.HFValidationError, OSError, ValueError), text),
            ((KeyError, TypeError), f"{hub} does not answer as a hub does ({text})"),
        ]
        for kind, problem in problems:
            if isinstance(error, kind):
                raise TrajWorldError(f"{address}: {problem}") from None
        raise
