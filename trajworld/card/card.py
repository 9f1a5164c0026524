"""The card of a model: what its run recorded, and the reports of studies of it, as Markdown for people and the hub."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from trajworld.collect.corpus_table import source_of
from trajworld.errors import DAMAGE, TrajWorldError, UsageError
from trajworld.files import atomic_file
from trajworld.models.files import describe_model
from trajworld.models.interface import kind_of_sizes
from trajworld.models.names import said_briefly
from trajworld.text import duration, number
from trajworld.training.config import resolve_config
from trajworld.training.record import CONFIG, METRICS, distinct, is_run, read_metrics, read_record
from trajworld.weights import shipped_card, shipped_models

_BEST = "best.keras"
_EVALUATIONS = 12
# A licence's name in the hub's list; nothing that YAML or Markdown would interpret.
_LICENCE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.+-]*[A-Za-z0-9+])?")

Json = dict[str, Any]


def card(run: Path, *, name: str = "", licence: str = "", studies: Sequence[Path] = ()) -> str:
    """The card of a run's ``best.keras`` (``last.keras`` where nothing was held out).

    Args:
        run: The run directory.
        name: The name to load the model by, such as ``trajworld-small`` or ``hf://USER/REPO``.
        licence: The model's licence as the hub calls it, such as ``mit``; by default that of a model that ships, and
            none for any other.
        studies: Report folders of studies of this model, included whole except for their pictures.

    Raises:
        UsageError: ``run`` is not a run, or ``licence`` not such a name.
        TrajWorldError: A record is missing or damaged, or a study is of another model.
    """
    if licence and not _LICENCE.fullmatch(licence):
        raise UsageError(f"a licence is named as on the Hugging Face hub (mit, apache-2.0), not {licence!r}")
    if not is_run(run):
        raise UsageError(f"{run} is not a run directory: it has no {CONFIG}")
    record, rows = read_record(run), read_metrics(run)
    config = resolve_config(record["kind"], file=run / CONFIG)
    shipped = name in shipped_models()
    try:
        evaluated = [row for row in rows if "holdout_loss" in row]
        best = min(evaluated, key=lambda row: row["holdout_loss"], default=None)
        _check_step(run, best or (rows[-1] if rows else None), bool(evaluated))
        datasets = _datasets(record["datasets"], best["holdout"] if best else {})
        kept = {round(place * (len(evaluated) - 1) / (_EVALUATIONS - 1)) for place in range(_EVALUATIONS)}
        return _TEMPLATES.get_template("card.md").render(
            record=record,
            config=config,
            kind=kind_of_sizes(config.model).name,
            sizes=asdict(config.model),
            name=name or "model.keras",
            shipped=shipped,
            licence=licence or ("mit" if shipped else ""),
            last=rows[-1] if rows else {"step": 0, "seconds": 0.0},
            best=best,
            datasets=datasets,
            stretches=_stretches(record),
            origins=_origins(run),
            # Evenly over the run, the best and the last among them.
            evaluations=[row for place, row in enumerate(evaluated) if place in kept or row is best],
            studies=[_study(folder, model_file(run)) for folder in studies],
        )
    except (*DAMAGE, jinja2.UndefinedError) as error:
        raise TrajWorldError(f"{run}: run.json or {METRICS} is damaged ({error!r})") from None


def write_card(run: Path, output: Path, **options: Any) -> None:
    """Write the text of :func:`card`, with its arguments, to a file; an existing one is replaced."""
    text = card(run, **options)
    with atomic_file(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def card_for(model: str, address: str, licence: str = "") -> str | None:
    """The card to publish with a model: the one that ships with it, or one of the run whose model file it is, or None.

    ``address`` is what the model will be loaded by; for ``licence`` see :func:`card`. A ``UsageError`` is raised if one
    is given without a card to write it into.
    """
    path = Path(model)
    if is_run(path.parent) and path == model_file(path.parent):
        return card(path.parent, name=address, licence=licence)
    if licence:
        raise UsageError(f"{model} has no card to name a licence in: give one by --card")
    file = shipped_card(model)
    return None if file is None else read_card(file)


def read_card(path: Path) -> str:
    """The text of a card's file."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise TrajWorldError(f"cannot read {path}: {reason}") from None


def model_file(run: Path) -> Path | None:
    """The model file of a card: ``best.keras``, else ``last.keras``; None where the run has written neither."""
    return next((run / name for name in (_BEST, "last.keras") if (run / name).is_file()), None)


def _check_step(run: Path, logged: Json | None, evaluated: bool) -> None:
    """Refuse a log of another step than the weights: a training run writes one after the other."""
    path = model_file(run)
    if path is None:
        return
    if evaluated and path.name != _BEST:
        raise TrajWorldError(f"{run / _BEST} is missing, the model that the card describes: restore it")
    step = describe_model(path)["history"].get("step")
    if step != (logged["step"] if logged else None):
        raise TrajWorldError(
            f"{path} is of step {step}, but {METRICS} is not: if the run is still training, try again later; "
            "else restore the wrong one"
        )


def _origins(run: Path) -> list[Json]:
    """The models that training started from, the nearest first: each one's file, and the step of its own run."""
    path, found = model_file(run), list[Json]()
    history = {} if path is None else describe_model(path)["history"]
    while init := history.get("init"):
        history = init["history"]
        found.append({"file": init["file"], "step": history.get("step")})
    return found


def _datasets(described: Sequence[Json], losses: Json) -> list[Json]:
    """What the record says of each dataset, with its source, its share of the batches and its loss at the best step."""
    total = sum(one["weight"] for one in described)
    found = []
    for name, one in zip(distinct([one["name"] for one in described]), described, strict=True):
        environment = one["environment"] or one["name"]
        row = {**one, "environment": environment, "source": source_of(environment), "loss": losses.get(name)}
        row["share"] = one["weight"] / total
        row["part_of_loss"] = row["share"] * (row["loss"] or 0.0)
        found.append(row)
    return found


def _stretches(record: Json) -> list[Json]:
    """The devices and versions of the run, at its start and at each resumption on others.

    A resumption discards the later steps, and earlier resumptions among them.
    """
    found: list[Json] = []
    for entry in ({"step": 0, **record}, *record.get("resumed", [])):
        layout = entry.get("layout", record.get("layout", {}))
        stretch = {name: entry[name] for name in ("step", "backend", "versions")}
        stretch["device"] = "{count} {name} ({kind})".format(**entry["device"])
        stretch["devices"] = layout.get("devices", 1)
        found = [*(one for one in found if one["step"] < entry["step"]), stretch]
    return [next(same) for _, same in itertools.groupby(found, key=lambda one: {**one, "step": 0})]


def _spec(spec: str) -> str:
    """A dataset as it was named, a path cut to its last part: cards are published."""
    return Path(spec).name if Path(spec).is_absolute() or spec.startswith((".", "~")) else spec


def _study(folder: Path, weights: Path | None) -> str:
    """The report of a study, without its pictures and the model's folder, its headings a level down."""
    # Imported here: a card without a study needs neither pandas nor a framework.
    from trajworld.models.files import load_model, weights_digest
    from trajworld.study.report import MARKDOWN, read_report

    name, options, _, origin, _ = read_report(folder)
    digest = origin.get("model")
    if weights is None or digest != weights_digest(load_model(weights)):
        of = "another model" if digest else "no model"
        raise TrajWorldError(f"{folder} holds a {name} study of {of}, not of {weights or 'this run'}")
    text = (folder / MARKDOWN).read_text(encoding="utf-8")
    if model := options.get("model"):
        text = text.replace(model, said_briefly(model))
    lines = text.splitlines()
    return "\n".join("#" * line.startswith("#") + line for line in lines if not line.startswith("![")).strip()


def _code(text: str) -> str:
    """A name as inline code; characters that end the code or the cell are replaced."""
    clean = "".join(c if c.isprintable() else "�" for c in text)
    clean = clean.replace("`", "'").replace("|", "¦")
    return f"`{clean}`" if clean.strip() else "–"


def _plain(text: object) -> str:
    """Plain text: no tags, no line breaks, no cells."""
    return " ".join(str(text).split()).replace("|", "¦").replace("<", "&lt;").replace("`", "'")


_FILTERS = {"code": _code, "plain": _plain, "number": number, "duration": duration, "log": math.log}
_STRICT: dict[str, Any] = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("trajworld.card", ""), keep_trailing_newline=True, **_STRICT
)
_TEMPLATES.filters |= {**_FILTERS, "spec": _spec, "briefly": said_briefly}
