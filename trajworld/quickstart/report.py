"""The quickstart's report: one HTML file that can be sent alone, its numbers as JSON, the main table in a terminal."""

import base64
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from trajworld.charts import Look, svg
from trajworld.errors import TrajWorldError
from trajworld.files import atomic_file, write_json
from trajworld.quickstart.charts import comparison_figure, draw_comparison
from trajworld.quickstart.findings import (
    ComparisonRow,
    comparison_rows,
    findings,
)
from trajworld.quickstart.plan import Plan
from trajworld.quickstart.results import FINE_TUNED, FROM_SCRATCH, Results
from trajworld.text import duration, number, short_name

_HEADERS = ("transitions", "copy last row", "zero-shot", "from scratch", "fine-tuned", "ratio")
_IMAGE_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Cell:
    """A cell of the main table; ``best`` marks the smallest error of a row."""

    text: str
    best: bool = False


def write_report(results: Results, folder: str | os.PathLike[str]) -> Path:
    """Write ``index.html``, ``results.json`` and ``comparison.png``; return the page's path.

    The page holds its pictures and its style and needs no other file. Findings are computed where ``results`` has none.

    Raises:
        TrajWorldError: A name in ``results.pictures`` leads out of ``folder`` or is not a picture, or the folder
            cannot be written.
    """
    folder = Path(folder)
    results = replace(results, findings=results.findings or findings(results))
    pictures = [(title, _picture(folder, name)) for title, name in results.pictures.items()]
    page = _template().render(_view(results), pictures=pictures)
    draw_comparison(results, folder / "comparison.png")
    write_json(folder / "results.json", _plain(results.to_json()))
    with atomic_file(folder / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / "index.html"


def main_table(results: Results) -> Table:
    """The main table for a terminal, with the rows of the report's."""
    table = Table(title=f"One-step error on {short_name(results.plan.target)}", caption=_table_note(results))
    for header in _HEADERS:
        table.add_column(header, justify="right")
    for cells in _main_cells(results):
        table.add_row(*(Text(cell.text, style="bold green" if cell.best else "") for cell in cells))
    return table


def _main_cells(results: Results) -> list[list[Cell]]:
    """The main table, cell by cell, as both the page and the terminal show it."""
    return [_cells(row) for row in comparison_rows(results)]


def _cells(row: ComparisonRow) -> list[Cell]:
    errors = (row.copy_last_row, row.zero_shot, row.from_scratch, row.fine_tuned)
    known = [error for error in errors if error is not None and math.isfinite(error)]
    best = [bool(known) and error == min(known) for error in errors]
    ratio = "–" if row.ratio is None else f"{number(row.ratio)}×"
    return [
        Cell(f"{row.transitions:,}"),
        *(Cell(number(error), mark) for error, mark in zip(errors, best, strict=True)),
        Cell(ratio),
    ]


def _table_note(results: Results) -> str:
    rates = len(results.plan.learning_rates)
    chosen = (
        f"each side with the best of {rates} learning rates on its own holdout episodes; "
        if rates > 1
        else ""
    )
    return (
        f"Mean absolute error in standard deviations of each variate, observation and reward, over "
        f"{results.plan.test_windows:,} test windows; less is better. {results.plan.steps:,} steps from scratch and "
        f"fine-tuned alike, {chosen}ratio: from scratch / fine-tuned, above 1 where pre-training helped."
    )


def _view(results: Results) -> dict[str, Any]:
    """What the template shows, every number as text."""
    plan = results.plan
    return {
        "results": results,
        "target": short_name(plan.target),
        "tiles": _tiles(results),
        "summary": _summary(results),
        "headers": _HEADERS,
        "rows": _main_cells(results),
        "table_note": _table_note(results),
        "comparison": _chart(comparison_figure, results),
        "trials": [
            {
                "side": row.side,
                "chosen": row.chosen,
                "cells": [
                    f"{row.transitions:,}",
                    f"{row.learning_rate:g}",
                    *map(number, (row.holdout_loss, row.errors.normalised_mae)),
                    *map(number, (row.errors.normalised_mae_observation, row.errors.mae)),
                    *map(number, (row.errors.mse, row.errors.nll)),
                ],
            }
            for row in sorted(results.trials, key=lambda row: (row.side, row.transitions, row.learning_rate))
        ],
        "baselines": [
            {"name": name, "cells": [number(value) for value in _error_values(errors)]}
            for name, errors in (("copy last row", results.copy_last_row), ("zero-shot", results.zero_shot))
        ],
        "datasets_note": _datasets_note(results),
        "steps": _steps(plan),
        "machine": [
            (name.replace("_gib", ", GiB").replace("_", " "), _fact(value))
            for name, value in results.machine.items()
        ],
        "seconds": _stage_times(results.seconds),
        "total_time": _total(results.seconds),
    }


def _error_values(errors: Any) -> tuple[float | None, ...]:
    return errors.normalised_mae, errors.normalised_mae_observation, errors.mae, errors.mse, errors.nll


def _tiles(results: Results) -> list[dict[str, str]]:
    """For each size: the factor in large print, and whether it is good news."""
    tiles = []
    for row in comparison_rows(results):
        ratio, sign = row.ratio, row.sign
        if not ratio or sign is None:
            continue
        tiles.append(
            {
                "size": f"{row.transitions:,}",
                "news": ("good", "same", "bad")[sign + 1],
                "factor": (f"{number(ratio)}×", "=", f"{number(1 / ratio)}×")[sign + 1],
                "text": ("less error than from", "no difference from", "more error than from")[sign + 1],
            }
        )
    return tiles


def _summary(results: Results) -> str:
    plan, model = results.plan, results.model
    unseen = "" if _seen(results) else ", which it had never seen"
    machine = [str(results.machine[name]) for name in ("backend", "device") if results.machine.get(name)]
    if results.machine.get("cores"):
        machine.append(f"{results.machine['cores']} cores")
    where = f" ({', '.join(machine)})" if machine else ""
    return (
        f"{model.name}, a TrajWorld model of {model.parameters / 1e6:.2f} million parameters that was pre-trained for "
        f"{model.steps:,} steps on {len(model.environments)} environments, was fine-tuned for {plan.steps:,} steps on "
        f"{short_name(plan.target)}{unseen}. The same model from scratch had the same steps, the same data and the "
        f"same choice of learning rates. All of it took {_total(results.seconds)}{where}."
    )


def _seen(results: Results) -> list[str]:
    """Environments of pre-training that bear the target embodiment's name."""
    word = _embodiment(results.plan.target)
    return [name for name in results.model.environments if word in name.lower()]


def _datasets_note(results: Results) -> str:
    """Whether pre-training saw the target's embodiment, judged by what the model says of itself and not by the plan."""
    word, seen = _embodiment(results.plan.target), _seen(results)
    if seen:
        return f"Beware: pre-training saw {', '.join(seen)}, named “{word}” like the target, which was not unseen."
    count = len(results.model.environments)
    return f"No {word}, of this suite or another, is among the {count} environments of pre-training."


def _embodiment(environment: str) -> str:
    """``hopper`` of ``gymnasium/Hopper-v5`` or ``dm_control/hopper-hop``."""
    found = re.match(r"[^\W\d]+", short_name(environment))
    return (found.group() if found else environment).lower()


def _steps(plan: Plan) -> list[str]:
    sizes = ", ".join(f"{size:,}" for size in plan.sizes)
    rates = ", ".join(f"{rate:g}" for rate in plan.learning_rates)
    runs = 2 * len(plan.sizes) * len(plan.learning_rates)
    return [
        f"Collect {plan.pool_transitions:,} transitions of {plan.target} to fine-tune on, and "
        f"{plan.test_transitions:,} for the test alone.",
        f"Fine-tune {plan.model}, which ships pre-trained, and train the same model from scratch, for "
        f"{plan.steps:,} steps of {plan.batch} windows: on nested subsets of {sizes} transitions, with the "
        f"learning rates {rates} ({runs} runs).",
        "For each side and size keep the run with the lowest loss on its own holdout episodes.",
        f"Measure one-step errors on {plan.test_windows:,} test windows, beside copy-the-last-row and the pre-trained "
        "model without an update (zero-shot).",
        f"Draw one-step and open-loop predictions over {plan.horizon} steps.",
    ]


def _stage_times(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    longest = max((value for value in seconds.values() if math.isfinite(value)), default=0.0)
    return [
        {
            "stage": stage,
            "time": duration(value),
            "percent": f"{100 * value / longest:.1f}" if longest > 0 and math.isfinite(value) else "0",
        }
        for stage, value in seconds.items()
    ]


def _total(seconds: Mapping[str, float]) -> str:
    return duration(sum(value for value in seconds.values() if math.isfinite(value)))


def _fact(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _chart(draw: Any, results: Results) -> list[dict[str, str]]:
    """A chart as sources of a ``picture`` element, for dark and light, narrow and wide; the last is the default."""
    sources = []
    for look, media in (
        (Look(dark=True, narrow=True), "screen and (prefers-color-scheme: dark) and (max-width: 640px)"),
        (Look(dark=False, narrow=True), "screen and (max-width: 640px)"),
        (Look(dark=True), "screen and (prefers-color-scheme: dark)"),
        (Look(), ""),
    ):
        figure: Figure = draw(results, look)
        sources.append({"media": media, "data": _data_uri(svg(figure), ".svg")})
    return sources


def _picture(folder: Path, name: str) -> str | None:
    """A picture of the folder as a data URI; None if it is not there, which must not cost the rest of the report."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise TrajWorldError(f"the picture {name!r} is outside {folder}: name a file within it")
    if path.suffix.lower() not in _IMAGE_TYPES:
        raise TrajWorldError(f"{path} is not a picture: use {', '.join(_IMAGE_TYPES)}")
    try:
        return _data_uri(path.read_bytes(), path.suffix.lower())
    except OSError:
        return None


def _data_uri(content: bytes, suffix: str) -> str:
    return f"data:{_IMAGE_TYPES[suffix]};base64,{base64.b64encode(content).decode()}"


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("trajworld.quickstart").joinpath("report.html").read_text(encoding="utf-8")
    environment.globals.update(FINE_TUNED=FINE_TUNED, FROM_SCRATCH=FROM_SCRATCH)
    return environment.from_string(source)


def _plain(value: Any) -> Any:
    """``value`` as JSON can hold it: NumPy scalars as numbers, what is not finite as null, all else as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
