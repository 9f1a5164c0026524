"""What a world model is: the interface that training, model files, evaluation and rollouts know, and nothing else.

A new kind of model is one file with a class that implements :class:`WorldModel`, its sizes in
:mod:`trajworld.models.sizes`, and one entry of :data:`MODELS`.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from trajworld.data.batch import Batch, Variates
from trajworld.errors import UsageError
from trajworld.models.identity import Identity
from trajworld.models.sizes import TrajWorldSizes

Tensor = Any
State = Any
"""Where a rollout stands, as its model keeps it: a structure of tensors, the same at each step."""

Short = Literal["padded", "unpadded"]

DEFAULT = "trajworld"
"""The kind of a model or configuration that names none."""


class Sizes(Protocol):
    """What the shapes of a model's weights follow from; a frozen dataclass of numbers.

    Attributes:
        presets: Sizes by name.
        runs: By preset and kind of run (``pretrain`` or ``train``), the settings of :class:`trajworld.training.config.
            TrainingConfig` that a preset brings.
        window: T, the most rows a window holds.
        variates: The most variates that it can read.
        parameters: How many weights a model of these sizes has.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    presets: ClassVar[Any]
    runs: ClassVar[Any]

    def __init__(self, **sizes: Any) -> None: ...

    @property
    def window(self) -> int: ...  # noqa: D102

    @property
    def variates(self) -> int: ...  # noqa: D102

    @property
    def parameters(self) -> int: ...  # noqa: D102


class Predicted(NamedTuple):
    """One predicted row; what stands at action variates and padding is unspecified.

    Attributes:
        mean: ``[B, M]`` float32: expectation.
        std: ``[B, M]`` float32: standard deviation of the predicted distribution.
        nll: ``[B, M]`` float32: negative log-likelihood of the true value, in nats; None for a model without one.
    """

    mean: Tensor
    std: Tensor
    nll: Tensor | None = None


class Step(NamedTuple):
    """One step of a rollout, ``[B, M]`` float32 each; what stands at action variates and padding is unspecified.

    Attributes:
        mean: Expectation of the next row.
        std: Standard deviation of its predicted distribution.
        value: The next row, in which the following step's action is taken: the expectation, or a sample where draws
            were given, clipped to the support.
    """

    mean: Tensor
    std: Tensor
    value: Tensor


class WorldModel(Protocol):
    """Predicts the next row; a learned model is a ``keras.Model``, made as ``Class(sizes, identity, dtype=)``.

    Its weights are made at once, do not depend on M, and are float32 whatever its dtype policy.

    Attributes:
        kind: Its name in :data:`MODELS`.
        sizes: What its weights' shapes follow from.
        identity: What it was trained on; travels with its file.
        context: W, how many rows of history :meth:`start` reads.
        chunk: K, after how many steps a rollout starts again from its last W rows; None for never.
    """

    kind: str
    sizes: Sizes
    identity: Identity

    @property
    def context(self) -> int: ...  # noqa: D102

    @property
    def chunk(self) -> int | None: ...  # noqa: D102

    def loss_sums(
        self, batch: Batch, seed: Tensor | None = None, targets: str = "onehot"
    ) -> tuple[Tensor, Tensor]:
        """The training loss of a batch of windows.

        Args:
            batch: Windows; rows that are padding and variates that are masked have no part in the loss.
            seed: Scalar int32 that dropout is a function of; None without dropout.
            targets: ``onehot`` or ``gauss``, for a model that predicts bins.

        Returns:
            Scalars: the sum of the loss over rows (or windows) and their number; training minimises their ratio.
        """
        ...

    def predict(self, batch: Batch, short: Short = "padded") -> Predicted:
        """Predict the last row of each window from the rows before it; the last one is read for its likelihood alone.

        Args:
            batch: Windows of at least 2 rows.
            short: What windows of fewer rows than the model's are: those that lack as many of their first rows, which
                would be ``padded``, or ``unpadded`` ones, whose first row is at the window's first position.
        """
        ...

    def start(self, history: Tensor, mask: Tensor, variates: Variates) -> State:
        """Begin a rollout.

        Args:
            history: ``[B, W, M]`` rows; in the last, which is real, the first step's action is taken.
            mask: ``[B, W]``, 1 for real rows.
            variates: What is known of the M variates.
        """
        ...

    def step(self, state: State, action: Tensor, draws: Tensor | None = None) -> tuple[State, Step]:
        """Take an action and predict the row that follows.

        Args:
            state: Of :meth:`start` or this method.
            action: ``[B, M]``: a row with the action in its places; the rest is not read.
            draws: ``[2, B, M]`` independent draws from [0, 1), to sample the prediction; None for its expectation.
        """
        ...


@dataclass(frozen=True)
class Kind:
    """A kind of world model, as it is known without its framework.

    Attributes:
        name: As ``--model`` and model files have it.
        sizes: The type of its sizes, a frozen dataclass of numbers.
        model: Where its class is: ``module:name``.
    """

    name: str
    sizes: type[Sizes]
    model: str

    @property
    def registered_name(self) -> str:
        """What Keras calls the class in a file."""
        return f"trajworld>{self.model.rpartition(':')[2]}"

    def model_class(self) -> Any:
        """The class, imported now."""
        module, _, name = self.model.rpartition(":")
        return getattr(importlib.import_module(module), name)

    def preset(self, name: str, **overrides: Any) -> Any:
        """The sizes of a preset, with any of them overridden; None overrides nothing.

        Raises:
            UsageError: The preset is unknown, or a size is out of range.
        """
        presets = self.sizes.presets
        if not isinstance(name, str) or name not in presets:
            raise UsageError(f"no preset of {self.name} is called {name!r}: there are {', '.join(presets)}")
        given = {size: value for size, value in overrides.items() if value is not None}
        return dataclasses.replace(presets[name], **given)


MODELS = {"trajworld": Kind("trajworld", TrajWorldSizes, "trajworld.models.trajworld:TrajWorld")}
"""The kinds of world models by name; a model that says nothing of its kind is the first."""


def kind_of(name: str) -> Kind:
    """The kind of that name.

    Raises:
        UsageError: There is none.
    """
    if not isinstance(name, str) or name not in MODELS:
        raise UsageError(f"no kind of model is called {name!r}: there is {', '.join(MODELS)}")
    return MODELS[name]


def kind_of_sizes(sizes: Sizes) -> Kind:
    """The kind of model that has such sizes."""
    return next(kind for kind in MODELS.values() if type(sizes) is kind.sizes)


def new_model(sizes: Sizes, identity: Identity, dtype: str = "float32") -> Any:
    """A model of random weights, which are drawn by Keras."""
    return kind_of_sizes(sizes).model_class()(sizes, identity, dtype=dtype)


def model_config(model: WorldModel) -> dict[str, Any]:
    """What a model is made of again, beside its weights: plain numbers, strings and lists."""
    learned: Any = model
    return {
        "kind": model.kind,
        "sizes": dataclasses.asdict(learned.sizes),
        "identity": model.identity.to_config(),
        "dtype": learned.dtype_policy.name,
        "name": learned.name,
    }


def model_from_config(config: Mapping[str, Any]) -> Any:
    """The inverse of :func:`model_config`, with random weights."""
    values = dict(config)
    kind = MODELS[values.pop("kind", DEFAULT)]
    sizes, identity = kind.sizes(**values.pop("sizes")), Identity.from_config(values.pop("identity"))
    return kind.model_class()(sizes, identity, **values)
