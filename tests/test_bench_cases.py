"""What the benchmarks go through and draw: nominal work, the same weights and batches from a seed."""

import numpy as np
import pytest

from trajworld.benchmarks import draws
from trajworld.benchmarks.cases import (
    FOLDER,
    SIZES,
    SUITES,
    Case,
    cases,
    forward_flops,
    horizons,
    projection_flops,
    rollout_flops,
    training_flops,
)
from trajworld.models.trajworld import TrajWorld


def test_work_is_counted_as_the_project_defines_it() -> None:
    case = Case("d64x2", 18, "float32")
    assert (case.batch, case.sizes.width, case.sizes.blocks, case.rows_read) == (32, 64, 2, 19)
    tokens = 32 * 19 * 18
    assert forward_flops(case, 19) == 48 * 64**2 * 2 * tokens
    assert training_flops(case) == 3 * forward_flops(case, 19) == 12_910_067_712
    # 19 rows are encoded for 10 predictions, 38 for 11 to 20.
    paper = Case("paper", 15, "float32")
    assert rollout_flops(paper, 10, 10, 10) == 48 * 256**2 * 6 * 32 * 15 * 19
    assert (
        rollout_flops(paper, 11, 10, 10)
        == rollout_flops(paper, 20, 10, 10)
        == 2 * rollout_flops(paper, 10, 10, 10)
    )
    assert projection_flops(Case("small", 6, "float32", 2)) == 2 * 256 * 64 * 2 * 20 * 6


@pytest.mark.parametrize("count", [2, 6, 15, 18, 40])
def test_a_case_has_observations_a_reward_and_actions(count: int) -> None:
    case = Case("tiny", count, "float32")
    assert case.observations + 1 + case.actions == count
    assert case.actions >= 1


def test_every_suite_has_its_file_and_its_cases() -> None:
    assert {path.name for path in FOLDER.glob("test_*.py")} == {suite.file for suite in SUITES.values()}
    for quick in (True, False):
        for suite in ("training", "forward", "rollout", "tokenizing", "memory"):
            found = cases(suite, quick)
            assert len(set(found)) == len(found) > 0
            assert {case.size for case in found} <= set(SIZES)


def test_quick_runs_paper_once_and_a_full_run_everything() -> None:
    for suite, dtypes in (("training", 1), ("rollout", 1), ("forward", 0)):
        assert sum(case.size == "paper" for case in cases(suite, True)) == dtypes
        assert len({case.variates for case in cases(suite, True) if case.size in ("tiny", "small")}) == 1
        full = cases(suite, False)
        assert len({(case.size, case.variates, case.dtype) for case in full}) == 3 * 3 * 2 + 2
    assert horizons(Case("paper", 15, "float32"), True) == (10,)
    assert len(horizons(Case("paper", 15, "float32"), False)) == 3


def test_weights_are_drawn_from_the_seed_alone() -> None:
    case = Case("tiny", 6, "float32")
    first, second = draws.make_model(case), TrajWorld(case.sizes)
    before = [np.array(value) for value in second.get_weights()]
    draws.set_drawn_weights(second)
    for one, other, old in zip(first.get_weights(), second.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
        assert not np.array_equal(one, old)
    kernels = {
        variable.path: np.asarray(value)
        for variable, value in zip(first.weights, first.get_weights(), strict=True)
    }
    head = next(value for path, value in kernels.items() if path.endswith("head/kernel"))
    assert head.std() == pytest.approx(32**-0.5, rel=0.05)
    positions = next(value for path, value in kernels.items() if "position_embedding" in path)
    assert positions.std() == pytest.approx(32**-0.5, rel=0.15)
    gammas = [value for path, value in kernels.items() if path.endswith("gamma")]
    assert gammas
    assert all(abs(value.mean() - 1) < 0.05 and value.std() > 0 for value in gammas)


RECORDED = (8220.812, 1906.564, 680.5018, 732.2087)


def test_weights_and_batches_are_these_numbers() -> None:
    """Recorded once: a drift of NumPy's draws or of the weights' order would compare different models unseen."""
    model = draws.make_model(Case("tiny", 6, "float32"))
    total = sum(float(np.abs(value).sum()) for value in model.get_weights())
    batch = draws.draw_batch(Case("tiny", 6, "float32"))[0]
    motion = draws.draw_motion(2, 3, 20, 4)
    found = (
        total,
        float(batch.sum()),
        *(float(np.abs(part).sum()) for part in (motion.training, motion.holdout)),
    )
    assert found == pytest.approx(RECORDED, rel=1e-5)


def test_batches_have_the_shapes_that_the_model_reads() -> None:
    case = Case("small", 15, "float32", 4)
    values, mask, variates = draws.draw_batch(case)
    assert values.shape == (4, 20, 15)
    assert mask.all()
    assert int(variates.is_action.sum()) == case.actions
    uneven, holes, _ = draws.draw_uneven_batch(case)
    assert holes.sum(axis=1).tolist() == [20, 19, 18, 17]
    assert uneven.min() < 0 < 1 < uneven.max()
    short, long = (draws.draw_rollout(case, horizon, 10) for horizon in (10, 25))
    assert long.actions.shape == (4, 25, case.actions)
    np.testing.assert_array_equal(short.actions, long.actions[:, :10])


def test_motion_can_be_learnt_and_its_holdout_was_not_seen() -> None:
    motion = draws.draw_motion(steps=5, batch=4, window=20, holdout=8)
    assert motion.training.shape == (5, 4, 20, 6)
    assert motion.holdout.shape == (8, 20, 6)
    assert np.isfinite(motion.training).all()
    rows = motion.training.reshape(-1, 20, 6)
    held = {row.tobytes() for window in motion.holdout for row in window}
    assert not held & {row.tobytes() for window in rows for row in window}
    # The next state is a linear function of this row.
    now, then = rows[:, :-1].reshape(-1, 6), rows[:, 1:, :4].reshape(-1, 4)
    error = then - now @ np.linalg.lstsq(now, then, rcond=None)[0]
    assert np.abs(error).max() < 1e-3
