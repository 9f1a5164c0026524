"""The interface of a world model: all that training, model files, evaluation and rollouts use.

A new kind is one file with a class that implements :class:`WorldModel`, its sizes, and an entry of :data:`MODELS`.
"""

import dataclasses
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from trajworld.backend import require_framework
from trajworld.data.batch import Batch, Variates
from trajworld.errors import UsageError
from trajworld.models.identity import Identity
from trajworld.models.sizes import EnsembleSizes, TDMSizes, TrajWorldSizes

Tensor = Any
State = Any
"""Where a rollout stands: a structure of tensors, of the same shapes after each step."""

Short = Literal["padded", "unpadded"]
"""Where windows of fewer rows than the model's stand: at its end, as if their first rows were ``padded``, or, where
they are ``unpadded``, at its start."""

DEFAULT = "trajworld"
"""The kind of a model file or configuration that names none."""


class Predicted(NamedTuple):
    """One predicted row, ``[B, M]`` float32 each; values at action variates and padding are unspecified.

    Expectation and standard deviation of the predicted distribution, and the negative log-likelihood of the true value
    in nats, None for a model without one.
    """

    mean: Tensor
    std: Tensor
    nll: Tensor | None = None


class Step(NamedTuple):
    """What is predicted, ``[B, M]`` each: the expectation or a sample, the distribution's standard deviation, and what
    is fed back: the first of them clipped to the support.
    """

    predicted: Tensor
    std: Tensor
    value: Tensor


class Sizes(Protocol):
    """What determines the shapes of a model's weights: a frozen dataclass of numbers.

    Attributes:
        presets: Sizes by name.
        runs: The settings of a training run that a preset brings, by preset and kind of run (``pretrain``, ``train``);
            those of ``init``, if any, replace the latter's where training starts from a model, and those with an
            optimiser's name behind that the settings for it.
        window: T, the most rows of a window.
        variates: The most variates.
        parameters: How many weights there are.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    presets: ClassVar[Any]
    runs: ClassVar[Any]

    @property
    def window(self) -> int: ...

    @property
    def variates(self) -> int: ...

    @property
    def parameters(self) -> int: ...

    def __init__(self, **sizes: Any) -> None: ...


class WorldModel(Protocol):
    """Predicts the next row. A learned model is a ``keras.Model``, made as ``Class(sizes, identity, dtype=...)``.

    Its weights are made at once, do not depend on M, and are float32 under any dtype policy. ``kind`` is its name in
    :data:`MODELS`, ``context`` W, how many rows of history :meth:`start` reads, and ``chunk`` K, after how many steps a
    rollout starts again from its last W rows, None for never. One that can predict a row in several ways has
    ``predictions`` too: see :func:`predictions_of`; one whose rollouts are samples by their definition says so by
    ``samples``.
    """

    kind: Any
    sizes: Any
    identity: Identity
    context: Any
    chunk: Any

    def loss_sums(
        self, batch: Batch, seed: Tensor | None = None, targets: str = "onehot"
    ) -> tuple[Tensor, Tensor]:
        """Sum of the training loss over the rows (or windows) of a batch that are real, and their number; scalars.

        Masked variates are left out. Dropout is a function of ``seed``, a scalar int32, and absent without one;
        ``targets`` are ``onehot`` or ``gauss``, for a model that predicts bins.
        """

    def predict(self, batch: Batch, short: Short = "padded") -> Predicted:
        """The last row of each window, of 2 rows at least, from the rows before it; itself read for its likelihood."""

    def start(self, history: Tensor, mask: Tensor, variates: Variates) -> State:
        """Begin a rollout from rows ``[B, W, M]``, whose mask ``[B, W]`` is 1 for real ones, the last among them: in it
        the first step's action is taken.
        """

    def step(self, state: State, action: Tensor, draws: Tensor | None = None) -> tuple[State, Step]:
        """Take an action, ``[B, M]``: a row with the action in its places; and predict the row that follows.

        ``draws [2, B, M]`` are independent ones from [0, 1), to sample the prediction; None takes its expectation.
        """


@dataclass(frozen=True)
class Kind:
    """A kind of world model, known without its framework: by name, the type of its sizes, and ``module:class``."""

    name: str
    sizes: type[Sizes]
    model: str

    @property
    def registered_name(self) -> str:
        """What Keras calls the class in a file."""
        return f"trajworld>{self.model.rpartition(':')[2]}"

    def model_class(self) -> Any:
        """The class, imported now; ``TrajWorldError`` where the backend is not installed."""
        require_framework()
        return pkgutil.resolve_name(self.model)

    def preset(self, name: str, **overrides: Any) -> Any:
        """The sizes of a preset, with any of them overridden; None overrides nothing. ``UsageError`` where there is no
        such preset, or a size is out of range.
        """
        given = {size: value for size, value in overrides.items() if value is not None}
        return dataclasses.replace(_named(name, self.sizes.presets, f"preset of {self.name}"), **given)


MODELS = {
    DEFAULT: Kind(DEFAULT, TrajWorldSizes, "trajworld.models.trajworld:TrajWorld"),
    "tdm": Kind("tdm", TDMSizes, "trajworld.models.tdm:TDM"),
    "mlp-ensemble": Kind("mlp-ensemble", EnsembleSizes, "trajworld.models.mlp_ensemble:MLPEnsemble"),
}
"""The kinds of world models by name."""


def kind_of(name: str) -> Kind:
    """The kind of that name; ``UsageError`` where there is none."""
    return _named(name, MODELS, "kind of model")


def kind_of_sizes(sizes: Sizes) -> Kind:
    """The kind of model that has such sizes."""
    return next(kind for kind in MODELS.values() if type(sizes) is kind.sizes)


def new_model(sizes: Sizes, identity: Identity, dtype: str = "float32") -> Any:
    """A model of random weights, which are drawn by Keras."""
    return kind_of_sizes(sizes).model_class()(sizes, identity, dtype=dtype)


def predictions_of(model: Any) -> dict[str, Callable[..., Predicted]]:
    """The ways in which a model predicts a row, by predictor; ``predict``, which rollouts use, is the first."""
    return getattr(model, "predictions", None) or {"model": model.predict}


def model_config(model: Any) -> dict[str, Any]:
    """What rebuilds a model, except its weights: plain numbers, strings and lists."""
    return {
        "kind": model.kind,
        "sizes": dataclasses.asdict(model.sizes),
        "identity": model.identity.to_config(),
        "dtype": model.dtype_policy.name,
        "name": model.name,
    }


def model_from_config(config: Mapping[str, Any]) -> Any:
    """The inverse of :func:`model_config`, with random weights."""
    kind = MODELS[config.get("kind", DEFAULT)]
    sizes, identity = kind.sizes(**config["sizes"]), Identity.from_config(config["identity"])
    return kind.model_class()(sizes, identity, dtype=config["dtype"], name=config["name"])


def _named(name: Any, among: Mapping[str, Any], what: str) -> Any:
    if not isinstance(name, str) or name not in among:
        raise UsageError(f"no {what} is called {name!r}: there is {', '.join(among)}")
    return among[name]
