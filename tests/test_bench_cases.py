"""What the benchmarks go through and draw: nominal work, the same weights and batches from a seed."""

import io

import keras
import numpy as np
import pytest
from numpy_reference import Reference, weights_of_model

from trajworld.benchmarks import draws
from trajworld.benchmarks.cases import Case
from trajworld.benchmarks.tasks import ARRAYS, benchmark


@pytest.mark.once
def test_work_is_counted_as_the_project_defines_it():
    case = Case("small", 18)
    # Each row's variate, by each kernel that it meets: 2 operations for each of a kernel's weights.
    kernels = [
        weight.shape
        for weight in draws.make_model(case).weights
        if weight.path.endswith("kernel") and "block_" in weight.path
    ]
    work = 2 * sum(rows * columns for rows, columns in kernels)
    assert case.flops(case.rows_read) == work * 32 * 19 * 18 == 6_455_033_856
    # 19 rows are encoded for 10 predictions, 38 for 11 to 20.
    found = [case.rollout_flops(horizon, 10, 10) / (work * 32 * 18 * 19) for horizon in (10, 11, 20)]
    assert found == [1, 2, 2]


def test_weights_and_batches_are_these_numbers():
    """Recorded once: a drift of NumPy's draws or of the weights' order would compare different models unseen."""
    case = Case("tiny", 6)
    training, holdout, _ = draws.draw_motion(2, 3, 20, 4)
    weights = np.concatenate([np.ravel(weight) for weight in draws.make_model(case).get_weights()])
    (uneven, holes, *_), rollout = draws.draw_uneven_batch(case), draws.draw_rollout(case, 25, 10)
    arrays = [weights.astype(float), draws.draw_batch(case).values, training, holdout]
    found = [float(np.abs(array).sum()) for array in (*arrays, uneven, rollout[-1].actions)]
    assert found == pytest.approx([8220.812, 1906.564, 680.5018, 732.2087, 1180.191, 393.2133], rel=1e-5)
    assert holes.sum(axis=1)[:4].tolist() == [20, 19, 18, 17]


# The study of backends compares what each computes in it.
@pytest.mark.once
@pytest.mark.slow
def test_the_accuracy_suite_computes_the_model(monkeypatch):
    """Its logits against NumPy's in double precision, and losses that fall; compiled as a user's are."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    settings = {"suite": "accuracy", "backend": keras.backend.backend(), "device": "cpu", "quick": True}
    found = benchmark(settings, {})
    arrays = np.load(io.BytesIO(found.files[ARRAYS]))
    case = Case("tiny", batch=8)
    model, (values, mask, variates, _) = draws.make_model(case), draws.draw_uneven_batch(case)
    reference = Reference(model.sizes, weights_of_model(model))
    expected = reference(values[5:6], mask[5:6], variates)[mask[5:6] > 0]
    first = int(mask[:5].sum())
    np.testing.assert_allclose(arrays["logits/tiny"][first : first + len(expected)], expected, atol=2e-4)
    assert set(arrays) == {"logits/tiny", "logits/small", "losses", "holdout_error"}
    (row,) = [row for row in found.rows if row["measure"] == "losses"]
    assert (row["first_loss"], row["last_loss"]) == (arrays["losses"][0], arrays["losses"][-1])
