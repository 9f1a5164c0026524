"""What the quickstart does: a fixed plan of environments, amounts and steps, shown before it starts."""

from dataclasses import dataclass, replace

from trajworld.errors import UsageError


@dataclass(frozen=True)
class Plan:
    """The plan.

    Attributes:
        preset: Model preset of all runs.
        environments: Environments of pre-training: no hopper of any suite.
        pretraining_transitions: Of each of them.
        pretraining_steps: Steps of pre-training.
        pretraining_batch: Windows in a batch of pre-training.
        holdout_windows: At most so many windows of each environment are evaluated in pre-training.
        padded_sizes: M is padded to so many sizes in pre-training: each is compiled once.
        target: The unseen embodiment.
        sizes: Fine-tuning datasets: so many transitions each.
        pool_transitions: What is collected of the target; the fine-tuning datasets are nested subsets of it.
        test_transitions: What is collected of the target for the test alone.
        test_windows: Windows that are tested.
        learning_rates: Tried by both sides; each side's best on its own holdout episodes counts.
        steps: Fine-tuning steps, the same for both sides.
        batch: Windows in a batch of fine-tuning.
        horizon: Steps of the open-loop pictures.
        seed: Of everything.
    """

    preset: str
    environments: tuple[str, ...]
    pretraining_transitions: int
    pretraining_steps: int
    pretraining_batch: int
    holdout_windows: int
    padded_sizes: int
    target: str
    sizes: tuple[int, ...]
    pool_transitions: int
    test_transitions: int
    test_windows: int
    learning_rates: tuple[float, ...]
    steps: int
    batch: int
    horizon: int
    seed: int = 0


_SMALL = Plan(
    preset="small",
    environments=(
        "dm_control/cartpole-swingup",
        "dm_control/acrobot-swingup",
        "dm_control/cartpole-two_poles",
        "dm_control/reacher-easy",
        "dm_control/ball_in_cup-catch",
        "dm_control/finger-spin",
        "gymnasium/Swimmer-v5",
        "gymnasium/Reacher-v5",
        "gymnasium/InvertedDoublePendulum-v5",
    ),
    pretraining_transitions=10_000,
    pretraining_steps=1200,
    pretraining_batch=32,
    # Ten evaluations of nine holdout sets: with 1024 windows each they would cost as much as the training.
    holdout_windows=256,
    padded_sizes=2,
    target="gymnasium/Hopper-v5",
    sizes=(1000, 4000, 16_000),
    pool_transitions=20_000,
    test_transitions=5000,
    test_windows=1024,
    learning_rates=(1e-3, 3e-3, 6e-3),
    steps=100,
    batch=16,
    horizon=50,
)

PLANS: dict[str, Plan] = {
    "small": _SMALL,
    "tiny": replace(
        _SMALL,
        preset="tiny",
        environments=("gymnasium/InvertedPendulum-v5", "gymnasium/Pendulum-v1"),
        pretraining_transitions=600,
        pretraining_steps=20,
        pretraining_batch=8,
        padded_sizes=1,
        sizes=(200, 400),
        pool_transitions=600,
        test_transitions=200,
        test_windows=64,
        learning_rates=(3e-3,),
        steps=6,
        batch=8,
        horizon=10,
    ),
}


def quickstart_plan(scale: str, seed: int = 0) -> Plan:
    """The plan of a scale.

    Raises:
        UsageError: There is no such scale, or the seed is negative.
    """
    if scale not in PLANS:
        raise UsageError(f"no quickstart scale is called {scale!r}: there are {', '.join(PLANS)}")
    if seed < 0:
        raise UsageError(f"the seed cannot be negative, not {seed}")
    return replace(PLANS[scale], seed=seed)
