"""The active backend: compiled functions, and training steps against NumPy."""

import re
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from numpy_reference import Array, numpy

from trajworld.backend import active_backend
from trajworld.models.identity import Identity
from trajworld.models.interface import kind_of, new_model
from trajworld.training.config import resolve_config
from trajworld.training.optimizer import exchange_averages, make_optimizer


def linear_model() -> tuple[keras.Model, list[Array]]:
    """A dense layer of known weights; and those weights."""
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
    weights = [rng.normal(size=shape).astype(np.float32) for shape in ((3, 2), (2,))]
    model.set_weights(weights)
    return model, weights


def optimizer_of(name: str = "adamw", **options: float) -> keras.optimizers.Optimizer:
    given = {"datasets": ["none"], "optimizer": name, **options}
    return make_optimizer(resolve_config("train", options=given))


def orthogonalised(matrix: Array) -> Array:
    """Muon's polynomial of the singular values, five times over, which Newton and Schulz's iteration approaches."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.sqrt(np.sum(values**2))
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left * values @ right


def square_step(model: keras.Model, optimizer: Any) -> Any:
    """A step on the mean squared error."""
    return active_backend().training_step(model, optimizer, lambda x, y: ops.mean(ops.square(model(x) - y)))


def gradients_of(weights: list[Array], x: Array, y: Array) -> tuple[float, list[Array]]:
    """Value and analytic gradients of the mean squared error of ``x @ kernel + bias``."""
    error = x @ weights[0] + weights[1] - y
    return float(np.mean(error**2)), [2 * x.T @ error / error.size, 2 * error.sum(axis=0) / error.size]


@pytest.mark.parametrize(
    ("name", "decay", "clip", "average"),
    [("adamw", 0.3, 0.25, 0.8), ("adamw", 0.0, 1e9, 0.0), ("muon", 0.3, 0.25, 0.8)],
)
def test_training_steps_are_the_optimisers_after_clipping_the_global_norm(
    name: str, decay: float, clip: float, average: float, caplog: pytest.LogCaptureFixture
) -> None:
    """On batches of many sizes, without a warning; and the average is that of the weights after each step."""
    model, start = linear_model()
    optimizer = optimizer_of(name, weight_decay=decay, clip_norm=clip, average=average)
    rng = np.random.default_rng(1)
    step = square_step(model, optimizer)
    weights = [array.astype(np.float64) for array in start]
    first = [np.zeros_like(array) for array in weights]
    second = [np.zeros_like(array) for array in weights]
    means = weights.copy()
    for index, rate in enumerate((0.02, 0.05, 0.01, 0.01, 0.02, 0.02, 0.02), start=1):
        x, y = (rng.normal(size=(4 + index, size)).astype(np.float32) for size in (3, 2))
        value, gradients = gradients_of(weights, x.astype(np.float64), y.astype(np.float64))
        norm = np.sqrt(sum(np.sum(gradient**2) for gradient in gradients))
        assert norm > 0.5  # Or else clipping would not be tried.
        for place, gradient in enumerate(gradients):
            gradient = gradient * min(1.0, clip / norm)
            if name == "muon" and gradient.ndim == 2:
                first[place] = 0.95 * first[place] + gradient
                step_of = orthogonalised(gradient + 0.95 * first[place]) * 0.2 * np.sqrt(max(gradient.shape))
            else:
                first[place] = 0.9 * first[place] + 0.1 * gradient
                second[place] = 0.999 * second[place] + 0.001 * gradient**2
                spread = np.sqrt(second[place] / (1 - 0.999**index))
                step_of = first[place] / (1 - 0.9**index) / (spread + 1e-8)
            weights[place] = weights[place] - rate * (step_of + decay * weights[place])
            share = average if index > 1 else 0.0
            means[place] = share * means[place] + (1 - share) * weights[place]
        np.testing.assert_allclose(numpy(step(rate, x, y)), value, rtol=1e-5)
    step.write_back()
    for held in (weights, means, weights):
        for variable, expected in zip(model.weights, held, strict=True):
            np.testing.assert_allclose(numpy(variable.value), expected, rtol=1e-4, atol=1e-5)
        exchange_averages(model, optimizer)
    assert np.abs(weights[0] - means[0]).max() > 0.01 or not average
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_write_back_writes_weights_and_the_optimisers_state(name: str) -> None:
    """A run that goes on from what was written back does what it would have done without a stop."""
    rng = np.random.default_rng(10)
    x, y = (rng.normal(size=(5, size)).astype(np.float32) for size in (3, 2))

    def run(stop: bool) -> list[Array]:
        (model, _), optimizer = linear_model(), optimizer_of(name)
        step = square_step(model, optimizer)
        for _ in range(4):
            step(0.05, x, y)
            if stop:
                step.write_back()
                step = square_step(model, optimizer)
        step.write_back()
        assert int(numpy(optimizer.iterations.value)) == 4
        return [numpy(variable.value).copy() for variable in [*model.weights, *optimizer.variables]]

    _, start = linear_model()
    steady, interrupted = run(False), run(True)
    for one, other in zip(steady, interrupted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(steady[0] - start[0]).min() > 0.01


@pytest.mark.parametrize("kind", ["trajworld", "tdm"])
def test_muon_is_for_the_matrices_of_the_blocks(kind: str) -> None:
    model, optimizer = new_model(kind_of(kind).preset("tiny"), Identity()), optimizer_of("muon")
    optimizer.build(model.trainable_variables)
    pairs = zip(model.trainable_variables, optimizer.adam_velocities, strict=True)
    found = [variable.path for variable, velocity in pairs if velocity is None]
    expected = [one.path for one in model.trainable_variables if re.search("block_.*kernel", one.path)]
    assert found == expected
    assert len(found) == 4 * model.sizes.blocks * (2 if kind == "trajworld" else 1)


def test_compiled_functions_see_updated_weights() -> None:
    model, weights = linear_model()
    compiled = active_backend().compile(model, model)
    x = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_allclose(numpy(compiled(x)), x @ weights[0] + weights[1], atol=1e-5)
    model.set_weights([2 * weights[0], weights[1] + 1])
    np.testing.assert_allclose(numpy(compiled(x)), x @ (2 * weights[0]) + weights[1] + 1, atol=1e-5)
    step = square_step(model, optimizer_of())
    step(1.0, x, np.zeros((4, 2), np.float32))
    step.write_back()
    kernel, bias = model.get_weights()
    assert np.abs(bias - weights[1] - 1).min() > 0.5
    np.testing.assert_allclose(numpy(compiled(x)), x @ kernel + bias, atol=1e-4)


def test_a_compiled_function_is_traced_for_its_shapes_not_its_values() -> None:
    model, weights = linear_model()
    traced = []

    def counted(pair: Any) -> Any:
        traced.append(None)
        return {"sum": model(pair[0]) + ops.cast(pair[1], "float32")}

    compiled = active_backend().compile(counted, model)
    for scale in range(10):
        x = np.full((1 + scale // 5, 3), scale, np.float32)
        found = numpy(compiled((x, np.int32(scale)))["sum"])
        np.testing.assert_allclose(found, x @ weights[0] + weights[1] + scale, rtol=1e-5, atol=1e-5)
    assert len(traced) == (10 if keras.backend.backend() == "torch" else 2)


def test_peak_memory_counts_what_is_held_and_freeing_keeps_functions_working() -> None:
    backend = active_backend()
    model, weights = linear_model()
    compiled = backend.compile(model, model)
    x = np.ones((4, 3), np.float32)
    backend.wait(compiled(x))
    before, rows = backend.peak_memory(), 4_000_000
    assert before
    large = ops.ones((rows, 32), "float32")
    backend.wait(large)
    # Peaks of earlier tests in this process may hide a part, but on a CPU a peak is never below what is held.
    after = backend.peak_memory()
    assert after >= max(before, rows * 32 * 4)
    del large
    backend.free_memory()
    assert backend.peak_memory() >= 0.99 * after  # Linux counts pages in batches.
    np.testing.assert_allclose(numpy(compiled(x)), x @ weights[0] + weights[1], atol=1e-5)


def test_the_norm_that_clips_sums_repeated_lookups_of_an_embedding() -> None:
    embedding = keras.layers.Embedding(3, 2)
    model = keras.Sequential([keras.Input((4,), dtype="int32"), embedding])
    start = np.ones((3, 2), np.float32)
    model.set_weights([start])
    gradient = np.array([[3.0, 3.0], [1.0, 1.0], [0.0, 0.0]])
    step = active_backend().training_step(
        model, keras.optimizers.SGD(1.0, global_clipnorm=0.25), lambda x: ops.sum(model(x))
    )
    step(1.0, np.array([[0, 0, 1, 0]], np.int32))
    step.write_back()
    (found,) = model.get_weights()
    np.testing.assert_allclose(found, start - gradient * 0.25 / np.linalg.norm(gradient), atol=1e-6)


@pytest.mark.parametrize(
    ("features", "units"), [(64, 256), (256, 64), (16, 48), (256, 1024), (300, 300), (5, 3)]
)
def test_the_product_and_its_gradient_are_those_of_matrices(features: int, units: int) -> None:
    rng = np.random.default_rng(features)
    x, kernel, weights = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((37, features), (features, units), (37, units))
    )

    layer = keras.layers.Layer()  # Both factors are weights, so that a step shows both gradients.
    for factor in (x, kernel):
        layer.add_weight(shape=factor.shape)
    layer.set_weights([x, kernel])

    def product(scale: Any) -> Any:
        return active_backend().product(*map(ops.convert_to_tensor, layer.weights)) * scale

    found = numpy(active_backend().compile(product, layer)(weights))
    np.testing.assert_allclose(found, x.astype(float) @ kernel * weights, atol=2e-3)
    step = active_backend().training_step(
        layer, keras.optimizers.SGD(1.0), lambda scale: ops.sum(product(scale))
    )
    step(1.0, weights)
    step.write_back()
    found_x, found_kernel = layer.get_weights()
    np.testing.assert_allclose(found_x, x - weights.astype(float) @ kernel.T, atol=2e-3)
    np.testing.assert_allclose(found_kernel, kernel - x.T.astype(float) @ weights, atol=2e-3)
