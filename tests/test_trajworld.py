"""TrajWorld against a plain float64 NumPy implementation of the definition, and what must not change it."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from numpy_reference import Array, FlatReference, Reference, known_variates, numpy, weights_of_model, windows

from trajworld.backend import active_backend
from trajworld.data.batch import Variates
from trajworld.errors import TrajWorldError, UsageError
from trajworld.models.identity import Identity
from trajworld.models.interface import MODELS, new_model
from trajworld.models.sizes import TDMSizes, TrajWorldSizes, TransformerSizes
from trajworld.models.trajworld import TrajWorld

SIZES = TrajWorldSizes(blocks=2, width=8, heads=2, window=6, bins=16, variates=12, dropout=0.2)


def randomised(sizes: TransformerSizes, seed: int = 0, dtype: str = "float32") -> Any:
    """A model all of whose weights, biases and norms included, are random."""
    rng = np.random.default_rng(seed)
    model = new_model(sizes, Identity(), dtype)
    for variable in model.weights:
        centre = 1.0 if variable.path.endswith("gamma") else 0.0
        variable.assign(centre + rng.normal(0, 0.3, variable.shape).astype(np.float32))
    return model


@pytest.fixture(scope="module")
def model() -> TrajWorld:
    return randomised(SIZES)


@pytest.fixture(scope="module")
def predict(model: TrajWorld) -> Callable[..., Array]:
    compiled = active_backend().compile(model, model)
    return lambda *arrays: numpy(compiled(*arrays))


@pytest.mark.parametrize(
    ("observations", "actions", "padded"), [(3, 2, None), (1, 1, None), (4, 3, 12), (2, 0, 5)]
)
def test_the_forward_pass_is_the_definition(
    model: TrajWorld, predict: Callable[..., Array], observations: int, actions: int, padded: int | None
) -> None:
    """The same model, not rebuilt, for several numbers of variates, whatever stands in padded rows."""
    variates = known_variates(observations, actions, padded)
    values, time_mask = windows(variates)
    found = predict(values, time_mask, variates)
    expected = Reference(model.sizes, weights_of_model(model))(values, time_mask, variates)
    assert found.shape == expected.shape == (*values.shape, SIZES.bins)
    real = time_mask > 0
    np.testing.assert_allclose(found[real], expected[real], atol=2e-4)


def test_too_many_variates_or_rows_are_refused_by_name(model: TrajWorld) -> None:
    variates = known_variates(11, 1)
    values, time_mask = windows(variates)
    with pytest.raises(TrajWorldError, match=r"^13 variates are more than the 12 .* \(--variates 13\)$"):
        model(values, time_mask, variates)
    variates = known_variates(2, 1)
    values, time_mask = windows(variates, rows=7)
    for call in (model, model.start):
        with pytest.raises(TrajWorldError, match=r"^a window of 7 rows is longer than the model's 6$"):
            call(values, time_mask, variates)
    with pytest.raises(TrajWorldError, match=r"must be \[windows, rows, variates\]"):
        model(values[0], time_mask[0], variates)


def test_mixed_precision_computes_in_bfloat16_but_reads_raw_values_in_float32() -> None:
    sizes = TrajWorldSizes(blocks=1, width=16, heads=2, window=6, bins=32, variates=12)
    exact, mixed = randomised(sizes), randomised(sizes, dtype="mixed_bfloat16")
    assert {str(keras.backend.standardize_dtype(variable.dtype)) for variable in mixed.weights} == {"float32"}
    # Values whose differences bfloat16 cannot hold: near 1000, it has steps of 4.
    lower = np.full(4, 1000.0, np.float32)
    variates = Variates(np.array([0, 0, 0, 1], np.int32), lower, lower + 1, None)
    values = (lower + np.random.default_rng(0).uniform(size=(2, 6, 4))).astype(np.float32)
    time_mask = np.ones((2, 6), np.float32)
    exactly = active_backend().compile(exact, exact)
    reference = numpy(exactly(values, time_mask, variates))
    logits = active_backend().compile(mixed, mixed)(values, time_mask, variates)
    assert keras.backend.standardize_dtype(logits.dtype) == "bfloat16"
    found = numpy(ops.cast(logits, "float32"))
    error, scale = np.abs(found - reference), reference.std()
    assert 1e-4 * scale < error.mean() < 0.02 * scale
    rounded = numpy(ops.cast(ops.cast(ops.convert_to_tensor(values), "bfloat16"), "float32"))
    other = numpy(exactly(rounded, time_mask, variates))
    assert error.mean() < 0.2 * np.abs(other - reference).mean()


@pytest.mark.parametrize(
    ("sizes", "reference"),
    [
        (SIZES, Reference),
        (TDMSizes(blocks=2, width=8, heads=2, window=6, bins=16, dropout=0.2), FlatReference),
    ],
)
def test_dropout_is_the_definition(sizes: TransformerSizes, reference: type[Reference]) -> None:
    model, variates = randomised(sizes), known_variates(3, 2)
    values, time_mask = windows(variates)
    compiled = active_backend().compile(lambda *arrays: model(*arrays[:3], seed=arrays[3]), model)
    found = numpy(compiled(values, time_mask, variates, np.int32(3)))
    expected = reference(sizes, weights_of_model(model), 3)(values, time_mask, variates)
    np.testing.assert_allclose(found[time_mask > 0], expected[time_mask > 0], atol=2e-4)


def test_presets_are_as_large_as_they_say_and_initialised_as_defined() -> None:
    assert MODELS["trajworld"].preset("tiny", variates=None, bins=32) == TrajWorldSizes(2, 32, 2, bins=32)
    for wrong in ({"blocks": 0}, {"heads": 5}, {"dropout": 1.0}, {"bins": -1}):
        with pytest.raises(UsageError):
            MODELS["trajworld"].preset("tiny", **wrong)
    sizes = TrajWorldSizes.presets["small"]
    assert (sizes.parameters, TrajWorldSizes.presets["paper"].parameters) == pytest.approx(
        (0.34e6, 9.6e6), rel=0.02
    )
    model = TrajWorld(sizes)
    assert model.count_params() == sizes.parameters
    weights = weights_of_model(model)
    for name, inputs in (
        ("input_projection/kernel", 256),
        ("block_0_time/contraction/kernel", 256),
        ("block_1_variate/query_key_value/kernel", 64),
        ("variate_embedding/embeddings", 64),
    ):
        assert weights[name].std() == pytest.approx(inputs**-0.5, rel=0.05)
    assert not weights["head/bias"].any()


def test_a_window_may_lack_its_first_padded_rows(model: TrajWorld) -> None:
    known = known_variates(3, 1)
    values, mask = windows(known)
    values[:, :2], mask[:, :2] = 0, 0

    def last_rows(first: int, **options: int) -> Array:
        compiled = active_backend().compile(functools.partial(model, rows=2, **options), model)
        return numpy(compiled(values[:, first:], mask[:, first:], known))

    whole = last_rows(0)
    np.testing.assert_allclose(last_rows(1, offset=1), whole, rtol=1e-4, atol=1e-5)
    elsewhere = last_rows(1)
    assert np.abs(elsewhere - whole).max() > 1e-3, "positions matter"
    with pytest.raises(TrajWorldError, match="longer than the model's 6"):
        model(values[:, 1:], mask[:, 1:], known, offset=2)
