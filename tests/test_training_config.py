"""A run's configuration: which source wins, what is refused, that what is written reads back; its schedule."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trajworld.errors import UsageError
from trajworld.models.files import save_model
from trajworld.models.identity import Identity
from trajworld.models.interface import new_model
from trajworld.models.sizes import EnsembleSizes, TrajWorldSizes
from trajworld.training.config import DatasetChoice, resolve_config, write_config
from trajworld.training.optimizer import learning_rate

pytestmark = pytest.mark.once

DATA: dict[str, Any] = {"datasets": [{"spec": "data"}]}
PRESETS = list(TrajWorldSizes.presets)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("kind", "rate", "steps"), [("pretrain", 1e-4, 1_000_000), ("train", 1e-5, 250_000)])
def test_the_paper_preset_is_the_published_one(kind: Any, rate: float, steps: int) -> None:
    config = resolve_config(kind, preset="paper", options=DATA)
    sizes = config.model
    assert (sizes.blocks, sizes.width, sizes.heads, sizes.window, sizes.bins) == (6, 256, 4, 20, 256)
    assert sizes.dropout == 0.05
    assert (config.batch_size, config.weight_decay, config.clip_norm) == (64, 1e-5, 0.25)
    assert (config.learning_rate, config.steps) == (rate, steps)
    assert (config.warmup_steps, config.decay_steps) == (10_000, 10_000_000)
    assert (config.targets, config.optimizer, config.dtype) == ("onehot", "adamw", "float32")


def test_a_folder_of_a_shipped_models_name_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trajworld-small").mkdir()
    assert resolve_config("train", options={**DATA, "init": "trajworld-small"}).init == "trajworld-small"


def test_training_from_a_model_has_settings_of_its_own() -> None:
    own = TrajWorldSizes.runs["small", "init"]
    given = {**DATA, "init": "trajworld-small"}
    plain, tuned = (resolve_config("train", options=options) for options in (DATA, given))
    assert {name: getattr(tuned, name) for name in own} == own
    assert tuned != dataclasses.replace(plain, init=tuned.init)
    assert resolve_config("train", options={**given, "learning_rate": 0.5}).learning_rate == 0.5
    pretrained = resolve_config("pretrain", options=given)
    assert pretrained == dataclasses.replace(resolve_config("pretrain", options=DATA), init=pretrained.init)
    # The published recipe is the same with a model to start from.
    paper = resolve_config("train", preset="paper", options=given)
    assert paper == dataclasses.replace(
        resolve_config("train", preset="paper", options=DATA), init=paper.init
    )


@pytest.mark.parametrize("kind", ["pretrain", "train"])
@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "paper"])
@pytest.mark.parametrize("steps", [None, 1, 10, 19, 20, 39, 100, 999])
def test_warm_up_is_the_presets_share_and_the_cosine_ends_with_the_steps(
    kind: Any, preset: str, steps: int | None
) -> None:
    config = resolve_config(kind, preset=preset, options={**DATA, "steps": steps})
    share = 0.3 if (preset, kind) == ("small", "train") else 0.05
    assert config.warmup_steps == math.floor(round(share * config.steps, 9))
    assert config.decay_steps == config.steps
    assert 1 <= config.log_every <= config.steps
    assert 1 <= config.evaluate_every <= config.steps


def test_the_file_overrides_the_preset_and_options_override_both(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        'preset = "tiny"\nsteps = 40\nlearning_rate = 0.5\nbatch_size = 3\n[model]\nblocks = 5\nwidth = 8\n'
        '[[datasets]]\nspec = "a"\nweight = 2\n',
    )
    config = resolve_config(
        "train", file=path, options={"batch_size": 7, "model": {"width": 12}, "seed": None}
    )
    assert (config.preset, config.steps, config.learning_rate, config.batch_size) == ("tiny", 40, 0.5, 7)
    assert config.model == dataclasses.replace(TrajWorldSizes.presets["tiny"], blocks=5, width=12)
    assert config.datasets == (DatasetChoice("a", 2.0),)
    assert config.seed == 0
    assert resolve_config("train", preset="paper", file=path).model.heads == 4
    assert resolve_config("train", file=path, options=DATA).datasets == (DatasetChoice("data"),)
    assert resolve_config("train", options=DATA).preset == "small"


def test_an_optimizer_brings_its_rate_and_decay(tmp_path: Path) -> None:
    for init, rate in (("", 3e-3), ("trajworld-small", 6e-3)):
        plain = resolve_config("train", options={**DATA, "init": init})
        assert (plain.optimizer, plain.learning_rate, plain.weight_decay) == ("muon", 1e-2, 0.1)
        for file in (None, written(tmp_path, 'optimizer = "adamw"')):
            asked = {**DATA, "init": init} | ({} if file else {"optimizer": "adamw"})
            other = resolve_config("train", file=file, options=asked)
            assert (other.learning_rate, other.weight_decay) == (rate, 1e-5)
            assert (
                resolve_config("train", file=file, options={**asked, "learning_rate": 0.5}).learning_rate
                == 0.5
            )
    path = written(tmp_path, "learning_rate = 0.5\ndecay_steps = 2000")
    assert resolve_config("train", file=path, options=DATA).optimizer == "muon"
    with pytest.raises(UsageError, match="muon is for blocks"):
        resolve_config("train", options={**DATA, "model": "mlp-ensemble", "optimizer": "muon"})
    with pytest.raises(UsageError, match="mixed_bfloat16 is for blocks"):
        resolve_config("train", options={**DATA, "model": "mlp-ensemble", "dtype": "mixed_bfloat16"})


def test_a_later_end_keeps_the_warm_up(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    write_config(resolve_config("pretrain", options={**DATA, "steps": 7000, "warmup_steps": 1000}), path)
    for steps, warmup in ((7000, 1000), (10_000, 1000), (2000, 100)):
        assert resolve_config("pretrain", file=path, options={"steps": steps}).warmup_steps == warmup


def test_what_starts_from_a_model_has_the_settings_of_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "ensemble.keras"
    save_model(new_model(EnsembleSizes.presets["tiny"], Identity()), path)
    tuned, fresh = (
        resolve_config("train", preset="tiny", options={**DATA, **one})
        for one in ({"init": str(path)}, {"model": "mlp-ensemble"})
    )
    assert tuned == dataclasses.replace(fresh, init=str(path))
    write_config(tuned, tmp_path / "config.toml")
    path.unlink()  # A run of it can be resumed.
    assert resolve_config("train", file=tmp_path / "config.toml") == tuned


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('steps = "many"', "steps must be a whole number, not 'many'"),
        ("steps = 0", "steps must lie between"),
        ("batch_size = true", "batch_size must be a whole number"),
        ('learning_rate = "fast"', "learning_rate must be a number, not 'fast'"),
        ("learning_rate = nan", "learning_rate must be above 0"),
        ("seed = -1", "seed must lie between 0 and 4294967295"),
        ("holdout_fraction = 1", "holdout_fraction must lie in [0, 1)"),
        ("patience = -5", "patience must be at least 0"),
        ("init = 3", "init must be a text, not 3"),
        ('optimizer = ["muon"]', "optimizer must be a text"),
        ("warmup_steps = 5000", "warmup_steps (5000) must lie between 0 and decay_steps (1000)"),
        ('targets = "soft"', "onehot or gauss"),
        ('optimizer = "sgd"', "adamw or muon"),
        ('preset = "huge"', "no preset of trajworld is called 'huge': there is tiny, small, paper"),
        ('model = "big"', "model in"),
        ("model = {window = 1}", "window must be at least 2"),
        ("model = {block = 1}", "no model size is called 'block': did you mean blocks?"),
        ("model = {kind = [1]}", "no kind of model is called [1]"),
        ("batchsize = 3", "is called 'batchsize': did you mean batch_size?"),
        ("zzz = 3", "is called 'zzz': there are augment, average, batch_size, "),
        ("datasets = []", "name at least one dataset"),
        ('datasets = "data"', "datasets must be tables"),
        ("datasets = [5]", "a dataset is a text"),
        ('datasets = [{spec = "a", wieght = 3}]', "did you mean weight?"),
        ('datasets = [{spec = "a", weight = nan}]', "the weight of a must be above 0"),
        ('datasets = ["a", "b"]', "train takes one dataset, not 2: pretrain takes several"),
    ],
)
def test_what_a_file_cannot_say(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_config("train", file=written(tmp_path, text), options={} if "datasets" in text else DATA)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# A path that begins with ~NAME is refused where there is no such user.
SPECS = st.text(min_size=1).filter(lambda spec: not spec.startswith("~"))
DATASET = st.fixed_dictionaries({"spec": SPECS, "weight": st.floats(1e-9, 1e9)})
OPTIONS = {
    "datasets": st.lists(DATASET, min_size=1, max_size=1),
    "model": st.fixed_dictionaries({"dropout": st.floats(0, 0.99)}),
    "learning_rate": st.floats(1e-12, 1e3),
    "steps": st.integers(1, 10**7),
    "transitions": st.none() | st.integers(1, 10**9),
    "seed": st.integers(0, 2**32 - 1),
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.sampled_from(["pretrain", "train"]), st.sampled_from(PRESETS), st.fixed_dictionaries(OPTIONS))
def test_what_is_written_reads_back_equal(tmp_path: Path, kind: Any, preset: str, options: Any) -> None:
    config = resolve_config(kind, preset=preset, options=options)
    write_config(config, tmp_path / "config.toml")
    assert resolve_config(kind, file=tmp_path / "config.toml") == config


def test_a_written_configuration_with_other_steps_moves_its_schedule(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    config = resolve_config("train", preset="tiny", options={**DATA, "steps": 1000})

    def schedule(**options: int) -> tuple[int, int]:
        changed = resolve_config("train", file=path, options=options)
        return changed.decay_steps, changed.warmup_steps

    write_config(config, path)
    assert schedule(steps=4000) == (4000, 50)
    assert schedule(steps=100) == (100, 5)
    assert schedule(steps=100, decay_steps=300, warmup_steps=20) == (300, 20)
    # A schedule that is meant to be longer than the run stays as it was written.
    write_config(dataclasses.replace(config, decay_steps=5000), path)
    assert schedule(steps=100)[0] == 5000


def warmup_cosine(peak: float, warmup: int, decay: int, steps: np.ndarray) -> np.ndarray:
    """Two schedules joined at ``warmup``: a line from 0 to the peak, and a cosine over the rest, then 0."""
    line = np.interp(steps, [0, max(warmup, 1)], [0.0, peak])
    counted = np.clip(steps - warmup, 0, decay - warmup)
    cosine = peak * (1 + np.cos(np.pi * counted / max(decay - warmup, 1))) / 2
    return np.where(steps < warmup, line, cosine)


@given(st.floats(1e-8, 10), st.integers(0, 500), st.integers(1, 2000))
def test_the_schedule_is_warm_up_then_cosine(peak: float, warmup: int, more: int) -> None:
    decay = warmup + more
    steps = np.unique(np.linspace(0, decay + 5, 60).astype(int))
    changes = {"learning_rate": peak, "warmup_steps": warmup, "decay_steps": decay}
    config = dataclasses.replace(resolve_config("train", preset="tiny", options=DATA), **changes)
    rates = [learning_rate(config, int(step)) for step in steps]
    np.testing.assert_allclose(rates, warmup_cosine(peak, warmup, decay, steps), rtol=1e-9, atol=1e-12 * peak)
    assert max(rates) <= peak
