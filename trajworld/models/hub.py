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
from types import ModuleType
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
    """Where a model is on the hub.

    Attributes:
        repo: ``USER/REPO``.
        revision: A branch, tag or commit; None for the main branch.
        file: The model file's path in the repository.
    """

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
    from huggingface_hub.errors import LocalEntryNotFoundError

    with _hub_errors(address):
        _guard_cache()
        asked = {"repo_id": address.repo, "filename": address.file, "revision": address.revision}
        try:
            # Asked for once and without huggingface_hub's retries, which take half a minute where there is no network.
            hub.HfApi().get_hf_file_metadata(url=hub.hf_hub_url(**asked))
        except Exception as error:
            if not _may_be_cached(error):
                raise
            try:
                return Path(hub.hf_hub_download(**asked, local_files_only=True))
            except LocalEntryNotFoundError:
                raise error from None
        return Path(hub.hf_hub_download(**asked))


def upload(
    address: HubAddress,
    file: Path,
    *,
    card: str | None = None,
    private: bool | None = None,
    message: str | None = None,
) -> str:
    """Commit a model file, and its card as README.md, to a repository that is made if it is not there.

    All that the hub can be asked before is asked before: a repository is made only for files that it will take.

    Args:
        address: Where to; its revision is a branch that is there already, of a repository that is.
        file: The model file, whatever it is called here.
        card: Markdown; None leaves the repository's README.md alone.
        private: Whether a repository that is made is private; None for the account's default. True does not upload to
            one that is there and public.
        message: Of the commit.

    Returns:
        The repository's address in a browser.

    Raises:
        TrajWorldError: huggingface_hub is not installed, the hub cannot be reached, there is no such branch, or the hub
            does not take the files.
    """
    hub = _client()
    files: dict[str, Path | bytes] = {address.file: file}
    if card is not None:
        files["README.md"] = card.encode()
    with _hub_errors(address):
        from huggingface_hub import constants

        api, page = hub.HfApi(), f"{constants.ENDPOINT}/{address.repo}"
        there = _repository(api, address)
        if there is None:
            if card is not None:
                _check_card(card, constants)
            page = str(api.create_repo(address.repo, private=private, exist_ok=True))
        elif private and not there.private:
            raise TrajWorldError(
                f"{page} is there already and public: make it private there, or leave out --private"
            )
        api.create_commit(
            address.repo,
            [hub.CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=message or f"Upload {address.file}",
            revision=address.revision,
        )
    return page


def _repository(api: Any, address: HubAddress) -> Any:
    """What the hub says of a repository; None where it is to be made, or not for this user to see.

    A revision must be there: a branch that is not cannot be made with the repository, which would stay empty.
    """
    from huggingface_hub import errors

    try:
        return api.model_info(address.repo, revision=address.revision)
    except errors.GatedRepoError:
        raise
    except errors.RepositoryNotFoundError:
        if address.revision is not None:
            raise
        return None


def _check_card(card: str, constants: ModuleType) -> None:
    """Ask the hub whether it takes a card's front matter, as huggingface_hub does, but when a repository is made.

    Raises:
        ValueError: It does not.
    """
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
        found = None
    else:
        found = huggingface_hub.__version__
    if found is None or int(found.partition(".")[0]) < 1:
        which = "huggingface_hub" if found is None else "a newer huggingface_hub"
        raise TrajWorldError(
            f"models on the Hugging Face hub need {which}: {sys.executable} -m pip install -U huggingface_hub"
        )
    return huggingface_hub


def _may_be_cached(error: Exception) -> bool:
    """Whether the hub could not be asked: offline, unreachable or out of order, rather than with a no for an answer."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return isinstance(error, errors.HTTPError | errors.OfflineModeIsEnabled)


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

    page = f"{constants.ENDPOINT}/{address.repo}"
    try:
        yield
    except errors.GatedRepoError:
        problem = f"it is gated: ask for access at {page}, then {_LOGIN}"
    except errors.RepositoryNotFoundError:
        problem = f"there is no repository {page}, or it is private: {_LOGIN}"
    except errors.RevisionNotFoundError:
        problem = f"{page} has no branch, tag or commit {address.revision}"
    except errors.EntryNotFoundError:
        problem = f"{page} holds no {address.file} there"
    except errors.OfflineModeIsEnabled as error:
        problem = _unreachable(error, constants)
    except errors.HfHubHTTPError as error:
        problem = _answered(error, constants)
    except (errors.HTTPError, ConnectionError) as error:
        problem = _unreachable(error, constants)
    except (errors.FileMetadataError, errors.HFValidationError, OSError, ValueError) as error:
        problem = _on_one_line(error)
    except (KeyError, TypeError) as error:
        problem = f"{constants.ENDPOINT} does not answer as a hub does ({_on_one_line(error)})"
    else:
        return
    raise TrajWorldError(f"{address}: {problem}") from None


def _answered(error: Any, constants: ModuleType) -> str:
    """What a server said that answered, but not as asked."""
    code = error.response.status_code
    if code == 401:
        return f"{constants.ENDPOINT} wants to know who you are: {_LOGIN}"
    if code == 403:
        return f"your token may not do that at {constants.ENDPOINT}: {_on_one_line(error.server_message or error)}"
    return f"{constants.ENDPOINT} answered {code}: {_on_one_line(error.server_message or error)}"


def _unreachable(error: Any, constants: ModuleType) -> str:
    if constants.HF_HUB_OFFLINE:
        return "it is not in the cache, and HF_HUB_OFFLINE forbids to fetch it"
    return f"{constants.ENDPOINT} cannot be reached ({_on_one_line(error)}), and the cache does not hold it"


def _on_one_line(error: Any) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
