"""A Hugging Face hub on this machine for the tests: as much of its HTTP interface as downloads and uploads need."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from trajworld.weights import shipped_models

TOKEN = "hf_of_the_tests"


@dataclass
class Repository:
    """The files at each commit, oldest first, the commits' messages, and the commit of each branch."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], message: str = "", branch: str = "main") -> str:
        name = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[name] = {**(self.files(branch) if branch in self.branches else {}), **files}
        self.messages.append(message)
        self.branches[branch] = name
        return name

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]


@dataclass
class FakeHub:
    """What the server holds, and what it was asked."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)  # METHOD /path of each.
    lies: dict[str, str] = field(
        default_factory=dict
    )  # Headers that replace true ones in answers about files.
    fault: int = 0  # An HTTP status with which every request is answered.

    def add(self, repo: str, files: dict[str, bytes], **options: Any) -> Repository:
        self.repositories[repo] = Repository(**options)
        self.repositories[repo].commit(files, "initial commit")
        return self.repositories[repo]


@pytest.fixture
def hub_cache(tmp_path: Path) -> Path:
    """The only folder that a download may write to; nothing else is in its parent."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home" / "hub"


@pytest.fixture
def hub(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that holds user/robots with the shipped model, and a user who is logged in."""
    constants = pytest.importorskip("huggingface_hub.constants")
    held = FakeHub()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, held)) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        held.url = f"http://127.0.0.1:{server.server_address[1]}"
        # huggingface_hub reads these from the environment once, when it is imported.
        template = held.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in (
            ("ENDPOINT", held.url),
            ("HUGGINGFACE_CO_URL_TEMPLATE", template),
            ("HF_HUB_CACHE", str(hub_cache)),
            ("HF_TOKEN_PATH", str(hub_cache / "no-token")),
            ("HF_HUB_OFFLINE", False),
        ):
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        held.add("user/robots", {"model.keras": shipped_models()["trajworld-small"].read_bytes()})
        yield held
        server.shutdown()


class _Refusal(Exception):
    """An HTTP status, the hub's name of the error, its message, and perhaps further headers."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: FakeHub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        try:
            code, (content, headers) = (
                200,
                self._answer([unquote(part) for part in path[1:].split("/")], body),
            )
        except _Refusal as refusal:
            code, name, message, *more = refusal.args
            content = json.dumps({"errors": [{"message": message}]}).encode()
            headers = {"X-Error-Code": name, "X-Error-Message": message, **dict(*more)}
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_POST = do_GET

    def _answer(self, parts: list[str], body: bytes) -> tuple[bytes, dict[str, str]]:
        if self.hub.fault:
            raise _Refusal(self.hub.fault, "", "the hub is out of order")
        if parts[2:3] == ["resolve"]:
            return self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        found: Any = {}
        if parts[:2] == ["api", "models"]:
            found = self._model("/".join(parts[2:4]), *[*parts[4:], "", "main"][:2], body)
        elif parts[1:] == ["repos", "create"]:
            found = self._create(json.loads(body))
        elif b"license: unheard-of" in body:  # Of a card that the client asks the hub to check.
            raise _Refusal(400, "", '"license" must be one of [mit, apache-2.0]')
        return json.dumps(found).encode(), {"Content-Type": "application/json"}

    @property
    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _find(self, name: str, revision: str) -> tuple[Repository, str]:
        """A repository, and the commit of a branch or hash."""
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self._known):
            raise _Refusal(401 if repository else 404, "RepoNotFound", "Repository not found")
        if repository.gated:
            raise _Refusal(403, "GatedRepo", f"Access to model {name} is restricted")
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit

    def _file(self, name: str, revision: str, path: str) -> tuple[bytes, dict[str, str]]:
        repository, commit = self._find(name, revision)
        content = repository.commits[commit].get(path)
        headers = {"X-Repo-Commit": commit, **self.hub.lies}
        if content is None:
            raise _Refusal(404, "EntryNotFound", "Entry not found", headers)
        return content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', **headers}

    def _create(self, asked: dict[str, Any]) -> dict[str, str]:
        if not self._known:
            raise _Refusal(401, "", "Invalid username or password.")
        if asked["organization"] != "user":
            raise _Refusal(403, "", "You don't have the rights to create a model under this namespace")
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.add(f"user/{asked['name']}", {".gitattributes": b""}, private=private)
        return {"url": f"{self.hub.url}/user/{asked['name']}"}

    def _model(self, name: str, verb: str, revision: str, body: bytes) -> dict[str, Any]:
        repository, commit = self._find(name, revision)
        if self.command == "GET":
            return {"id": name, "sha": commit, "private": repository.private, "tags": [], "siblings": []}
        records = [json.loads(line) for line in body.splitlines()]
        if verb == "preupload":  # All files go up as regular ones: no LFS is served.
            kind = {"uploadMode": "regular", "shouldIgnore": False}
            return {"files": [{"path": file["path"], **kind} for file in records[0]["files"]]}
        header, *files = (record["value"] for record in records)
        contents = {file["path"]: base64.b64decode(file["content"]) for file in files}
        commit = repository.commit(contents, header["summary"], revision)
        return {"success": True, "commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit}
