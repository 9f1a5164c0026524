"""The card of a model, from its run's records and the studies of it: Markdown with the front matter of the hub."""

import math
from collections.abc import Sequence
from pathlib import Path

from trajworld.card.markdown import code, plain, table
from trajworld.card.origin import front_matter, licence_of, source_section
from trajworld.card.run import Evaluation, RunRecord, TrainedOn, model_file, read_run
from trajworld.card.stretches import computed_on, library_versions
from trajworld.card.studies import transfer_section, zero_shot_section
from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import atomic_file
from trajworld.models.names import said_briefly
from trajworld.text import duration, listed, number
from trajworld.training.record import is_run
from trajworld.weights import shipped_card

_EXTREMES = 5
# Entropy of a Gauss-histogram target, nats: of a normal distribution of 0.75 bin widths (DESIGN §3).
GAUSS_FLOOR = math.log(0.75 * math.sqrt(2 * math.pi * math.e))
_EVALUATIONS = 12


def write_card(
    run: Path,
    output: Path,
    *,
    name: str = "",
    licence: str = "",
    transfer: Path | None = None,
    zero_shot: Path | None = None,
) -> None:
    """Write the card of a run's ``best.keras`` (``last.keras`` where nothing was held out).

    Args:
        run: The run directory.
        output: The file, Markdown; replaced where it is there.
        name: What people load the model by, such as ``trajworld-small`` or ``hf://USER/REPO``.
        licence: The model's licence as the hub calls it, such as ``mit``; of a model that ships its own where it is
            empty, and for any other model the card then says nothing of a licence.
        transfer: The folder that ``trajworld evaluate-transfer`` made of this model.
        zero_shot: The folder that ``trajworld evaluate-zero-shot`` made of it.

    Raises:
        UsageError: ``run`` is no run, or ``licence`` no such name.
        TrajWorldError: A record is missing or damaged, a study is of another model file, or the card cannot be written.
    """
    text = card(read_run(run), name=name, licence=licence, transfer=transfer, zero_shot=zero_shot)
    with atomic_file(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def card(
    record: RunRecord,
    *,
    name: str = "",
    licence: str = "",
    transfer: Path | None = None,
    zero_shot: Path | None = None,
) -> str:
    """The card's text; see :func:`write_card`.

    Raises:
        UsageError: ``licence`` is no name of a licence.
        TrajWorldError: A study's results are missing, damaged or of another model file.
    """
    licence, title = licence_of(licence, name), name or "model.keras"
    sections = [
        front_matter(licence),
        f"# {plain(_title(title))}\n\n{_summary(record)}",
        _use(record, title),
        _model(record),
        _data(record),
        _training(record),
        _holdout(record),
        None if zero_shot is None else zero_shot_section(zero_shot, record.weights),
        None if transfer is None else transfer_section(transfer, record.weights),
        _limits(record),
        source_section(record, licence, name),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _title(name: str) -> str:
    return "TrajWorld" if name.endswith(".keras") else name.rsplit("/", 1)[-1]


def _summary(record: RunRecord) -> str:
    environments = {one.environment for one in record.datasets}
    sizes = sorted({one.variates for one in record.datasets})
    trained = (
        f"It was pre-trained on {len(environments)} environments with {_sizes(sizes)}"
        if record.config.kind == "pretrain"
        else f"It was trained on {listed([code(one) for one in sorted(environments)])} ({sizes[0]} variates)"
    )
    unfinished = (
        ""
        if record.finished
        else f"\n\n**The run is not finished:** {record.step:,} of {record.config.steps:,} steps are done."
    )
    return (
        f"A trajectory world model: one transformer of {record.parameters:,} parameters that predicts the next "
        f"observation and reward of a low-dimensional control environment from at most {record.config.model.window} "
        "rows of observations, rewards and actions. One model serves environments of any number of sensors and "
        f"actuators (variates, M = observations + 1 + actions). {trained}, {_total(record)} transitions in "
        f"all.{unfinished}"
    )


def _sizes(sizes: Sequence[int]) -> str:
    if len(sizes) == 1:
        return f"{sizes[0]} variates"
    return f"{sizes[0]} to {sizes[-1]} variates ({len(sizes)} different M)"


def _total(record: RunRecord) -> str:
    return f"{sum(one.transitions for one in record.datasets):,}"


def _use(record: RunRecord, name: str) -> str:
    extra = " and huggingface_hub" if name.startswith("hf://") else ""
    word = plain(name)
    return f"""## Use

With TrajWorld{extra} installed, on JAX, TensorFlow or PyTorch (`KERAS_BACKEND`; the numbers are the same):

```sh
# its errors on a Minari, D4RL or UniTraj dataset, without an update
trajworld evaluate {word} DATASET
# fine-tune it
trajworld train DATASET --init {word} -o tuned
```

```python
import trajworld

model = trajworld.load("{word}")
```"""


def _model(record: RunRecord) -> str:
    sizes = record.config.model
    rows = [
        ("parameters", f"{record.parameters:,}"),
        ("blocks, width, heads", f"{sizes.blocks}, {sizes.width}, {sizes.heads}"),
        ("window", f"{sizes.window} rows"),
        ("bins of each variate's range", f"{sizes.bins}"),
        ("most variates", f"{sizes.variates}"),
        ("dropout", f"{sizes.dropout:g}"),
    ]
    return f"## Model\n\n{table(('', ''), rows)}"


def _data(record: RunRecord) -> str:
    specs = listed([code(_spec(choice.spec)) for choice in record.config.datasets[:_EXTREMES]])
    more = len(record.config.datasets) - _EXTREMES
    specs += f" and {more} more" if more > 0 else ""
    limit = record.config.transitions
    parts = [
        f"{len(record.datasets)} dataset{'s' * (len(record.datasets) != 1)} ({specs}), "
        f"{_total(record)} transitions in {sum(one.training_episodes for one in record.datasets):,} episodes; "
        f"{sum(one.holdout_episodes for one in record.datasets):,} more episodes were held out."
        + ("" if limit is None else f" At most {limit:,} transitions of each dataset were used."),
        _source_table(record),
        _environment_table(record),
    ]
    return "## Training data\n\n" + "\n\n".join(parts)


def _spec(spec: str) -> str:
    """A dataset as it was named, but of a path the last part: cards are published."""
    return Path(spec).name if Path(spec).is_absolute() or spec.startswith((".", "~")) else spec


def _source_table(record: RunRecord) -> str:
    rows = []
    for source in dict.fromkeys(one.source for one in record.datasets):
        members = [one for one in record.datasets if one.source == source]
        rows.append(
            [
                code(source),
                f"{len({one.environment for one in members}):,}",
                _sizes_short([one.variates for one in members]),
                f"{sum(one.transitions for one in members):,}",
                f"{sum(one.share for one in members):.1%}",
                _mean_loss(members),
            ]
        )
    if len(rows) > 1:
        every = record.datasets
        rows.append(
            [
                "all",
                f"{len({one.environment for one in every}):,}",
                _sizes_short([one.variates for one in every]),
                _total(record),
                "100 %",
                _mean_loss(every),
            ]
        )
    head = ("source", "environments", "M", "transitions", "share of the batches", "holdout loss")
    return table(head, rows)


def _sizes_short(sizes: Sequence[int]) -> str:
    return f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} – {max(sizes)}"


def _mean_loss(members: Sequence[TrainedOn]) -> str:
    """Weighted as in training, like the holdout loss of the whole."""
    known = [(one.share, one.holdout_loss) for one in members if one.holdout_loss is not None]
    total = sum(share for share, _ in known)
    return number(sum(share * loss for share, loss in known) / total) if total else "–"


def _environment_table(record: RunRecord) -> str:
    rows = [
        [
            code(one.environment),
            f"{one.variates}",
            f"{one.transitions:,}",
            f"{one.share:.2%}",
            number(one.holdout_loss),
        ]
        for one in record.datasets
    ]
    text = table(("environment", "M", "transitions", "share of the batches", "holdout loss"), rows)
    if len(rows) <= 2 * _EXTREMES:
        return text
    return f"<details>\n<summary>All {len(rows)} datasets</summary>\n\n{text}\n\n</details>"


def _training(record: RunRecord) -> str:
    config, best = record.config, record.best
    schedule = (
        f"{config.learning_rate:g} at most: linear warm-up over {config.warmup_steps:,} steps, then a cosine that "
        f"ends at 0 after {config.decay_steps:,}"
    )
    rows = [
        ("steps", _steps(record)),
        ("weights", _which(record)),
        (
            "batch",
            f"{config.batch_size} windows of one environment, M padded to at most {config.padded_sizes} sizes",
        )
        if config.kind == "pretrain"
        else ("batch", f"{config.batch_size} windows"),
        ("windows seen", f"{record.step * config.batch_size:,}"),
        (
            "optimiser",
            f"AdamW, weight decay {config.weight_decay:g}, global norm of gradients at most {config.clip_norm:g}",
        ),
        ("learning rate", schedule),
        *_augmentation(record),
        ("targets, dtype", f"{config.targets}, {config.dtype}"),
        ("seed", f"{config.seed}"),
        ("time", f"{duration(record.seconds)}, holdout evaluations included"),
        ("computed on", plain(computed_on(record.stretches))),
        ("versions", plain(library_versions(record.stretches))),
    ]
    if config.init:
        rows.insert(0, ("started from", code(said_briefly(config.init))))
    if best is None:
        rows = [row for row in rows if row[0] != "weights"]
    return f"## Training\n\n{table(('', ''), rows, left=2)}"


def _steps(record: RunRecord) -> str:
    config = record.config
    what = "run and cosine were" if config.decay_steps == config.steps else "run was"
    text = f"{record.step:,}" + ("" if record.finished else f" of {config.steps:,}")
    earlier = (f"; until step {step:,} the {what} to end after {end:,}" for step, end in record.earlier_ends)
    return text + "".join(earlier)


def _augmentation(record: RunRecord) -> list[tuple[str, str]]:
    share = record.config.augment
    text = f"in {share:.0%} of the batches variates mirrored and moved within their range at random"
    return [("augmentation", text)] if share else []


def _which(record: RunRecord) -> str:
    best = record.best
    if best is None:
        return ""
    return f"of step {best.step:,}, where the holdout loss was least"


def _holdout(record: RunRecord) -> str | None:
    best = record.best
    if best is None:
        return None
    bins, windows = record.config.model.bins, record.config.holdout_windows
    parts = [
        "## Holdout loss\n\n"
        "Cross-entropy of the next row's observation and reward bins, in nats for each variate, without dropout, on "
        f"episodes that were held out (at most {windows:,} windows of each dataset): **{number(best.holdout_loss)}** "
        f"at step {best.step:,}, the mean over datasets weighted as in training. An even guess over {bins} bins has "
        f"{number(math.log(bins))}{_floor(record)}. Losses of different environments do not compare: chance, and "
        "how much of its range a variate covers from row to row, differ between them."
    ]
    known = sorted(
        (one for one in record.datasets if one.holdout_loss is not None),
        key=lambda one: one.holdout_loss or 0.0,
    )
    if len(known) > 2 * _EXTREMES:
        for title, some in (
            (f"The {_EXTREMES} best", known[:_EXTREMES]),
            (f"The {_EXTREMES} worst", known[::-1][:_EXTREMES]),
        ):
            rows = [[code(one.environment), f"{one.variates}", number(one.holdout_loss)] for one in some]
            parts.append(table((title, "M", "holdout loss"), rows))
    rows = [[f"{one.step:,}", number(one.loss), number(one.holdout_loss)] for one in _spread(record)]
    parts.append(table(("step", "training loss", "holdout loss"), rows, left=0))
    return "\n\n".join(parts)


def _floor(record: RunRecord) -> str:
    if record.config.targets != "gauss":
        return ""
    return f"; against Gauss-histogram targets even a perfect prediction has about {number(GAUSS_FLOOR)}"


def _spread(record: RunRecord) -> list[Evaluation]:
    """At most so many evaluations, evenly over the run, the best and the last among them."""
    every = record.evaluations
    places = {round(place * (len(every) - 1) / (_EVALUATIONS - 1)) for place in range(_EVALUATIONS)}
    return [one for place, one in enumerate(every) if place in places or one is record.best]


def _limits(record: RunRecord) -> str:
    sizes = record.config.model
    lines = [
        f"Observations and actions must be vectors of real numbers, at most {sizes.variates} variates with the "
        "reward; no images, no discrete actions.",
        f"It sees at most {sizes.window - 1} transitions of history, and resolves a variate's range into {sizes.bins} "
        "bins. Values outside the range are clipped to it; for an environment that it never saw, the range comes from "
        "the data.",
        f"One run with one seed ({record.config.seed}): how much another seed would differ is not known.",
        "A holdout loss is of the environments that it was trained on. On others, without an update, it may do worse "
        "than predicting no change: measure it (`trajworld evaluate`) before relying on it, and fine-tune it.",
        "A world model errs more the further it looks ahead, and nothing here says how it does on a real machine.",
    ]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def card_for(model: str, address: str, licence: str = "") -> str | None:
    """The card to publish with a model: the one that ships with it, or one of the run whose model file it is.

    Args:
        model: The model's name, as :func:`trajworld.models.names.find_model` takes it.
        address: What it will be loaded by.
        licence: What the card is to say, see :func:`write_card`.

    Returns:
        Markdown; None where neither is there: of a run ``best.keras``, or ``last.keras`` where nothing was held out.

    Raises:
        UsageError: A licence is given, but there is no card to write it into.
        TrajWorldError: A record of the run is damaged.
    """
    path = Path(model)
    if is_run(path.parent) and path == model_file(path.parent):
        return card(read_run(path.parent), name=address, licence=licence)
    if licence:
        raise UsageError(
            f"no card is made of {model} that could name a licence: write one and give it by --card"
        )
    file = shipped_card(model)
    return None if file is None else read_card(file)


def read_card(path: Path) -> str:
    """The text of a card's file.

    Raises:
        TrajWorldError: It is missing, or no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrajWorldError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no text'}"
        ) from None
