"""Fixtures for all tests: isolated folders, the shared files, small made-up episodes and datasets."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode, rows_of_episode
from trajworld.data.store import write_store

pytest_plugins = ["fake_hub", "model_file_fixtures", "training_fixtures"]

# How long an example takes says how busy the machine is.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

# A shell's background job ignores Ctrl-C, and so would every process that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give both of two workers' halves the slow modules first: what is left to steal at the end is short."""
    if not hasattr(config, "workerinput"):
        return
    modules: dict[Path, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    slow = {path for path in modules if any(item.get_closest_marker("slow") for item in modules[path])}
    ordered = sorted(modules, key=lambda path: path not in slow)
    items[:] = [item for half in (ordered[::2], ordered[1::2]) for path in half for item in modules[path]]


@pytest.fixture(autouse=True)
def isolated_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own datasets."""
    folder = tmp_path_factory.mktemp("user")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
    monkeypatch.setenv("TRAJWORLD_HOME", str(folder / "trajworld"))


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A function that runs the command line in this process: exit code, standard output, standard error."""
    from trajworld.cli.main import main

    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            code = main([str(word) for word in arguments])
        except SystemExit as end:
            code = end.code
        return code or 0, *capfd.readouterr()

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of files shared beside the repository; tests that need it are skipped without it."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("the shared folder is not beside the repository")
    return folder


@pytest.fixture(scope="session")
def goldens(shared: Path) -> Path:
    """The published implementation's checkpoints, and the outputs that were recorded from it."""
    folder = shared / "goldens" / "small"
    if not folder.is_dir():
        pytest.skip("the recorded outputs are not beside the repository")
    return folder


@pytest.fixture(scope="session")
def make_episodes() -> Callable[..., list[Episode]]:
    """A function that makes random episodes of the given lengths (transitions)."""

    def make(lengths: Sequence[int], observations: int = 3, actions: int = 2, seed: int = 0) -> list[Episode]:
        rng = np.random.default_rng(seed)
        return [
            Episode(
                observations=rng.normal(size=(length + 1, observations)).astype(np.float32),
                actions=rng.uniform(-1, 1, size=(length, actions)).astype(np.float32),
                rewards=rng.normal(2, 1, size=length),
                terminated=bool(rng.integers(2)),
            )
            for length in lengths
        ]

    return make


@pytest.fixture(scope="session")
def memory_dataset(make_episodes: Callable[..., list[Episode]]) -> Callable[..., Dataset]:
    """A function that makes a dataset of random episodes without a folder."""

    def make(lengths: Sequence[int], observations: int = 3, actions: int = 2, seed: int = 0) -> Dataset:
        episodes = make_episodes(lengths, observations, actions, seed)
        return Dataset(
            path=Path("nowhere"),
            name="memory",
            source="",
            environment="",
            observation_size=observations,
            action_size=actions,
            rows=np.concatenate([rows_of_episode(episode) for episode in episodes]),
            episode_offsets=np.concatenate([[0], np.cumsum([len(e) + 1 for e in episodes])]).astype(np.int64),
            terminated=np.array([episode.terminated for episode in episodes]),
        )

    return make


@pytest.fixture
def make_store(tmp_path: Path, make_episodes: Callable[..., list[Episode]]) -> Callable[..., Dataset]:
    """A function that writes a store of random episodes under the test's folder."""

    def make(lengths: Sequence[int], observations: int = 3, actions: int = 2, seed: int = 0) -> Dataset:
        name = f"store-{len(list(tmp_path.iterdir()))}"
        episodes = make_episodes(lengths, observations, actions, seed)
        names = {"name": name, "source": "made up", "environment": "test/made-up"}
        return write_store(tmp_path / name, episodes, **names)

    return make
