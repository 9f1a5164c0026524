"""``trajworld checkpoint``: import, show, list, card and push; mistakes end in one line and leave nothing."""

import functools
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub
from model_file_fixtures import assert_equal
from training_fixtures import config_for, store

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

SMALL = "trajworld-small"
SIZES = TrajWorldSizes(blocks=1, width=8, heads=2, bins=16)


@pytest.fixture
def run(command: Any) -> Any:
    return functools.partial(command, "checkpoint")


@pytest.fixture
def trained(tmp_path: Path, plain_steps: Any) -> Path:
    """A finished run."""
    train(start_run(tmp_path / "run", config_for("pretrain", [store(tmp_path / "data")])))
    return tmp_path / "run"


def test_show_prints_what_a_person_asks_for(tmp_path: Path, run: Any) -> None:
    identity = Identity(
        training_support([0.0, -1.0, 0.25, 0.5], [1.0, 2.0, 0.5, 0.75]),
        environment="gymnasium/[red]Toy\x1b[2J",
        observation_size=2,
        action_size=1,
        history={"steps": 700, "versions": {"keras": "3.99"}},
    )
    model = TrajWorld(SIZES, identity)
    save_model(model, tmp_path / "model.keras")
    code, out, err = run("show", tmp_path / "model.keras")
    assert (code, err) == (0, "")
    # What a file says is neither markup nor a command to the terminal.
    for words in ("blocks 1, width 8", "observation 1", "reward", "keras 3.99", "gymnasium/[red]Toy\\x1b[2J"):
        assert words in out
    assert "\x1b[2J" not in out
    described = json.loads(run("show", tmp_path / "model.keras", "--json")[1])
    assert (described["observation_size"], described["parameters"]) == (2, model.count_params())


def test_show_stays_readable_with_the_whole_corpus(tmp_path: Path, run: Any) -> None:
    rows = [row for row in read_table() if row.role == "pre-train"]
    sources = []
    for row in rows:
        support = training_support([0.0] * row.num_variates, [1.0] * row.num_variates)
        sources.append(DatasetRange(f"corpus/{row.environment}", row.environment, "1234", support))
    names = [source.dataset for source in sources]
    history = {"datasets": names, "init": {"file": "best.keras", "history": {"datasets": names}}}
    identity = Identity(sources=tuple(sources), history=history)
    save_model(TrajWorld(SIZES, identity), tmp_path / "model.keras")
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


def test_list_names_what_ships(run: Any) -> None:
    code, out, err = run("list")
    assert (code, err) == (0, "")
    parameters = trajworld.load(SMALL).count_params()
    assert any(SMALL in line and f"{parameters:,}" in line for line in out.splitlines())
    (found,) = [one for one in json.loads(run("list", "--json")[1]) if one["name"] == SMALL]
    assert found["parameters"] == parameters
    assert found["bytes"] == shipped_models()[SMALL].stat().st_size


def test_push_and_load_give_the_same_weights_and_the_card(
    hub: FakeHub, trained: Path, run: Any, tmp_path: Path
) -> None:
    words = ["hf://user/mine", "--message", "First try", "--license", "mit"]
    code, out, err = run("push", trained / "best.keras", *words)
    assert code == 0, err
    assert f"{hub.url}/user/mine: model.keras, README.md" in out
    held = hub.repositories["user/mine"]
    assert held.messages[-1] == "First try"
    assert held.files()["model.keras"] == (trained / "best.keras").read_bytes()
    for words in (b'trajworld.load("hf://user/mine")', b"license: mit\n"):
        assert words in held.files()["README.md"]
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
    assert held.files().keys() == {".gitattributes", "model.keras", "last.keras", "README.md"}
    assert held.files()["README.md"] == card.read_bytes()
    # A further file takes no card, and leaves the one that is there alone.
    code, out, _ = run("push", trained / "best.keras", "hf://user/mine/sub/best.keras")
    assert "sub/best.keras (without a card: --card takes one)" in " ".join(out.split())
    assert held.files()["README.md"] == card.read_bytes()


def test_a_branch_must_be_there_before_anything_is_made(hub: FakeHub, run: Any) -> None:
    held = hub.add("user/mine", {"x": b""})
    for repo, said in (("new", "there is no repository"), ("mine", "has no branch, tag or commit feature")):
        code, out, err = run("push", SMALL, f"hf://user/{repo}@feature")
        assert (code, out) == (1, "")
        assert said in err
    assert set(hub.repositories) == {"user/robots", "user/mine"}
    assert len(held.commits) == 1
    held.branches["feature/x"] = held.branches["main"]
    code, _, err = run("push", SMALL, "hf://user/mine@feature%2Fx")
    assert code == 0, err
    assert "model.keras" in held.files("feature/x")
    assert held.files() == {"x": b""}


def test_a_shipped_model_goes_with_its_own_card(
    hub: FakeHub, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shipped.md").write_text("# Shipped\n")
    monkeypatch.setattr("trajworld.card.card.shipped_card", lambda name: tmp_path / "shipped.md")
    assert run("push", SMALL, "hf://user/copy")[0] == 0
    held = hub.repositories["user/copy"].files()
    assert held["README.md"] == b"# Shipped\n"
    assert held["model.keras"] == shipped_models()[SMALL].read_bytes()


def test_private_means_private(hub: FakeHub, run: Any, tmp_path: Path) -> None:
    file = shutil.copy(shipped_models()[SMALL], tmp_path / "model.keras")
    for _ in range(2):
        code, out, err = run("push", file, "hf://user/secret", "--private")
        assert code == 0, err
        assert "without a card" in out
        assert hub.repositories["user/secret"].private
    code, out, err = run("push", file, "hf://user/robots", "--private")
    assert (code, out) == (1, "")
    assert "exists already and is public" in err
    assert len(hub.repositories["user/robots"].commits) == 1


def test_wrong_uploads_and_cards_end_in_one_line_and_make_nothing(
    hub: FakeHub, trained: Path, run: Any, tmp_path: Path
) -> None:
    (tmp_path / "cut.keras").write_bytes(shipped_models()[SMALL].read_bytes()[:9000])
    (tmp_path / "binary.md").write_bytes(b"\xff\xfe\x00")
    best, card = trained / "best.keras", tmp_path / "CARD.md"
    for code, said, arguments in (
        (2, "'user/mine' is not an address", ["push", SMALL, "user/mine"]),
        (2, "is refused", ["push", SMALL, "hf://user/mine/../x.keras"]),
        (2, "no model that ships", ["push", "trajworld-huge", "hf://user/mine"]),
        (1, "does not exist", ["push", "none.keras", "hf://user/mine"]),
        (1, "damaged or cut short", ["push", tmp_path / "cut.keras", "hf://user/mine"]),
        (1, "No such file", ["push", SMALL, "hf://user/mine", "--card", tmp_path / "none.md"]),
        (1, "it is not text", ["push", SMALL, "hf://user/mine", "--card", tmp_path / "binary.md"]),
        (2, "--license goes into", ["push", SMALL, "hf://user/x", "--license", "mit", "--card", "x.md"]),
        (2, "made for model.keras", ["push", best, "hf://user/x/other.keras", "--license", "mit"]),
        (2, "has no card to name a licence in", ["push", SMALL, "hf://user/mine", "--license", "mit"]),
        (2, "a licence is named", ["card", trained, "--license", "a b", "-o", card]),
        (2, "does not end in .md", ["card", trained, "-o", tmp_path / "CARD.txt"]),
        (2, "is not a run directory", ["card", tmp_path, "-o", card]),
        (1, "does not exist", ["card", trained, "--study", tmp_path, "-o", card]),
        (1, '"license" must be one of', ["push", best, "hf://user/mine", "--license", "unheard-of"]),
    ):
        assert not hub.requests
        found, out, err = run(*arguments)
        assert (found, out) == (code, ""), (arguments, err)
        assert said in err
        assert err.count("\n") == 1, err
    assert set(hub.repositories) == {"user/robots"}
    assert not card.exists()


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch owned",)


def test_mistakes_end_in_one_line_and_leave_nothing(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = {
        "empty.pkl": b"",
        "hostile.pkl": pickle.dumps({"params": Hostile(), "min_values": 0.0, "max_values": 1.0}),
        "other.pkl": pickle.dumps({"a": 1}),
        "cut.keras": shipped_models()[SMALL].read_bytes()[:500],
    }
    for name, content in inputs.items():
        Path(name).write_bytes(content)
    Path("folder.keras").mkdir()
    present = sorted(os.listdir())
    for command in (
        *(("import", name, "-o", "out.keras") for name in [*inputs, "missing.pkl", "folder.keras"]),
        ("import", "other.pkl", "-o", "out.h5"),
        *(("show", name) for name in ("missing.keras", "folder.keras", "cut.keras", "other.pkl")),
    ):
        code, out, err = run(*command)
        assert (code, out, err[:7], err.count("\n")) == (1, "", "Error: ", 1), (command, err)
    assert sorted(os.listdir()) == present
