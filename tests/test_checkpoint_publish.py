"""``trajworld checkpoint list``, ``card`` and ``push``, and ``show`` of a model of many environments."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub, cache, hub
from model_file_fixtures import assert_equal
from training_fixtures import config_for, plain_steps, store

import trajworld
from trajworld.collect.corpus_table import read_table
from trajworld.models.files import save_model
from trajworld.models.identity import DatasetRange, Identity
from trajworld.models.ranges import training_support
from trajworld.models.sizes import TrajWorldSizes
from trajworld.models.trajworld import TrajWorld
from trajworld.training.loop import train
from trajworld.training.run import start_run
from trajworld.weights import shipped_models

pytestmark = pytest.mark.once

__all__ = ["cache", "hub", "plain_steps"]

SMALL = "trajworld-small"


@pytest.fixture
def run(command: Any) -> Any:
    return functools.partial(command, "checkpoint")


@pytest.fixture
def trained(tmp_path: Path, plain_steps: Any) -> Path:
    """A finished run."""
    train(start_run(tmp_path / "run", config_for("pretrain", [store(tmp_path / "data")])))
    return tmp_path / "run"


def test_list_names_what_ships(run: Any) -> None:
    code, out, err = run("list")
    assert (code, err) == (0, "")
    model = trajworld.load(SMALL)
    assert any(SMALL in line and f"{model.count_params():,}" in line for line in out.splitlines())
    code, out, _ = run("list", "--json")
    (found,) = [one for one in json.loads(out) if one["name"] == SMALL]
    assert found["parameters"] == model.count_params()
    assert found["bytes"] == shipped_models()[SMALL].stat().st_size


def test_show_stays_readable_with_the_whole_corpus(tmp_path: Path, run: Any) -> None:
    rows = [row for row in read_table() if row.role == "pre-train"]
    sources = []
    for row in rows:
        support = training_support([0.0] * row.num_variates, [1.0] * row.num_variates)
        sources.append(DatasetRange(f"corpus/{row.environment}", row.environment, "1234", support))
    names = [source.dataset for source in sources]
    history = {"datasets": names, "init": {"file": "best.keras", "history": {"datasets": names}}}
    identity = Identity(sources=tuple(sources), history=history)
    save_model(
        TrajWorld(TrajWorldSizes(blocks=1, width=8, heads=2, bins=16), identity), tmp_path / "model.keras"
    )
    code, out, err = run("show", tmp_path / "model.keras")
    assert (code, err) == (0, "")
    assert len(rows) > 100
    assert len(out.splitlines()) < 40
    assert f"{len(rows)} in all: " in out
    for source in {row.source for row in rows}:
        counts = [row.num_variates for row in rows if row.source == source]
        (line,) = [line for line in out.splitlines() if f"│ {source} " in line]
        expected = f"{len(counts)}", f"{min(counts)} – {max(counts)}", f"{len(set(counts))}"
        assert tuple(cell.strip() for cell in line.split("│")[2:5]) == expected
    _, out, _ = run("show", tmp_path / "model.keras", "--json")
    assert [source["dataset"] for source in json.loads(out)["sources"]] == names


def test_push_and_load_give_the_same_weights_and_the_card(
    hub: FakeHub, trained: Path, run: Any, tmp_path: Path
) -> None:
    code, out, err = run("push", trained / "best.keras", "hf://user/mine", "--message", "First try")
    assert code == 0, err
    assert f"{hub.url}/user/mine: model.keras, README.md" in out
    held = hub.repositories["user/mine"]
    assert held.messages[-1] == "First try"
    assert held.commits[-1]["model.keras"] == (trained / "best.keras").read_bytes()
    assert b'trajworld.load("hf://user/mine")' in held.commits[-1]["README.md"]
    assert_equal(trajworld.load(trained / "best.keras"), trajworld.load("hf://user/mine"))
    # A second time, with a card that names another model and to another file.
    card = tmp_path / "OWN.md"
    assert run("card", trained, "--name", "hf://user/robots", "-o", card)[:2] == (0, "")
    assert 'trajworld.load("hf://user/robots")' in card.read_text()
    code, out, _ = run("push", trained / "last.keras", "hf://user/mine/last.keras", "--card", card, "--json")
    assert json.loads(out) == {
        "address": "hf://user/mine/last.keras",
        "page": f"{hub.url}/user/mine",
        "files": ["last.keras", "README.md"],
    }
    assert held.commits[-1].keys() == {".gitattributes", "model.keras", "last.keras", "README.md"}
    assert held.commits[-1]["README.md"] == card.read_bytes()


def test_a_second_model_leaves_the_card_alone(hub: FakeHub, trained: Path, run: Any) -> None:
    held = hub.add("user/mine", {"README.md": b"# Written by hand\n"})
    code, out, err = run("push", trained / "best.keras", "hf://user/mine/sub/best.keras")
    assert code == 0, err
    assert "sub/best.keras (without a card: --card takes one)" in " ".join(out.split())
    assert held.commits[-1]["README.md"] == b"# Written by hand\n"
    code, _, err = run("push", trained / "best.keras", "hf://user/mine/other.keras", "--license", "mit")
    assert code == 2
    assert "--license goes into a card that is made for model.keras" in err


def test_a_branch_must_be_there_before_anything_is_made(hub: FakeHub, trained: Path, run: Any) -> None:
    held = hub.add("user/mine", {"x": b""})
    for repo, said in (("new", "there is no repository"), ("mine", "has no branch, tag or commit feature")):
        code, out, err = run("push", trained / "best.keras", f"hf://user/{repo}@feature")
        assert (code, out) == (1, "")
        assert said in err
    assert set(hub.repositories) == {"user/robots", "user/mine"}
    assert len(held.commits) == 1
    held.branches["feature/x"] = 0
    code, _, err = run("push", trained / "best.keras", "hf://user/mine@feature%2Fx")
    assert code == 0, err
    assert "model.keras" in held.commits[held.branches["feature/x"]]
    assert held.branches["main"] == 0


def test_the_card_is_checked_first_and_a_shipped_one_goes_with_its_model(
    hub: FakeHub, trained: Path, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run("push", trained / "best.keras", "hf://user/mine", "--license", "unheard-of")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert '"license" must be one of' in err
    assert set(hub.repositories) == {"user/robots"}
    assert run("push", trained / "best.keras", "hf://user/mine", "--license", "mit")[0] == 0
    assert b"license: mit\n" in hub.repositories["user/mine"].commits[-1]["README.md"]
    (tmp_path / "shipped.md").write_text("# Shipped\n")
    monkeypatch.setattr("trajworld.card.card.shipped_card", lambda name: tmp_path / "shipped.md")
    assert run("push", SMALL, "hf://user/copy")[0] == 0
    held = hub.repositories["user/copy"].commits[-1]
    assert held["README.md"] == b"# Shipped\n"
    assert held["model.keras"] == shipped_models()[SMALL].read_bytes()


def test_private_means_private(hub: FakeHub, run: Any, tmp_path: Path) -> None:
    file = tmp_path / "model.keras"
    file.write_bytes(shipped_models()[SMALL].read_bytes())
    code, out, err = run("push", file, "hf://user/secret", "--private")
    assert code == 0, err
    assert hub.repositories["user/secret"].private
    assert "without a card" in out
    code, _, _ = run("push", file, "hf://user/secret", "--private")
    assert code == 0
    before = len(hub.repositories["user/robots"].commits)
    code, out, err = run("push", file, "hf://user/robots", "--private")
    assert (code, out) == (1, "")
    assert "is there already and public" in err
    assert len(hub.repositories["user/robots"].commits) == before


def test_mistakes_end_in_one_line_and_upload_nothing(
    hub: FakeHub, trained: Path, run: Any, tmp_path: Path
) -> None:
    (tmp_path / "cut.keras").write_bytes(shipped_models()[SMALL].read_bytes()[:9000])
    (tmp_path / "binary.md").write_bytes(b"\xff\xfe\x00")
    before = hub.requests.copy()
    for code, said, arguments in (
        (2, "'user/mine' is not an address", ["push", SMALL, "user/mine"]),
        (2, "is refused", ["push", SMALL, "hf://user/mine/../x.keras"]),
        (2, "no model that ships", ["push", "trajworld-huge", "hf://user/mine"]),
        (1, "does not exist", ["push", "none.keras", "hf://user/mine"]),
        (1, "damaged or cut short", ["push", tmp_path / "cut.keras", "hf://user/mine"]),
        (1, "No such file", ["push", SMALL, "hf://user/mine", "--card", tmp_path / "none.md"]),
        (1, "it is no text", ["push", SMALL, "hf://user/mine", "--card", tmp_path / "binary.md"]),
        (2, "--license goes into", ["push", SMALL, "hf://user/x", "--license", "mit", "--card", "x.md"]),
        (2, "no card is made", ["push", SMALL, "hf://user/mine", "--license", "mit"]),
        (2, "a licence is named", ["card", trained, "--license", "a b", "-o", tmp_path / "CARD.md"]),
        (2, "does not end in .md", ["card", trained, "-o", tmp_path / "CARD.txt"]),
        (2, "is not a run directory", ["card", tmp_path, "-o", tmp_path / "CARD.md"]),
        (1, "does not exist", ["card", trained, "--study", tmp_path, "-o", tmp_path / "CARD.md"]),
        (2, "by --study", ["card", trained, "--zero-shot", tmp_path, "-o", tmp_path / "CARD.md"]),
    ):
        found, out, err = run(*arguments)
        assert (found, out) == (code, ""), (arguments, err)
        assert said in err
        assert err.count("\n") == 1, err
    assert hub.requests == before
    assert not (tmp_path / "CARD.md").exists()
    assert set(hub.repositories) == {"user/robots"}
