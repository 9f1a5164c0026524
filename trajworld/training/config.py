"""The configuration of a training run: presets, a TOML file and options, resolved into one record."""

import dataclasses
import difflib
import math
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tomli_w

from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import atomic_file, user_path
from trajworld.models.files import describe_model
from trajworld.models.interface import DEFAULT, Sizes, kind_of, kind_of_sizes
from trajworld.models.names import find_model
from trajworld.weights import shipped_models

Kind = Literal["pretrain", "train"]


@dataclass(frozen=True)
class DatasetChoice:
    """A dataset to train on: as ``trajworld.data.resolve.open_dataset`` takes it, or for pre-training a corpus
    (``corpus:NAME``) or a UniTraj root; and its share of the batches, relative to the others'.
    """

    spec: str
    weight: float = 1.0


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that determines a run, besides its data.

    Attributes:
        kind: ``pretrain`` (several datasets, each scaled to [0, 1]) or ``train`` (one, over its own range).
        datasets: What to train on.
        preset: Which preset the other values came from.
        model: Sizes of the model, whose type gives its kind; where ``init`` gives a model, that model's replace them.
        dtype: ``float32`` or ``mixed_bfloat16``.
        init: The model whose weights to start from: trajworld-small, hf://USER/REPO or a file; else random ones.
        transitions: The most transitions of each dataset to use, in whole episodes, holdout included.
        holdout_fraction: Share of each dataset's episodes that is held out; 0 for none.
        test_fraction: Share of each dataset's episodes that is set aside for tests: the same ones for any seed.
        holdout_windows: The most windows of each holdout set that are evaluated.
        batch_size: Windows in a batch.
        steps: Optimiser steps in all; a resumed run may be given another end.
        optimizer: ``adamw``, or ``muon`` for the matrices of the blocks and ``adamw`` for all other weights.
            [default: muon to train trajworld or tdm of size small, else adamw]
        learning_rate: Peak of the schedule.
        warmup_steps: Linear warm-up from 0.
        decay_steps: Where the cosine reaches 0, warm-up included; by default the end.
        weight_decay: Decoupled weight decay.  [default: muon 0.1, mlp-ensemble 0, else 1e-05]
        clip_norm: Largest global norm of the gradients.  [default: 0.25, mlp-ensemble unlimited]
        average: Decay of the moving average of the weights that is evaluated and saved in their place; 0 for none.
        targets: ``onehot``, or ``gauss`` for soft ones: a Gaussian around the value, in bins.
            [default: gauss to train small, else onehot]
        augment: Pre-training: share of the batches whose variates are mirrored and moved at random; 0 as published.
        padded_sizes: Pre-training: the most sizes that M is padded up to, each compiled once.
        log_every: Steps between rows of the log; by default at most 50.
        evaluate_every: Steps between holdout evaluations; by default a tenth of all, at most 5000.
        patience: The run ends after this many evaluations without a holdout error 1 % lower; 0: at its last step.
            [default: 0, mlp-ensemble 5]
        checkpoint_every: Steps between checkpoints; by default as between evaluations.
        seed: Of the weights, the split, the batches and dropout.
    """

    kind: Kind
    datasets: tuple[DatasetChoice, ...]
    preset: str
    model: Sizes
    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    decay_steps: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    dtype: str = "float32"
    init: str = ""
    transitions: int | None = None
    holdout_fraction: float = 0.1
    test_fraction: float = 0.0
    holdout_windows: int = 1024
    patience: int = 0
    optimizer: str = "adamw"
    weight_decay: float = 1e-5
    clip_norm: float = 0.25
    average: float = 0.0
    targets: str = "onehot"
    augment: float = 0.0
    padded_sizes: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        single = self.kind == "train"
        if not self.datasets:
            raise UsageError("name at least one dataset to train on")
        if single and len(self.datasets) > 1:
            raise UsageError(f"train takes one dataset, not {len(self.datasets)}: pretrain takes several")
        for name, value in (("optimizer", "muon"), ("dtype", "mixed_bfloat16")):
            if getattr(self, name) == value and not hasattr(self.model, "blocks"):
                kind = kind_of_sizes(self.model).name
                raise UsageError(f"{value} is for blocks, which {kind} has none of: name another {name}")
        if single and self.augment:
            raise UsageError("augment is for pretrain: a model of one dataset keeps to its ranges")
        for name, (fits, wanted) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not fits(value):
                raise UsageError(f"{name} must {wanted}, not {value!r}")
        if self.warmup_steps > self.decay_steps:
            raise UsageError(
                f"warmup_steps ({self.warmup_steps}) must lie between 0 and decay_steps ({self.decay_steps})"
            )


WEIGHT_DECAYS = {"adamw": TrainingConfig.weight_decay, "muon": 0.1}
"""Of each optimiser, where nothing else is asked for."""

_POSITIVE = (
    *("batch_size", "log_every", "evaluate_every", "checkpoint_every", "decay_steps", "transitions"),
    *("learning_rate", "clip_norm", "holdout_windows", "padded_sizes"),
)
_SHARES = ("holdout_fraction", "test_fraction", "average")
_FROM_0 = ("weight_decay", "warmup_steps", "patience")
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    # The optimisers count their steps in 32 bits.
    "steps": (lambda value: 0 < value < 2**31, f"lie between 1 and {2**31 - 1}"),
    **dict.fromkeys(_POSITIVE, (lambda value: 0 < value < math.inf, "be above 0")),
    "seed": (lambda value: 0 <= value < 2**32, f"lie between 0 and {2**32 - 1}"),
    **dict.fromkeys(_SHARES, (lambda value: 0 <= value < 1, "lie in [0, 1)")),
    "augment": (lambda value: 0 <= value <= 1, "lie in [0, 1]"),
    **dict.fromkeys(_FROM_0, (lambda value: 0 <= value < math.inf, "be at least 0")),
    "optimizer": (lambda value: value in WEIGHT_DECAYS, f"be {' or '.join(WEIGHT_DECAYS)}"),
    "targets": (lambda value: value in ("onehot", "gauss"), "be onehot or gauss"),
    # Without loss scaling float16 loses small gradients, and weights are always kept in float32.
    "dtype": (lambda value: value in ("float32", "mixed_bfloat16"), "be float32 or mixed_bfloat16"),
}


def resolve_config(
    kind: Kind,
    *,
    preset: str | None = None,
    file: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> TrainingConfig:
    """The configuration that a preset (``small`` where not given), a file and options make, each overriding the last.

    The file is TOML with any of :class:`TrainingConfig`'s fields, a ``[model]`` table of the model's ``kind`` and
    sizes, and ``[[datasets]]`` tables of ``spec`` and ``weight``; a run's own ``config.toml`` is such a file.
    ``options`` are the same by name, None where not given. A ``preset`` that is given overrides the file's.
    """
    written = {} if file is None else _read_toml(Path(file))
    given = {name: value for name, value in (options or {}).items() if value is not None}
    preset = preset or written.get("preset") or "small"
    table, own = written.pop("model", {}), given.pop("model", {})
    if not isinstance(table, Mapping):
        raise UsageError(f"model in {file} must be a table of a kind and sizes, [model], not {table!r}")
    own = {"kind": own} if isinstance(own, str) else own
    _check(TrainingConfig, {**written, **given}, "setting")
    init = given.get("init") or written.get("init")
    if own and init:
        words = ", ".join("model" if name == "kind" else name for name in own)
        raise UsageError(f"init brings its model's own sizes: leave out {words}, or init")
    sizes = {**table, **own}
    if init and (given.get("init") or "kind" not in sizes):
        # Its sizes replace all others, but the settings are for its kind.
        sizes = {"kind": describe_model(find_model(init))["kind"]}
    model_kind = kind_of(sizes.pop("kind", DEFAULT))
    _check(model_kind.sizes, sizes, "model size")
    model = model_kind.preset(preset, **sizes)
    # Fine-tuning uses other settings than training from scratch.
    start = "init" if init and kind == "train" and (preset, "init") in model.runs else kind
    run = dict(model.runs[preset, start])
    asked = given.get("optimizer", written.get("optimizer"))
    values = {**run, **model.runs.get((preset, start, asked), {}), **written, **given}
    values |= {"kind": kind, "preset": preset, "model": model}
    choices = values.get("datasets", ())
    if isinstance(choices, str) or not isinstance(choices, Sequence):
        raise UsageError(f"datasets must be tables of spec and weight, [[datasets]], not {choices!r}")
    values["datasets"] = tuple(_dataset_choice(choice) for choice in choices)
    if (init := values.get("init", "")) not in shipped_models():
        values["init"] = whole_path(init)
    steps = values["steps"]
    # The preset's share of its own steps.
    warmup = steps * run["warmup_steps"] // run["steps"]
    # A preset that sets the end of its cosine sets the warm-up, too.
    fixed = "decay_steps" in run
    if "steps" in given and written.get("decay_steps") == written.get("steps", steps):
        # The file's schedule ended with its steps: another number of steps moves the end with it.
        values["decay_steps"] = given.get("decay_steps", steps)
        if not fixed and "warmup_steps" not in given and steps < written.get("steps", steps):
            values["warmup_steps"] = min(values["warmup_steps"], warmup)
    if "steps" in (asked := written | given) and "warmup_steps" not in asked and not fixed:
        values["warmup_steps"] = warmup
    every = {"log_every": min(50, max(1, steps // 20)), "evaluate_every": min(5000, max(1, steps // 10))}
    decay = WEIGHT_DECAYS.get(values.get("optimizer", ""), TrainingConfig.weight_decay)
    values = {"decay_steps": steps, "weight_decay": decay, **every, **values}
    return TrainingConfig(**{"checkpoint_every": values["evaluate_every"], **values})


def write_config(config: TrainingConfig, path: str | Path) -> None:
    """Write a configuration as TOML that :func:`resolve_config` reads back."""
    values = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
    values["model"] = {"kind": kind_of_sizes(config.model).name, **values["model"]}
    with atomic_file(path) as temporary:
        temporary.write_text(tomli_w.dumps(values))


def _dataset_choice(choice: Any) -> DatasetChoice:
    if isinstance(choice, DatasetChoice):
        choice = dataclasses.asdict(choice)
    elif isinstance(choice, str):
        choice = {"spec": choice}
    spec = choice.get("spec") if isinstance(choice, Mapping) else None
    if not isinstance(spec, str) or not spec:
        raise UsageError(
            f"a dataset is a text that names it, or a table with spec and weight, not {choice!r}"
        )
    _check(DatasetChoice, choice, f"setting of the dataset {spec}")
    weight = float(choice.get("weight", 1.0))
    if not 0 < weight < math.inf:
        raise UsageError(f"the weight of {spec} must be above 0, not {weight}")
    return DatasetChoice(whole_path(spec), weight)


def whole_path(name: str) -> str:
    """A name as it is, but the whole path of an existing file or folder: a run can be resumed from another folder."""
    path = user_path(name)
    return str(path.absolute()) if name and os.path.exists(path) else name


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise TrajWorldError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise TrajWorldError(f"{path} is not TOML: {error}") from None


def _check(record: type, values: Mapping[str, Any], what: str) -> None:
    """Check values against the names and annotations of a dataclass's fields."""
    fields: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(record)}
    for name, value in values.items():
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(fields))}"
            raise UsageError(f"no {what} is called {name!r}: {hint}")
        kind = fields[name]
        # To Python True is a whole number, and 1 is no float.
        types = int | float if kind is float else kind
        if kind in _WORDS and (isinstance(value, bool) or not isinstance(value, types)):
            raise UsageError(f"{name} must be {_WORDS[kind]}, not {value!r}")


_WORDS = {int: "a whole number", float: "a number", str: "a text", int | None: "a whole number"}
