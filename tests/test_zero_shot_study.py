"""The zero-shot study itself: what is measured, what is said of it, and how it is drawn."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from trajworld.data.dataset import Dataset
from trajworld.data.statistics import statistics
from trajworld.errors import TrajWorldError
from trajworld.evaluation.predictors import compile_one_step, model_predictor
from trajworld.models.identity import Identity
from trajworld.models.ranges import training_support
from trajworld.models.sizes import ModelSizes
from trajworld.models.trajworld import TrajWorld, Variates
from trajworld.text import number
from trajworld.zero_shot.bootstrap import Errors, bootstrap
from trajworld.zero_shot.findings import findings
from trajworld.zero_shot.pictures import draw, figure_of
from trajworld.zero_shot.protocol import set_up
from trajworld.zero_shot.report import FILES, write_results
from trajworld.zero_shot.results import Group, ModelFacts, Results
from trajworld.zero_shot.study import (
    COPY,
    MINIMUM_NORM,
    MODEL,
    PREDICTORS,
    RIDGE,
    Measured,
    measure,
    measure_all,
)

SIZES = ModelSizes(blocks=1, width=16, heads=2, variates=12)
CONTEXTS = (1, 6, 12, 19)
FACTS = ModelFacts("m.keras", "ab12", 9000, 340_800, True)


@pytest.fixture(scope="module")
def model() -> TrajWorld:
    keras.utils.set_random_seed(0)
    return TrajWorld(SIZES)


@pytest.fixture
def dataset(memory_dataset: Callable[..., Dataset]) -> Dataset:
    return memory_dataset([30, 25, 28, 40, 5, 33])


def test_every_context_and_predictor_equals_a_loop_over_windows(model: TrajWorld, dataset: Dataset) -> None:
    trial = set_up(dataset, 20, 9, 1)
    found = measure(model, trial, CONTEXTS, size=8)
    assert found.errors.predictors == PREDICTORS
    std = statistics(dataset).std[:4]
    variates = Variates(dataset.is_action, trial.support.lower, trial.support.upper)
    low, high = trial.support.lower[:4].astype(float), trial.support.upper[:4].astype(float)
    for context in CONTEXTS:
        modelled, copied = [], []
        for end in trial.test.ends:
            # Left padding to the window's 19 rows, as the model saw it in training.
            rows, mask = np.zeros((1, 19, 6), np.float32), np.zeros((1, 19), np.float32)
            rows[0, 19 - context :] = dataset.rows[end - context : end]
            mask[0, 19 - context :] = 1
            logits = keras.ops.convert_to_numpy(model(rows, mask, variates))[0, -1, :4].astype(float)
            weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
            centres = (np.arange(256) + 0.5) / 256
            mean = low + (high - low) * (weights * centres).sum(axis=-1) / weights.sum(axis=-1)
            modelled.append(np.abs(mean - dataset.rows[end, :4]) / std)
            copied.append(np.abs(dataset.rows[end - 1, :4].astype(float) - dataset.rows[end, :4]) / std)
        assert found.errors.of(MODEL, context) == pytest.approx(np.mean(modelled), rel=1e-4)
        assert found.errors.of(COPY, context) == pytest.approx(np.mean(copied), rel=1e-5)
    np.testing.assert_allclose(found.variates[MODEL], np.mean(modelled, axis=0), rtol=1e-3)
    for baseline in (MINIMUM_NORM, RIDGE):
        assert found.errors.of(baseline, 1) == pytest.approx(found.errors.of(COPY, 1))
        assert found.errors.of(baseline, 19) != pytest.approx(found.errors.of(COPY, 19), rel=1e-3)
    assert found.bin_error == pytest.approx(np.mean((high - low) / 256 / 4 / std), rel=1e-5)
    changes = [np.abs(dataset.rows[end - 1, :4] - dataset.rows[end, :4]) for end in trial.test.ends]
    np.testing.assert_allclose(found.change, np.mean(changes, axis=0) / ((high - low) / 256), rtol=1e-4)


def test_unpadded_contexts_are_at_the_first_positions(model: TrajWorld, dataset: Dataset) -> None:
    trial = set_up(dataset, 20, 7, 1)
    padded, found = (measure(model, trial, CONTEXTS, size=7, short=short) for short in ("padded", "unpadded"))
    variates = Variates(dataset.is_action, trial.support.lower, trial.support.upper)
    low, high = trial.support.lower[:4].astype(float), trial.support.upper[:4].astype(float)
    for context in CONTEXTS:
        errors = []
        for end in trial.test.ends:
            # What a whole window that begins with these rows says after the last of them: nothing later is read.
            rows = np.full((1, 19, 6), 9, np.float32)
            rows[0, :context] = dataset.rows[end - context : end]
            logits = keras.ops.convert_to_numpy(model(rows, np.ones((1, 19), np.float32), variates))
            logits = logits[0, context - 1, :4].astype(float)
            weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
            centres = (np.arange(256) + 0.5) / 256
            mean = low + (high - low) * (weights * centres).sum(axis=-1) / weights.sum(axis=-1)
            errors.append(np.abs(mean - dataset.rows[end, :4]) / statistics(dataset).std[:4])
        assert found.errors.of(MODEL, context) == pytest.approx(np.mean(errors), rel=1e-4)
        for baseline in (COPY, MINIMUM_NORM, RIDGE):
            assert found.errors.of(baseline, context) == pytest.approx(padded.errors.of(baseline, context))
    assert found.errors.of(MODEL, 19) == pytest.approx(padded.errors.of(MODEL, 19), rel=1e-4)
    assert found.errors.of(MODEL, 1) != pytest.approx(padded.errors.of(MODEL, 1), rel=1e-3)


def test_padding_variates_changes_nothing(model: TrajWorld, dataset: Dataset) -> None:
    trial = set_up(dataset, 20, 5, 0)
    values = np.array([dataset.rows[end - 19 : end + 1] for end in trial.test.ends])
    mask = np.ones(values.shape[:2], np.float32)
    one_step = compile_one_step(model)
    plain, padded = (
        model_predictor(model, dataset, trial.support, one_step, size)(values, mask) for size in (None, 9)
    )
    np.testing.assert_allclose(padded.mean, plain.mean, rtol=1e-4, atol=1e-5)
    assert plain.entropy is not None
    assert padded.entropy is not None
    np.testing.assert_allclose(padded.entropy, plain.entropy, rtol=1e-4, atol=1e-4)


def test_all_environments_report_their_progress_together(
    model: TrajWorld, dataset: Dataset, memory_dataset: Callable[..., Dataset]
) -> None:
    other = memory_dataset([40, 40, 40], observations=5)
    trials = [set_up(each, 20, 9, 0) for each in (dataset, other)]
    told: list[tuple[int, int | None]] = []
    found = measure_all(model, trials, (1, 19), 0, progress=lambda done, total, _: told.append((done, total)))
    count = 2 * (len(trials[0].test) + len(trials[1].test))
    assert told[-1] == (count, count)
    assert told == sorted(told)
    alone = measure(model, trials[1], (1, 19))
    np.testing.assert_allclose(found[1].errors.mean, alone.errors.mean, rtol=1e-4)


def test_what_is_no_zero_shot_is_refused(model: TrajWorld, dataset: Dataset) -> None:
    tuned = TrajWorld(SIZES, Identity(training_support(np.zeros(6), np.ones(6)), "gymnasium/Hopper-v5", 3, 2))
    with pytest.raises(TrajWorldError, match=r"trained on gymnasium/Hopper-v5 alone"):
        measure_all(tuned, [set_up(dataset, 20, 5, 0)], (1,))
    narrow = TrajWorld(ModelSizes(blocks=1, width=16, heads=2, variates=4))
    with pytest.raises(TrajWorldError, match="6 variates are more than the 4"):
        measure_all(narrow, [set_up(dataset, 20, 5, 0)], (1,))


def made(dataset: Dataset, environment: str, episodes: int = 20, **means: tuple[float, float]) -> Measured:
    """Results with these mean errors at contexts 1 and 19, alike in all windows but for a little noise."""
    trial = set_up(replace(dataset, environment=environment), 20, 40, 0)
    rng = np.random.default_rng(0)
    values = np.array([means[name] for name in ("copy", "minimum_norm", "ridge", "model")])
    errors = values[..., None] * rng.uniform(0.95, 1.05, size=(4, 2, len(trial.test)))
    return Measured(
        trial,
        bootstrap(errors, np.arange(len(trial.test)) % episodes, PREDICTORS, (1, 19), (0,)),
        {name: np.array([0.1, math.nan, 0.2, 0.3]) for name in PREDICTORS},
        bin_error=0.001,
        change=np.ones(4),
    )


def test_findings_say_what_the_numbers_say(dataset: Dataset) -> None:
    good = made(dataset, "a/Good", copy=(1, 1), minimum_norm=(1, 3), ridge=(1, 0.5), model=(0.8, 0.2))
    bad = made(dataset, "b/Bad", copy=(0.2, 0.2), minimum_norm=(0.2, 0.4), ridge=(0.2, 0.1), model=(0.2, 0.3))
    even = made(dataset, "b/Even", copy=(1, 1), minimum_norm=(1, 1), ridge=(1, 1), model=(1, 1))
    results = Results(FACTS, {"seed": 0}, (good, bad, bad), ("good ones", "bad ones", "bad ones"))
    sentences = findings(results)
    assert sentences[0].startswith("Good: with 19 rows the model errs by 0.2"), "one alone is no family"
    assert "better than copying the last row" in sentences[0]
    assert "worse" not in sentences[0]
    assert "It improves with context: with 1 row it errs by 0.8" in sentences[0]
    assert sentences[1].startswith("Bad ones (2 environments): with 19 rows the model errs by 0.3")
    assert "better than least squares of minimum norm (0.4" in sentences[1]
    assert "and worse than copying the last row (0.2" in sentences[1]
    assert "It gets worse with context" in sentences[1]
    everything = " ".join(sentences)
    assert "worse than copying the last row in 2 of 3 environments: Bad (1.5" in everything
    assert "worse than the ridge in 2 of 3 environments: Bad (3" in everything
    assert "minimum norm makes 3.0" in everything
    assert "as many unknowns" not in everything, "7 unknowns, 18 transitions"

    family = Results(FACTS, {}, (good, even), ("both", "both"))
    (group,) = family.family_groups
    assert (group.name, len(group.members)) == ("both", 2)
    assert group.errors.of(MODEL, 19) == pytest.approx(0.6, rel=0.02)
    only = " ".join(findings(Results(FACTS, {}, (even,), ("even",))))
    assert "not distinguishable from copying the last row" in only
    assert "No difference by context could be told" in only
    assert "environments:" not in only


def test_a_cause_is_named_only_where_it_can_be_one(
    dataset: Dataset, memory_dataset: Callable[..., Dataset]
) -> None:
    wide = memory_dataset([30, 25, 28, 40], observations=14)
    errors: dict[str, Any] = {"copy": (1, 1), "minimum_norm": (1, 3), "ridge": (1, 1), "model": (1, 1)}
    small, large = made(dataset, "a/Small", **errors), made(wide, "a/Large", **errors)
    said = " ".join(findings(Results(FACTS, {}, (small, large), ("small", "large"))))
    assert "copying's error on Small and" in said
    assert "copying's error on Large (about as many unknowns as transitions)." in said
    # Of a mean over both it is not known.
    assert "unknowns" not in " ".join(findings(Results(FACTS, {}, (small, large), ("both", "both"))))


@pytest.mark.parametrize("episodes", [1, 2, 9])
def test_a_few_episodes_tell_nothing(dataset: Dataset, episodes: int) -> None:
    errors: dict[str, Any] = {"copy": (1, 1), "minimum_norm": (1, 3), "ridge": (1, 0.1), "model": (0.8, 0.2)}
    few, many = made(dataset, "a/Few", episodes, **errors), made(dataset, "a/Many", **errors)
    sentences = findings(Results(FACTS, {}, (few,), ("family",)))
    assert re.sub(r"\d\.\d+", "x", sentences[0]) == (
        "Few: with 19 rows the model errs by x, copying the last row by x, least squares of minimum norm by x and the "
        f"ridge by x: too few test episodes to tell ({episodes})."
    )
    said = " ".join(sentences)
    for word in ("better", "worse", "improves", "0 to"):
        assert word not in said
    assert f"Fewer than 10 episodes were tested in Few ({episodes})" in said
    # A mean is no surer than its parts, and what is sure is still told.
    results = Results(FACTS, {}, (few, many), ("family", "family"))
    sentences = findings(results)
    assert f"too few test episodes to tell ({episodes} in one of them)" in sentences[0]
    assert "worse than the ridge in 1 of 1 environments: Many" in " ".join(sentences)
    found = results.as_json(sentences)
    key = "model_over_baseline_at_longest_context"
    assert [one[key]["ridge"]["verdict"] for one in found["environments"]] == [
        "too few test episodes to tell",
        "larger",
    ]
    assert found["families"][0][key]["ridge"]["verdict"] == "too few test episodes to tell"


def test_results_are_plain_json_without_what_json_lacks(dataset: Dataset, tmp_path: Path) -> None:
    exact = made(dataset, "a/Still", copy=(0, 0), minimum_norm=(0, 0), ridge=(0, 0), model=(0.1, 0.1))
    results = Results(FACTS, {"seed": 3}, (exact,), ("still",))
    found = json.loads(json.dumps(results.as_json(findings(results)), allow_nan=False))
    (environment,) = found["environments"]
    assert environment["windows"] == len(exact.trial.test)
    assert environment["errors"]["model"]["mean"] == pytest.approx([0.1, 0.1], rel=0.02)
    assert environment["model_over_baseline_at_longest_context"]["copy"]["ratio"] is None
    assert environment["by_variate_at_longest_context"][1]["model"] is None
    assert found["families"][0]["environments"] == ["a/Still"]
    assert found["kind"] == "zero-shot"
    assert found["model"] == asdict(FACTS)
    assert found["model"]["step"] == 9000
    draw(results, tmp_path / "still.png")
    nothing = made(dataset, "a/Still", copy=(0, 0), minimum_norm=(0, 0), ridge=(0, 0), model=(0, 0))
    draw(Results(FACTS, {}, (nothing,), ("still",)), tmp_path / "still.png")


def test_a_model_whose_training_is_not_known_is_said_to_be(dataset: Dataset, tmp_path: Path) -> None:
    each = made(dataset, "a/Good", copy=(1, 1), minimum_norm=(1, 3), ridge=(1, 0.5), model=(0.8, 0.2))
    for known in (True, False):
        results = Results(replace(FACTS, training_known=known), {}, (each, each), ("one", "two"))
        said = [sentence for sentence in findings(results) if "What this model saw is not known" in sentence]
        assert said == ([] if known else findings(results)[:1])
        (title,) = figure_of(results).texts
        assert ("pre-training never saw" in title.get_text()) == known
        assert ("what this model saw is not known" in title.get_text()) == (not known)


def test_the_folder_holds_json_markdown_and_a_picture(dataset: Dataset, tmp_path: Path) -> None:
    few = made(dataset, "a/Few", 3, copy=(1, 1), minimum_norm=(1, 3), ridge=(1, 0.5), model=(0.8, 0.2))
    many = made(dataset, "a/Many", copy=(1, 1), minimum_norm=(1, 3), ridge=(1, 0.5), model=(0.8, 0.2))
    results = Results(FACTS, {}, (few, many, many), ("one", "two", "two"))
    write_results(results, findings(results), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)
    text = (tmp_path / "out" / "results.md").read_text()
    assert text.startswith("One-step error of `m.keras` (step 9,000) in standard deviations")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    by_predictor, by_context = rows[:6], rows[6:]
    assert [row[0] for row in by_predictor[2:]] == ["Few", "**two** (mean of 2)", "Many", "Many"]
    assert by_predictor[2][1:3] == ["6", "3"]
    assert not [cell for cell in by_predictor[2] if "[" in cell], "no interval from three episodes"
    mean, low, high = many.errors.curve(MODEL)[:, -1]
    assert by_predictor[4][-1] == f"{number(mean)} [{number(low)}–{number(high)}]"
    assert by_context[0] == ["environment", "1", "19"]
    assert by_context[4] == ["Many", number(many.errors.of(MODEL, 1)), number(mean)]
    assert all(f"- {sentence}" in text for sentence in findings(results))


@pytest.mark.parametrize("families", [1, 2, 5])
def test_a_picture_has_a_panel_for_each_family(dataset: Dataset, families: int, tmp_path: Path) -> None:
    each = made(dataset, "a/Good", copy=(1, 1), minimum_norm=(1, 3), ridge=(1, 0.5), model=(0.8, 0.2))
    names = tuple(f"family {number}" for number in range(families))
    results = Results(FACTS, {}, (each,) * families, names)
    figure = figure_of(results)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Good"] * families
    for axes in figure.axes:
        assert len(axes.lines) == len(PREDICTORS)
        assert axes.get_yscale() == "log"
        low, high = axes.get_ylim()
        assert low < 0.2 < 3 < high
    draw(results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(TrajWorldError, match="cannot write"):
        draw(results, Path("/proc/nowhere/picture.png"))


def test_the_best_context_is_the_one_of_least_error() -> None:
    errors = Errors(("model",), (1, 5, 19), np.array([[0.3, 0.1, 0.2]]), np.zeros((2, 1, 3)), 20)
    assert Group("x", errors).best_context("model") == 5
