"""The Hugging Face hub, played by a server on this machine: round trips, refusals, and one line for every mistake."""

import functools
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_hub import FakeHub
from model_file_fixtures import assert_equal
from training_fixtures import config_for, store

import trajworld
from trajworld.errors import TrajWorldError, UsageError
from trajworld.models.hub import hub_address
from trajworld.models.names import find_model
from trajworld.training.loop import train
from trajworld.training.run import resume_run, start_run

pytestmark = pytest.mark.once

constants = pytest.importorskip("huggingface_hub.constants")
SMALL = "trajworld-small"
ADDRESS = "hf://user/robots"


@functools.cache
def changed_model(factor: float) -> Any:
    model = trajworld.load(SMALL)
    model.set_weights([weight * factor for weight in model.get_weights()])
    return model


@pytest.mark.parametrize(
    ("text", "repo", "revision", "file"),
    [
        ("hf://user/repo", "user/repo", None, "model.keras"),
        ("hf://user/repo@v1.0", "user/repo", "v1.0", "model.keras"),
        ("hf://user/repo@feature%2Fx", "user/repo", "feature/x", "model.keras"),
        ("hf://user/repo@refs/pr/3", "user/repo", "refs/pr/3", "model.keras"),
        ("hf://user/repo@refs/pr/3/b.keras", "user/repo", "refs/pr/3", "b.keras"),
        ("hf://A-1/b_2.c/sub/best.keras", "A-1/b_2.c", None, "sub/best.keras"),
        ("hf://user/repo@main/sub/best.keras", "user/repo", "main", "sub/best.keras"),
    ],
)
def test_addresses(text: str, repo: str, revision: str | None, file: str) -> None:
    found = hub_address(text)
    assert (str(found), found.repo, found.revision, found.file) == (text, repo, revision, file)


NO_ADDRESSES = """hf:// hf://user hf://user/ hf:///repo hf://../repo hf://user/.. hf://user/../../etc/model.keras
    hf://user/repo/../model.keras hf://user/repo/a/../../model.keras hf://user/repo//model.keras
    hf://user/repo/./model.keras hf://user/repo/..\\model.keras hf://user/repo/c:\\model.keras
    hf://user/repo@../model.keras hf://user/repo@..%2F..%2Fx/model.keras hf://user/repo@%2Fetc hf://user/repo@a@b
    hf://user/repo/model.h5 hf://user/repo/model.pkl hf://user/repo@main/"""


@pytest.mark.parametrize("text", [*NO_ADDRESSES.split(), "hf://user/repo/a\nb.keras"])
def test_what_is_no_address_or_leads_elsewhere(text: str, hub: FakeHub) -> None:
    with pytest.raises(UsageError) as caught:
        find_model(text)
    assert "\n" not in str(caught.value)
    assert hub.requests == []


def test_a_model_is_fetched_once_a_newer_one_anew_and_an_older_one_by_its_commit(
    hub: FakeHub, hub_cache: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        assert_equal(trajworld.load(ADDRESS), changed_model(1.0))
    assert find_model(ADDRESS).is_relative_to(hub_cache)
    gets = [request for request in hub.requests if request.startswith("GET /user/")]
    assert gets == ["GET /user/robots/resolve/main/model.keras"]
    repository = hub.repositories["user/robots"]
    first = repository.branches["main"]
    trajworld.save(changed_model(2.0), tmp_path / "new.keras")
    repository.commit({"sub/other.keras": b"", "model.keras": (tmp_path / "new.keras").read_bytes()})
    assert_equal(trajworld.load(ADDRESS), changed_model(2.0))
    assert_equal(trajworld.load(f"{ADDRESS}@{first}"), changed_model(1.0))


def test_what_is_in_the_cache_needs_no_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = find_model(ADDRESS)
    hub.fault = 503
    assert find_model(ADDRESS) == path
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        before = len(hub.requests)
        assert find_model(ADDRESS) == path
        assert len(hub.requests) == before
        with pytest.raises(TrajWorldError, match="HF_HUB_OFFLINE forbids"):
            find_model(f"{ADDRESS}/other.keras")
    with pytest.raises(TrajWorldError, match="answered 503: the hub is out of order"):
        find_model(f"{ADDRESS}/other.keras")


def one_line(address: str) -> str:
    with pytest.raises(TrajWorldError, match=rf"\A{address}: .{{,250}}\Z") as caught:
        find_model(address)
    return str(caught.value)


def test_mistakes_are_one_line(hub: FakeHub, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("user/gated", {"model.keras": b""}, gated=True)
    hub.add("user/private", {"model.keras": b""}, private=True)
    assert "no repository" in one_line("hf://user/nothing")
    assert "has no branch, tag or commit v9" in one_line(f"{ADDRESS}@v9")
    assert "holds no other.keras" in one_line(f"{ADDRESS}/other.keras")
    assert "it is gated" in one_line("hf://user/gated")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "HF_TOKEN" in one_line("hf://user/private")
    hub.fault = 500
    assert "answered 500" in one_line("hf://user/more")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{filename}")
    assert "cannot be reached" in one_line("hf://user/more")
    assert not list(hub_cache.rglob("*.keras"))


def test_without_huggingface_hub_the_command_that_installs_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(TrajWorldError, match=r"-m pip install -U huggingface_hub$"):
        find_model(ADDRESS)
    assert find_model(SMALL).is_file()
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.__version__", "0.36.2")
    with pytest.raises(TrajWorldError, match=r"1\.0 or newer"):
        find_model(ADDRESS)


@pytest.mark.parametrize(
    ("header", "file"),
    [("ETag", "model"), ("X-Linked-Etag", "model"), ("X-Repo-Commit", "model"), ("X-Repo-Commit", "absent")],
)
@pytest.mark.parametrize("value", ["..", "a/../../../../evil", "{outside}/evil", "..\\..\\evil", "c:evil"])
def test_a_server_cannot_place_files_outside_the_cache(
    hub: FakeHub, hub_cache: Path, header: str, value: str, file: str
) -> None:
    """The client names files in its cache by these headers, for a file that is absent too."""
    value = value.format(outside=hub_cache.parent)
    hub.lies = {header: f'"{value}"' if header != "X-Repo-Commit" else value}
    with pytest.raises(TrajWorldError, match="would lead out of the cache"):
        find_model(f"{ADDRESS}/{file}.keras")
    assert set(os.listdir(hub_cache.parent)) <= {"hub"}
    assert not [path for path in hub_cache.rglob("*") if path.is_file()]


@pytest.mark.usefixtures("plain_steps")
def test_a_run_starts_from_the_hub_and_resumes_without_it(hub: FakeHub, tmp_path: Path) -> None:
    config = config_for("train", [store(tmp_path / "data")], init=ADDRESS)
    run = start_run(tmp_path / "run", config)
    assert f'init = "{ADDRESS}"' in (tmp_path / "run" / "config.toml").read_text()
    assert run.model.identity.history["init"]["file"] == ADDRESS
    np.testing.assert_equal(run.model.get_weights(), changed_model(1.0).get_weights())
    # Another model there is not silently another start; once there is a checkpoint, nothing is asked of the hub.
    trajworld.save(changed_model(2.0), tmp_path / "new.keras")
    hub.repositories["user/robots"].commit({"model.keras": (tmp_path / "new.keras").read_bytes()})
    with pytest.raises(TrajWorldError, match=r"hf://user/robots is not the model that .* began with"):
        resume_run(tmp_path / "run")
    train(run)
    hub.fault = 503
    assert resume_run(tmp_path / "run")[0].state.step == 12


def test_what_is_saved_to_the_hub_comes_back(hub: FakeHub) -> None:
    for address, factor in (("hf://user/mine", 0.5), ("hf://user/mine/sub/other.keras", 0.25)):
        trajworld.save(changed_model(factor), address)
        assert_equal(trajworld.load("hf://user/mine"), changed_model(0.5))
        assert_equal(trajworld.load(address), changed_model(factor))
    messages = ["initial commit", "Upload model.keras", "Upload sub/other.keras"]
    assert hub.repositories["user/mine"].messages == messages


def test_an_upload_that_is_not_allowed_is_one_line(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    model = changed_model(1.0)
    with pytest.raises(TrajWorldError, match=r"your token may not do that .*rights to create"):
        trajworld.save(model, "hf://other/mine")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(TrajWorldError, match="requires a login: log in with `hf auth login`"):
        trajworld.save(model, "hf://user/mine")
    assert set(hub.repositories) == {"user/robots"}
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(TrajWorldError, match=r"^hf://user/mine: http://127\.0\.0\.1:9 cannot be reached"):
        trajworld.save(model, "hf://user/mine")
