"""What the benchmarks go through and draw: nominal work, the same weights and batches from a seed."""

import numpy as np
import pytest

from trajworld.benchmarks import cases as benchmarks
from trajworld.benchmarks import draws
from trajworld.benchmarks.cases import FOLDER, SIZES, SUITES, Case, cases, horizons
from trajworld.models.trajworld import TrajWorld


def test_work_is_counted_as_the_project_defines_it():
    case = Case("d64x2", 18, "float32")
    assert (case.batch, case.sizes.width, case.sizes.blocks, case.rows_read) == (32, 64, 2, 19)
    # Each row's variate, by each kernel that it meets: 2 operations for each of a kernel's weights.
    kernels = [
        weight.shape
        for weight in TrajWorld(case.sizes).weights
        if weight.path.endswith("kernel") and "block_" in weight.path
    ]
    work = 2 * sum(rows * columns for rows, columns in kernels)
    assert benchmarks.forward_flops(case, 19) == work * 32 * 19 * 18
    assert benchmarks.training_flops(case) == 3 * work * 32 * 19 * 18 == 12_910_067_712
    # 19 rows are encoded for 10 predictions, 38 for 11 to 20.
    one, two, three = (benchmarks.rollout_flops(case, horizon, 10, 10) for horizon in (10, 11, 20))
    assert (one, two, three) == (work * 32 * 18 * 19, 2 * one, 2 * one)
    assert benchmarks.projection_flops(Case("small", 6, "float32", 2)) == 2 * 256 * 64 * 2 * 20 * 6


def test_every_suite_has_its_file_and_its_cases():
    assert {path.name for path in FOLDER.glob("test_*.py")} == {suite.file for suite in SUITES.values()}
    for suite in ("training", "forward", "rollout", "tokenizing", "memory"):
        for quick in (True, False):
            found = cases(suite, quick)
            assert len(set(found)) == len(found) > 0
            assert {case.size for case in found} <= set(SIZES)
            assert all(case.observations + 1 + case.actions == case.variates for case in found)
    for suite, papers in (("training", 1), ("rollout", 1), ("forward", 0)):
        assert sum(case.size == "paper" for case in cases(suite, True)) == papers
        assert len(cases(suite, False)) == 3 * 3 * 2 + 2
    assert horizons(Case("paper", 15, "float32"), True) == (10,)


def test_weights_are_drawn_from_the_seed_alone():
    first, second = draws.make_model(Case("tiny", 6, "float32")), TrajWorld(SIZES["tiny"])
    assert not np.array_equal(first.get_weights()[0], second.get_weights()[0])
    draws.set_drawn_weights(second)
    values = {weight.path.partition("/")[2]: np.array(weight) for weight in first.weights}
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    # The sizes that training starts with.
    assert values["head/kernel"].std() == pytest.approx(32**-0.5, rel=0.05)
    assert values["position_embedding/embeddings"].std() == pytest.approx(32**-0.5, rel=0.15)
    gammas = [value for path, value in values.items() if path.endswith("gamma")]
    assert gammas
    assert all(abs(value.mean() - 1) < 0.05 and value.std() > 0 for value in gammas)


def test_weights_and_batches_are_these_numbers():
    """Recorded once: a drift of NumPy's draws or of the weights' order would compare different models unseen."""
    case = Case("tiny", 6, "float32")
    motion = draws.draw_motion(2, 3, 20, 4)
    arrays = [draws.draw_batch(case)[0], motion.training, motion.holdout]
    found = [sum(float(np.abs(value).sum()) for value in draws.make_model(case).get_weights())]
    found += [float(np.abs(array).sum()) for array in arrays]
    assert found == pytest.approx([8220.812, 1906.564, 680.5018, 732.2087], rel=1e-5)


def test_batches_have_the_shapes_that_the_model_reads():
    case = Case("small", 15, "float32", 4)
    values, mask, variates = draws.draw_batch(case)
    assert (values.shape, mask.all(), variates.is_action.sum()) == ((4, 20, 15), True, case.actions)
    uneven, holes, _ = draws.draw_uneven_batch(case)
    assert holes.sum(axis=1).tolist() == [20, 19, 18, 17]
    assert uneven.min() < 0 < 1 < uneven.max()
    short, long = (draws.draw_rollout(case, horizon, 10)[2] for horizon in (10, 25))
    assert long.shape == (4, 25, case.actions)
    np.testing.assert_array_equal(short, long[:, :10])


def test_motion_can_be_learnt_and_its_holdout_was_not_seen():
    motion = draws.draw_motion(steps=5, batch=4, window=20, holdout=8)
    assert (motion.training.shape, motion.holdout.shape) == ((5, 4, 20, 6), (8, 20, 6))
    rows = motion.training.reshape(-1, 20, 6)
    held = {row.tobytes() for window in motion.holdout for row in window}
    assert not held & {row.tobytes() for window in rows for row in window}
    # The next state is a linear function of this row.
    now, then = rows[:, :-1].reshape(-1, 6), rows[:, 1:, :4].reshape(-1, 4)
    error = then - now @ np.linalg.lstsq(now, then, rcond=None)[0]
    assert np.abs(error).max() < 1e-3
