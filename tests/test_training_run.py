"""Run directories: what is in them, where a run begins, and what is refused before anything is written."""

import json
import random
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from training_fixtures import SIZES, config_for, store, weights_of

from trajworld.backend import active_backend
from trajworld.data.store import open_store
from trajworld.errors import TrajWorldError, UsageError
from trajworld.models.files import load_model, save_model
from trajworld.models.identity import Identity
from trajworld.models.interface import new_model
from trajworld.models.ranges import training_support
from trajworld.models.sizes import EnsembleSizes, TrajWorldSizes
from trajworld.models.trajworld import TrajWorld
from trajworld.training.config import resolve_config
from trajworld.training.loop import train
from trajworld.training.optimizer import learning_rate
from trajworld.training.record import read_metrics, read_record
from trajworld.training.run import resume_run, start_run
from trajworld.versions import versions


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model file of other sizes than the presets'."""
    path = tmp_path / "source.keras"
    save_model(TrajWorld(TrajWorldSizes(**{**SIZES, "window": 3}, variates=5, dropout=0.25)), path)
    return path


def test_a_run_directory_says_what_the_run_is(tmp_path: Path, data: str) -> None:
    config = config_for("train", [data], seed=5)
    run = start_run(tmp_path / "new" / "run", config)
    assert sorted(item.name for item in run.path.iterdir()) == ["config.toml", "run.json"]
    assert resolve_config("train", file=run.path / "config.toml") == config == run.config
    record = json.loads((run.path / "run.json").read_text())
    said = {"kind": "train", "backend": active_backend().name, "versions": versions()}
    assert said.items() <= record.items()
    assert record["parameters"] == run.model.count_params() == config.model.parameters
    assert record["datasets"] == [run.parts[0].describe()]
    # What changed since is warned of.
    assert resume_run(run.path)[1] == []
    record |= {"backend": "theano", "versions": {**record["versions"], "keras": "0.1"}}
    (run.path / "run.json").write_text(json.dumps(record))
    backend, changed = resume_run(run.path)[1]
    assert "began on theano and continues on" in backend
    assert "keras 0.1 -> " in changed


def test_the_seed_decides_the_weights_and_python_s_generator_is_left_alone(tmp_path: Path, data: str) -> None:
    random.seed(1)
    expected = random.Random(1).random()
    first, same, other = (
        start_run(tmp_path / str(number), config_for("train", [data], seed=seed)).model.get_weights()
        for number, seed in enumerate((7, 7, 8))
    )
    assert random.random() == expected
    np.testing.assert_equal(first, same)
    assert not all(map(np.array_equal, first, other))


@pytest.mark.parametrize("kind", ["pretrain", "train"])
def test_held_out_episodes_are_in_no_batch(tmp_path: Path, data: str, kind: Any) -> None:
    run = start_run(tmp_path / "run", config_for(kind, [data], holdout_fraction=0.34))
    (part,) = run.parts
    assert len(part.holdout) == 2
    assert sorted([*part.episodes, *part.holdout]) == list(range(6))
    episodes = np.split(np.asarray(part.dataset.rows), part.dataset.episode_offsets[1:-1])
    training = np.concatenate([episodes[number] for number in part.episodes])
    batches = [run.mixture.batch(step) for step in range(200)]
    seen = {row.tobytes() for batch in batches for row in batch.values[batch.time_mask > 0]}
    assert seen == {row.tobytes() for row in training}
    assert not seen & {row.tobytes() for number in part.holdout for row in episodes[number]}
    # Neither has a held-out episode a part in the ranges.
    if kind == "train":
        expected = training_support(training.min(axis=0), training.max(axis=0))
        np.testing.assert_array_equal(run.model.identity.support.lower, expected.lower)
        np.testing.assert_array_equal(run.model.identity.support.upper, expected.upper)
    else:
        assert run.model.identity.support.shared
        np.testing.assert_array_equal(part.support.lower, training.min(axis=0))


@pytest.mark.once
def test_a_limit_of_transitions_includes_the_holdout_set(tmp_path: Path) -> None:
    data = store(tmp_path / "data", [10] * 20)
    (part,) = start_run(tmp_path / "run", config_for("train", [data], transitions=55)).parts
    assert (len(part.episodes), len(part.holdout)) == (4, 1)
    assert part.transitions == 40
    (more,) = start_run(tmp_path / "more", config_for("train", [data], transitions=105)).parts
    assert {*part.episodes, *part.holdout} < {*more.episodes, *more.holdout}


def test_fine_tuning_starts_from_the_source_with_the_new_ranges(
    tmp_path: Path, data: str, source: Path
) -> None:
    run = start_run(tmp_path / "run", config_for("train", [data], init=str(source)))
    for one, other in zip(weights_of(source), run.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    rows = np.asarray(open_store(data).rows)
    support = run.model.identity.support
    assert np.all(support.lower >= rows.min(axis=0) - 2e-5)
    assert np.all(support.upper <= rows.max(axis=0) + 2e-5)
    assert run.model.identity.environment == "test/data"
    assert run.model.identity.history["init"]["file"] == "source.keras"
    # The sizes are the source's, and the windows, the record and what is resumed follow them.
    assert run.config.model == load_model(source).sizes
    assert run.mixture.batch(0).values.shape == (4, 3, 4)
    assert resolve_config("train", file=run.path / "config.toml").model == run.config.model
    wide = store(tmp_path / "wide", observations=7)
    with pytest.raises(TrajWorldError, match=r"9 variates .* than the model's table of 5: .*--variates 9"):
        start_run(tmp_path / "other", config_for("train", [wide], init=str(source)))
    assert not (tmp_path / "other").exists()


@pytest.mark.once
def test_a_fine_tuned_ensemble_keeps_its_weights_and_is_standardised_by_its_own_data(tmp_path: Path) -> None:
    sizes = EnsembleSizes(members=2, elites=1, layers=1, width=4, observations=3, actions=2)
    first: Any = new_model(sizes, Identity())
    first.adapt([np.full(4, 7.0)], [np.full(4, 3.0)], [(2, 1)])
    save_model(first, tmp_path / "first.keras")
    config = config_for("train", [store(tmp_path / "data", [40] * 6)], init=str(tmp_path / "first.keras"))
    run = start_run(tmp_path / "run", config)
    for one, other in zip(
        run.model._kernels + run.model._biases, first._kernels + first._biases, strict=True
    ):
        np.testing.assert_array_equal(np.array(one), np.array(other))
    (part,) = run.parts
    episodes = np.split(np.asarray(part.dataset.rows), part.dataset.episode_offsets[1:-1])
    # An episode's first row has no reward yet, its last no action.
    found = []
    for variate, span in enumerate((slice(None), slice(None), slice(1, None), slice(-1))):
        real = np.concatenate([episodes[number][span, variate] for number in part.episodes])
        found.append((real - part.lower[variate]) / (part.upper - part.lower)[variate])
    # Two observations and a third place, the action and a second place, the reward.
    mean, std = (
        [found[0].mean(), found[1].mean(), 0, found[3].mean(), 0, found[2].mean()],
        [found[0].std(), found[1].std(), 1, found[3].std(), 1, found[2].std()],
    )
    np.testing.assert_allclose(np.array(run.model.mean), mean, rtol=1e-4)
    np.testing.assert_allclose(np.array(run.model.scale), std, rtol=1e-4)


@pytest.mark.once
@pytest.mark.usefixtures("plain_steps")
def test_a_fine_tuned_run_goes_on_without_its_source_once_it_has_a_checkpoint(
    tmp_path: Path, data: str, source: Path
) -> None:
    config = config_for("train", [data], init=str(source))
    start_run(tmp_path / "begun", config)
    train(start_run(tmp_path / "run", config))
    resumed, _ = resume_run(tmp_path / "begun")
    np.testing.assert_array_equal(resumed.model.get_weights()[0], weights_of(source)[0])
    save_model(TrajWorld(load_model(source).sizes), source)
    with pytest.raises(TrajWorldError, match=r"is not the model that .*begun began with"):
        resume_run(tmp_path / "begun")
    source.unlink()
    with pytest.raises(TrajWorldError, match=r"cannot read .*source\.keras"):
        resume_run(tmp_path / "begun")
    assert resume_run(tmp_path / "run")[0].state.step == 12


@pytest.mark.once
def test_outputs_that_are_taken_or_free(tmp_path: Path, data: str) -> None:
    config = config_for("train", [data])
    # An empty folder and what a killed start left are free.
    (tmp_path / "run").mkdir()
    run = start_run(tmp_path / "run", config)
    (run.path / "config.toml").rename(run.path / ".config.1.tmp.toml")
    with pytest.raises(UsageError, match="is not a run directory"):
        resume_run(run.path)
    assert start_run(run.path, config).state.step == 0
    with pytest.raises(UsageError, match="exists already: --resume continues it, --overwrite starts afresh"):
        start_run(run.path, config)
    (run.path / "best.keras").write_text("an earlier result")
    # What cannot start overwrites nothing.
    for bad in ({"datasets": [str(tmp_path / "none")]}, {"datasets": [data], "init": "none.keras"}):
        with pytest.raises(TrajWorldError):
            start_run(run.path, config_for("train", **bad), overwrite=True)
    assert (run.path / "best.keras").exists()
    assert start_run(run.path, config, overwrite=True).state.step == 0
    assert not (run.path / "best.keras").exists()

    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    file = tmp_path / "file"
    file.write_text("more of it")
    for overwrite in (False, True):
        for path in (folder, file):
            with pytest.raises(UsageError, match="exists already: name another place"):
                start_run(path, config, overwrite=overwrite)
        with pytest.raises(TrajWorldError, match="cannot write"):
            start_run(file / "run", config, overwrite=overwrite)
    assert (folder / "thesis.txt").read_text() == "years of work"
    assert file.read_text() == "more of it"


@pytest.mark.once
def test_a_damaged_record_is_one_line(tmp_path: Path, data: str) -> None:
    run = start_run(tmp_path / "run", config_for("train", [data]))
    for text in (
        *("", "[]", "nul\x00", '{"kind": "fly"}', '{"kind": "train"}'),
        '{"kind": "train", "datasets": 3, "versions": {}}',
        '{"kind": "train", "datasets": [3], "versions": {}}',
        '{"kind": "train", "datasets": [], "versions": {}, "resumed": 1}',
    ):
        (run.path / "run.json").write_text(text)
        with pytest.raises(TrajWorldError, match=r"run\.json") as caught:
            resume_run(run.path)
        assert "\n" not in str(caught.value)


@pytest.mark.once
def test_datasets_that_changed_are_refused(tmp_path: Path, data: str) -> None:
    run = start_run(tmp_path / "run", config_for("pretrain", [data, data]))
    others: list[tuple[dict[str, Any], str]] = [
        ({"lengths": [9, 7, 8]}, r"data is not what .* was trained on \(transitions was 39, is 1\d\)"),
        ({"observations": 3}, "variates was 4, is 5"),
        ({"seed": 1}, "content was [0-9a-f]{12}…, is [0-9a-f]{12}…"),
    ]
    for other, message in others:
        shutil.rmtree(data)
        with pytest.raises(TrajWorldError, match="names no dataset"):
            resume_run(run.path)
        store(Path(data), **other)
        with pytest.raises(TrajWorldError, match=message):
            resume_run(run.path)
    # Data that are made again are the same.
    shutil.rmtree(data)
    store(Path(data))
    assert resume_run(run.path)[0].state.step == 0
    # One that was added to the configuration or taken from it is noticed, too.
    written = tomllib.loads((run.path / "config.toml").read_text())
    for count in (1, 3):
        changed = {**written, "datasets": written["datasets"][:1] * count}
        (run.path / "config.toml").write_text(tomli_w.dumps(changed))
        with pytest.raises(TrajWorldError, match=f"on 2 datasets, but its configuration names {count}"):
            resume_run(run.path)


@pytest.mark.usefixtures("plain_steps")
def test_a_resumed_run_may_end_elsewhere(tmp_path: Path, data: str) -> None:
    path = tmp_path / "run"
    train(start_run(path, config_for("train", [data], steps=12)))
    with pytest.raises(UsageError, match="is at step 12 already: it cannot end at 11"):
        resume_run(path, steps=11)
    assert "resumed" not in read_record(path)
    run, _ = resume_run(path, steps=20)
    assert (run.config.steps, run.config.decay_steps, run.state.step) == (20, 20, 12)
    outcome = train(run)
    assert outcome.finished
    assert outcome.state.step == 20
    # From now on it is a run of 20 steps; the record says where and on what it continued.
    again, _ = resume_run(path)
    assert (again.config, again.state.step) == (run.config, 20)
    record = read_record(path)
    surroundings = {key: record[key] for key in ("versions", "backend", "device", "layout")}
    first, second = record["resumed"]
    assert first == {"step": 12, **surroundings, "steps_before": 12, "steps": 20}
    assert second == {"step": 20, **surroundings}
    rates = {row["step"]: row["learning_rate"] for row in read_metrics(path) if "learning_rate" in row}
    assert rates[20] == pytest.approx(learning_rate(run.config, 19))


@pytest.mark.once
def test_a_run_that_ran_out_of_patience_goes_on_if_it_is_told_to(
    tmp_path: Path, data: str, plain_steps: Any
) -> None:
    # At no rate the loss does not fall.
    path, given = tmp_path / "run", {"evaluate_every": 1, "patience": 2, "learning_rate": 1e-30}
    ended = train(start_run(path, config_for("train", [data], steps=12, **given)))
    assert ended.finished
    assert 2 <= ended.state.step < 6
    assert train(resume_run(path)[0]).state.step == ended.state.step
    outcome = train(resume_run(path, steps=20)[0])
    assert outcome.finished
    assert outcome.state.step == ended.state.step + 2


@pytest.mark.once
def test_relative_and_home_paths_are_kept_whole_so_a_run_resumes_from_anywhere(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch, plain_steps: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "t.toml"
    for number, spec in enumerate(("data", "~/data", "./data")):
        file.write_text(f'datasets = [{{spec = "{spec}"}}]\n')
        assert resolve_config("train", file=file).datasets[0].spec == data
        run = start_run(Path(f"~/run={number},"), config_for("train", [spec]))
        assert run.path == tmp_path / f"run={number},"
    monkeypatch.chdir("/")
    resumed, warnings = resume_run(run.path)
    assert (resumed.parts[0].dataset.path, warnings) == (Path(data), [])
    with pytest.raises(UsageError, match="whole path"):
        config_for("train", ["~no-such-user/data"])


@pytest.mark.once
def test_a_run_directory_has_one_writer(tmp_path: Path, data: str, plain_steps: Any) -> None:
    run = start_run(tmp_path / "run", config_for("train", [data]))
    other, _ = resume_run(run.path)

    def observe(report: Any) -> None:
        half = run.path / "checkpoints" / ".step-000000001.0123abcd.tmp"
        half.mkdir(parents=True, exist_ok=True)
        for use in (lambda: train(other), lambda: resume_run(run.path, steps=50)):
            with pytest.raises(TrajWorldError, match="another process is writing the run"):
                use()
        assert half.is_dir()
        assert resolve_config("train", file=run.path / "config.toml") == run.config

    assert train(run, observe).finished
    assert train(resume_run(run.path)[0]).finished
