"""Models on the Hugging Face hub: addresses, downloads into its cache, uploads.

All traffic is huggingface_hub's: the token, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and the cache folder are those that it
documents. It is imported when an address is used, since it is an extra.
"""

import contextlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

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

    repo: str
    revision: str | None = None
    file: str = DEFAULT_FILE

    def __str__(self) -> str:
        revision = self.revision or ""
        if not revision.startswith("refs/pr/"):
            revision = quote(revision, safe="")
        file = "" if self.file == DEFAULT_FILE else f"/{self.file}"
        return f"{PREFIX}{self.repo}{'@' if revision else ''}{revision}{file}"


def hub_address(text: str) -> HubAddress:
    """The parts of ``hf://USER/REPO[@REVISION][/FILE.keras]``.

    Raises:
        UsageError: ``text`` is no such address, or leads out of the repository.
    """
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
    return HubAddress(found["repo"], revision, file)


def download(address: HubAddress) -> Path:
    """The file at an address, in the Hugging Face cache; fetched unless the cache holds its newest version.

    Raises:
        TrajWorldError: huggingface_hub is not installed, the hub cannot be reached and the cache lacks the file, or
            there is no such repository, revision or file, or none that this user may read.
    """
    hub = _client()
    from huggingface_hub import errors

    with _hub_errors(address):
        _guard_cache()
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
    """Commit a model file, and its card (Markdown) as README.md, to a repository that is made if it is not there.

    All that the hub can be asked before is asked before: a repository is made only for files that it will take. A
    revision is a branch that is there already. ``private`` makes a private repository, and does not upload to one that
    is there and public; None is for the account's default.

    Returns:
        The repository's address in a browser.

    Raises:
        TrajWorldError: huggingface_hub is not installed, the hub cannot be reached, there is no such branch, or the hub
            does not take the files.
    """
    hub = _client()
    from huggingface_hub import constants, errors

    files: dict[str, Path | bytes] = {address.file: file}
    if card is not None:
        files["README.md"] = card.encode()
    with _hub_errors(address):
        api, page = hub.HfApi(), f"{constants.ENDPOINT}/{address.repo}"
        try:
            there = api.model_info(address.repo, revision=address.revision)
            if private and not there.private:
                raise TrajWorldError(
                    f"{page} is there already and public: make it private there, or leave out --private"
                )
        except errors.GatedRepoError:
            raise
        except errors.RepositoryNotFoundError:
            # A branch cannot be made with the repository, which would stay empty.
            if address.revision is not None:
                raise
            if card is not None:
                _check_card(card)
            page = str(api.create_repo(address.repo, private=private, exist_ok=True))
        api.create_commit(
            address.repo,
            [hub.CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=message or f"Upload {address.file}",
            revision=address.revision,
        )
    return page


def _check_card(card: str) -> None:
    """Ask the hub whether it takes a card's front matter, as huggingface_hub does, but before a repository is made."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    answer = get_session().post(
        f"{constants.ENDPOINT}/api/validate-yaml",
        json={"content": card, "repoType": "model"},
        headers=build_hf_headers(),
    )
    if answer.status_code == 400:
        problems = "; ".join(str(error["message"]) for error in answer.json()["errors"])
        raise ValueError(f"the hub does not take the card's front matter: {problems}")
    hf_raise_for_status(answer)


def _client() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        which = "huggingface_hub"
    else:
        if int(huggingface_hub.__version__.partition(".")[0]) >= 1:
            return huggingface_hub
        which = "a newer huggingface_hub"
    raise TrajWorldError(
        f"models on the Hugging Face hub need {which}: {sys.executable} -m pip install -U huggingface_hub"
    )


def _guard_cache() -> None:
    """Refuse answers that would place a file outside the cache.

    huggingface_hub names the files and folders of its cache by what a server says in these headers, unchecked. No hub
    says anything but hashes there; the check stays on the client that this process shares.
    """
    from huggingface_hub.utils import get_session

    client = get_session()
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
def _hub_errors(address: HubAddress) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line."""
    from huggingface_hub import constants, errors

    hub, page = constants.ENDPOINT, f"{constants.ENDPOINT}/{address.repo}"
    try:
        yield
    except TrajWorldError:
        raise
    except Exception as error:
        text = (
            " ".join(str(getattr(error, "server_message", None) or error).split())[:200]
            or type(error).__name__
        )
        answered = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
        refusals = {
            401: f"{hub} wants to know who you are: {_LOGIN}",
            403: f"your token may not do that at {hub}: {text}",
        }
        unreachable = (
            "it is not in the cache, and HF_HUB_OFFLINE forbids to fetch it"
            if constants.HF_HUB_OFFLINE
            else f"{hub} cannot be reached ({text}), and the cache does not hold it"
        )
        said: list[tuple[Any, str]] = [
            (errors.GatedRepoError, f"it is gated: ask for access at {page}, then {_LOGIN}"),
            (errors.RepositoryNotFoundError, f"there is no repository {page}, or it is private: {_LOGIN}"),
            (errors.RevisionNotFoundError, f"{page} has no branch, tag or commit {address.revision}"),
            (errors.EntryNotFoundError, f"{page} holds no {address.file} there"),
            (errors.OfflineModeIsEnabled, unreachable),
            (errors.HfHubHTTPError, refusals.get(answered, f"{hub} answered {answered}: {text}")),
            ((errors.HTTPError, ConnectionError), unreachable),
            ((errors.FileMetadataError, errors.HFValidationError, OSError, ValueError), text),
            ((KeyError, TypeError), f"{hub} does not answer as a hub does ({text})"),
        ]
        problem = next((problem for kind, problem in said if isinstance(error, kind)), None)
        if problem is None:
            raise
        raise TrajWorldError(f"{address}: {problem}") from None
