"""What the trials of a study draw: refused at once where it cannot be trained on, and how alike seeds are."""

from pathlib import Path

import numpy as np
import pytest
from training_fixtures import store
from transfer_fixtures import SETTINGS, made_up_trial, study_data_in, study_plan

from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode
from trajworld.data.resolve import open_dataset
from trajworld.data.store import write_store
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.brief import brief_errors
from trajworld.evaluation.prediction import copy_last_row_errors
from trajworld.training.sources import open_parts
from trajworld.transfer.data import EnvironmentData
from trajworld.transfer.draws import check_draws, shared_part
from trajworld.transfer.plan import FROM_SCRATCH, Trial
from trajworld.transfer.records import read_trial, trial_key, write_trial
from trajworld.transfer.trials import Point, trial_config


def pool_of(folder: Path, lengths: tuple[int, ...]) -> Dataset:
    return open_dataset(store(folder, lengths=lengths))


def data_of(pool: Dataset, test: Dataset | None = None) -> EnvironmentData:
    return EnvironmentData("test/pool", pool, test or pool, ())


def trains(pool: Dataset, size: int, seed: int) -> bool:
    """Whether a trial's own run would find enough episodes."""
    trial = Trial(FROM_SCRATCH, "test/pool", size, 1e-3, seed)
    try:
        open_parts(trial_config(trial, SETTINGS, str(pool.path)))
    except TrajWorldError:
        return False
    return True


def test_a_draw_of_one_episode_is_refused_with_what_would_do(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "pool", (30, 5, 6, 7, 28, 5))
    fine = [trains(pool, 20, seed) for seed in range(6)]
    assert True in fine
    assert False in fine
    for seeds in range(1, 7):
        plan = study_plan(sizes=(20, 60), seeds=seeds)
        if all(fine[:seeds]):
            check_draws(plan, [data_of(pool)])
            continue
        message = f"test/pool: 20 transitions with seed {fine.index(False)} are one"
        with pytest.raises(UsageError, match=message) as raised:
            check_draws(plan, [data_of(pool)])
        least = int(str(raised.value).rpartition("let --sizes begin with at least ")[2])
        # Exactly so many are needed.
        assert all(trains(pool, least, seed) for seed in range(seeds))
        assert not all(trains(pool, least - 1, seed) for seed in range(seeds))
        check_draws(study_plan(sizes=(least, 100), seeds=seeds), [data_of(pool)])


def test_a_pool_of_one_episode(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="collect more with --pool"):
        check_draws(study_plan(), [data_of(pool_of(tmp_path / "pool", (30,)))])


def test_how_much_two_seeds_share(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "pool", (5,) * 80)
    assert shared_part(pool, 100, 1) is None
    assert shared_part(pool, 400, 3) == 1.0
    # Two draws of four fifths have four fifths in common, but for chance.
    assert shared_part(pool, 320, 12) == pytest.approx(0.8, abs=0.02)
    assert shared_part(pool, 5, 2) == 0.0


def still(folder: Path, varying_reward: bool) -> Dataset:
    """Episodes whose observations never change."""
    rng = np.random.default_rng(0)
    episodes = [
        Episode(
            observations=np.ones((9, 3), np.float32),
            actions=rng.uniform(-1, 1, (8, 2)).astype(np.float32),
            # A first row's reward is 0 whatever the rewards are.
            rewards=rng.normal(size=8) if varying_reward else np.zeros(8),
            terminated=True,
        )
        for _ in range(3)
    ]
    write_store(folder, episodes, name="still", source="", environment="")
    return open_dataset(folder)


def test_a_test_set_in_which_nothing_varies_is_refused(tmp_path: Path) -> None:
    pool = study_data_in(tmp_path).pool
    with pytest.raises(TrajWorldError, match="test/pool: nothing varies in the test set"):
        check_draws(study_plan(), [data_of(pool, still(tmp_path / "still", False))])


def test_observations_that_do_not_vary_have_no_error_of_their_own(tmp_path: Path) -> None:
    dataset = still(tmp_path / "still", True)
    check_draws(study_plan(), [data_of(study_data_in(tmp_path).pool, dataset)])
    brief = brief_errors(copy_last_row_errors(dataset))
    assert brief.normalised_mae > 0
    assert brief.normalised_mae_observation is None
    # JSON has null for it, and no NaN.
    trial = Trial(FROM_SCRATCH, "test/pool", 20, 1e-3, 0)
    key, result = trial_key(trial, SETTINGS, "data", ""), made_up_trial(0.5)
    result = type(result)(
        tuple(Point(one.step, brief, one.holdout_loss) for one in result.points), 90, 10, 1.0
    )
    write_trial(tmp_path / "record.json", key, result)
    assert read_trial(tmp_path / "record.json", key) == result
