"""What the tests of training share: tiny runs, and a training step that no framework has to compile."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trajworld.data.episode import Episode
from trajworld.data.store import write_store
from trajworld.training.config import TrainingConfig, resolve_config

SIZES = {"blocks": 1, "width": 8, "heads": 2, "window": 4, "bins": 16}


def store(
    folder: Path,
    lengths: Sequence[int] = (9, 7, 8, 9, 6, 9),
    observations: int = 2,
    actions: int = 1,
    seed: int = 0,
    scale: float = 1.0,
) -> str:
    """Write a store of random episodes; its path is a dataset's spec."""
    rng = np.random.default_rng(seed)
    episodes = [
        Episode(
            observations=scale * rng.normal(size=(length + 1, observations)).cumsum(axis=0),
            actions=rng.uniform(-1, 1, size=(length, actions)),
            rewards=rng.normal(1, 1, size=length),
        )
        for length in lengths
    ]
    write_store(folder, episodes, name=folder.name, source="", environment=f"test/{folder.name}")
    return str(folder)


def config_for(kind: Any, datasets: Sequence[Any], **options: Any) -> TrainingConfig:
    """A configuration of a model so small that its steps take milliseconds."""
    sizes = {} if "init" in options else {"model": SIZES}
    small = {"steps": 12, "batch_size": 4, "evaluate_every": 4, "checkpoint_every": 4, "holdout_windows": 16}
    return resolve_config(
        kind, preset="tiny", options={"datasets": list(datasets), **small, **sizes, **options}
    )


@pytest.fixture
def data(tmp_path: Path) -> str:
    """A small store."""
    return store(tmp_path / "data")


class PlainStep:
    """Weights that follow from the batch, the rate and the seed in NumPy; written back only when asked, as on JAX."""

    def __init__(self, model: Any, optimizer: Any, loss: Any) -> None:
        from keras import ops

        self._weight, self._moment = model.trainable_variables[0], optimizer.variables[-1]
        self._iterations = optimizer.iterations
        self._momentum, self._average = 0.0, np.zeros(())
        if optimizer.use_ema:
            self._kept, self._momentum = optimizer._model_variables_moving_average[0], optimizer.ema_momentum
            self._average = np.array(ops.convert_to_numpy(self._kept.value))
        self._held = np.array(ops.convert_to_numpy(self._weight.value))
        self._total = np.array(ops.convert_to_numpy(self._moment.value))
        self._steps = int(ops.convert_to_numpy(self._iterations.value))

    def __call__(self, rate: float, batch: Any, seed: Any) -> float:
        noise = np.random.default_rng(int(seed) & 0xFFFFFFFF).normal(size=self._held.shape)
        self._total = (0.9 * self._total + batch.values.mean()).astype(np.float32)
        self._held = (self._held * (1 - rate) + rate * noise + 1e-3 * self._total.mean()).astype(np.float32)
        momentum = np.float32(self._momentum if self._steps else 0.0)
        self._average = momentum * self._average + (1 - momentum) * self._held
        self._steps += 1
        return float(np.abs(self._held).mean())

    def write_back(self) -> None:
        self._weight.assign(self._held)
        self._moment.assign(self._total)
        self._iterations.assign(self._steps)
        if self._momentum:
            self._kept.assign(self._average)


@pytest.fixture
def plain_steps(monkeypatch: pytest.MonkeyPatch) -> type[PlainStep]:
    """Train with :class:`PlainStep`, and evaluate by the size of its weight: what the loop does, without a compiler."""
    import trajworld.training.loop
    from trajworld.backend import active_backend

    class PlainBackend:
        name = active_backend().name

        def compile(self, function: Callable[..., Any], model: Any) -> Callable[..., Any]:
            from keras import ops

            def sums(batch: Any) -> tuple[float, float]:
                weight = ops.convert_to_numpy(model.trainable_variables[0].value)
                rows = float(batch.time_mask[:, :-1].sum())
                return rows * float(np.abs(weight).mean()), rows

            return sums

        def training_step(self, model: Any, optimizer: Any, loss: Any) -> PlainStep:
            return PlainStep(model, optimizer, loss)

    monkeypatch.setattr(trajworld.training.loop, "active_backend", PlainBackend)
    return PlainStep


def newest(run: Path) -> int:
    """The step of a run's newest checkpoint, 0 before the first."""
    return max((int(item.name[5:]) for item in run.glob("checkpoints/step-*")), default=0)


def weights_of(path: Path) -> list[np.ndarray]:
    """The weights in a model file."""
    from trajworld.models.files import load_model

    return load_model(path).get_weights()
