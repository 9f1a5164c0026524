"""What the quickstart does: a fixed plan of models, amounts and steps, shown before it starts."""

from dataclasses import dataclass, replace

from trajworld.errors import UsageError


@dataclass(frozen=True)
class Plan:
    """The plan.

    Attributes:
        model: The pre-trained model that is fine-tuned: one that ships, and that never saw the target.
        preset: Its preset, which the model from scratch has too.
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

    model: str
    preset: str
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
    model="trajworld-small",
    preset="small",
    target="gymnasium/Hopper-v5",
    sizes=(1000, 4000, 16_000),
    pool_transitions=20_000,
    test_transitions=5000,
    test_windows=1024,
    learning_rates=(3e-3, 6e-3),
    steps=100,
    batch=16,
    horizon=50,
)

PLANS: dict[str, Plan] = {
    "small": _SMALL,
    "tiny": replace(
        _SMALL,
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
