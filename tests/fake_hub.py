"""A Hugging Face hub of one thread for the tests: as much of its HTTP interface as downloads and uploads need.

Files go up as regular ones: no LFS is served.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from trajworld.weights import shipped_models

TOKEN = "hf_of_the_tests"


@dataclass
class Repository:
    """Commits, oldest first: the files at each by path."""

    private: bool = False
    gated: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    branches: dict[str, int] = field(default_factory=lambda: {"main": -1})

    def commit(self, files: dict[str, bytes], message: str = "", branch: str = "main") -> str:
        number = self.branches[branch]
        self.commits.append({**(self.commits[number] if number >= 0 else {}), **files})
        self.messages.append(message)
        self.branches[branch] = len(self.commits) - 1
        return self.hash(self.branches[branch])

    def hash(self, number: int) -> str:
        return hashlib.sha1(f"{number}".encode()).hexdigest()

    def number(self, revision: str) -> int | None:
        hashes = {self.hash(number): number for number in range(len(self.commits))}
        return self.branches.get(revision, hashes.get(revision))


class FakeHub:
    """What the server holds, and what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []  # METHOD /path of each.
        self.lies: dict[str, str] = {}  # Headers that replace true ones in answers about files.
        self.fault = 0  # An HTTP status with which every request is answered.

    def add(self, repo: str, files: dict[str, bytes], **options: Any) -> Repository:
        self.repositories[repo] = Repository(**options)
        self.repositories[repo].commit(files)
        return self.repositories[repo]


@contextmanager
def serve() -> Iterator[FakeHub]:
    """Run a hub on a free port of this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.hub = hub = FakeHub(f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The only folder that a download may write to; nothing else is in its parent."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home" / "hub"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that holds user/robots with the shipped model, and a user who is logged in."""
    constants = pytest.importorskip("huggingface_hub.constants")
    # huggingface_hub reads these from the environment once, when it is imported.
    with serve() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        server.add("user/robots", {"model.keras": shipped_models()["trajworld-small"].read_bytes()})
        yield server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> FakeHub:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if self.hub.fault:
            self._fail(self.hub.fault, "", "the hub is out of order")
        elif parts[:2] == ["api", "validate-yaml"]:
            # What the hub says of a licence that it does not know.
            unknown = "license: unheard-of" in json.loads(body)["content"]
            errors = [{"message": '"license" must be one of [mit, …]'}] if unknown else []
            self._json({"errors": errors, "warnings": []}, 400 if errors else 200)
        elif parts[:3] == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:], body)
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), unquote(parts[3]), unquote("/".join(parts[4:])))
        else:
            self._fail(404, "", "no such page")

    do_HEAD = do_POST = do_GET

    @property
    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, name: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self._known):
            self._fail(401 if repository is not None else 404, "RepoNotFound", "Repository not found")
            return None
        if repository.gated:
            self._fail(403, "GatedRepo", f"Access to model {name} is restricted")
            return None
        return repository

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        number = repository.number(revision)
        if number is None:
            return self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit = {"X-Repo-Commit": repository.hash(number)}
        content = repository.commits[number].get(path)
        if content is None:
            return self._fail(404, "EntryNotFound", "Entry not found", {**commit, **self.hub.lies})
        headers = {**commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"', **self.hub.lies}
        self._answer(200, content, headers)

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if not self._known:
            return self._fail(401, "", "Invalid username or password.")
        if asked["organization"] != "user":
            return self._fail(403, "", "You don't have the rights to create a model under this namespace")
        if name in self.hub.repositories:
            error = {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}
            return self._json(error, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repositories[name] = Repository(private=private)
        self.hub.repositories[name].commit({".gitattributes": b""}, "initial commit")
        self._json({"url": f"{self.hub.url}/{name}"})

    def _api(self, name: str, rest: list[str], body: bytes) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        verb, encoded = [*rest, "", ""][:2]
        revision = unquote(encoded) or "main"
        if repository.number(revision) is None:
            return self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if self.command == "GET":
            found = {"id": name, "sha": repository.hash(repository.number(revision) or 0)}
            return self._json({**found, "private": repository.private, "tags": [], "siblings": []})
        if not self._known:
            return self._fail(401, "", "Invalid username or password.")
        if verb == "preupload":
            asked = json.loads(body)["files"]
            kind = {"uploadMode": "regular", "shouldIgnore": False}
            return self._json({"files": [{"path": file["path"], **kind} for file in asked]})
        files, message = {}, ""
        for line in body.splitlines():
            record = json.loads(line)
            if record["key"] == "header":
                message = record["value"]["summary"]
            elif record["key"] == "file" and record["value"]["encoding"] == "base64":
                files[record["value"]["path"]] = base64.b64decode(record["value"]["content"])
            else:
                return self._fail(400, "", f"this hub takes no {record['key']}")
        commit = repository.commit(files, message, revision)
        page = f"{self.hub.url}/{name}/commit/{commit}"
        self._json({"success": True, "commitUrl": page, "commitOid": commit})

    def _json(self, value: Any, code: int = 200) -> None:
        self._answer(code, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _fail(self, code: int, name: str, message: str, headers: dict[str, str] | None = None) -> None:
        named = {"X-Error-Code": name} if name else {}
        self._answer(code, b"", {**named, "X-Error-Message": message, **(headers or {})})

    def _answer(self, code: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
