"""The tables of a study of transfer, for a terminal and as Markdown, and the folder that it leaves."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trajworld.card.markdown import plain, table
from trajworld.errors import TrajWorldError
from trajworld.files import atomic_file, read_json, write_json
from trajworld.models.files import SUFFIX
from trajworld.models.names import said_briefly
from trajworld.text import number, short_name
from trajworld.transfer.factors import Need, Savings
from trajworld.transfer.findings import findings
from trajworld.transfer.plan import FINE_TUNED, FROM_SCRATCH
from trajworld.transfer.records import PretrainedModel
from trajworld.transfer.results import Curve, EnvironmentResults, Results

_RESULTS = "results.json"

Cells = list[list[str]]


def results_folder(folder: Path, model: PretrainedModel | None) -> Path:
    """Where a study's results go: a folder of the model's own, beside the trials that several models share.

    Args:
        folder: The study's.
        model: The pre-trained model; None where no side is fine-tuned.
    """
    if model is None:
        return folder / FROM_SCRATCH.replace(" ", "-")
    name = re.sub(r"[^\w.-]+", "-", said_briefly(model.name).removesuffix(SUFFIX), flags=re.ASCII).strip("-.")
    return folder / f"{name or 'model'}-{model.digest[:8]}"


def is_of_another_plan(folder: Path, results: Results) -> bool:
    """Whether a folder holds results of another plan than these."""
    path = folder / _RESULTS
    if not path.is_file():
        return False
    try:
        there = read_json(path)
    except TrajWorldError:
        return True
    return not isinstance(there, dict) or there.get("plan") != json.loads(
        json.dumps(results.to_json()["plan"])
    )


def write_results(results: Results, folder: Path) -> Results:
    """Write ``results.json``, ``results.md`` and the two pictures; the results with their findings.

    Raises:
        TrajWorldError: The folder cannot be written.
    """
    from trajworld.transfer.pictures import draw_data, draw_steps

    results = replace(results, findings=tuple(findings(results)))
    write_json(folder / _RESULTS, results.to_json())
    with atomic_file(folder / "results.md") as temporary:
        temporary.write_text(markdown(results), encoding="utf-8")
    draw_data(results, folder / "transfer-data.png")
    draw_steps(results, folder / "transfer-steps.png")
    return results


def markdown(results: Results) -> str:
    """Both tables and the findings."""
    cells = (error_cells(results), factor_cells(results))
    parts = [table(head, rows) for head, *rows in filter(None, cells) if rows]
    text = "\n".join(f"- {plain(line)}" for line in results.findings)
    return "\n\n".join(part for part in [*parts, text] if part) + "\n"


def print_tables(results: Results, console: Console) -> None:
    """Both tables."""
    steps = results.plan.settings.steps[-1]
    for title, cells in (
        (f"One-step error after {steps:,} steps, mean [least–greatest seed]", error_cells(results)),
        ("Data and steps that fine-tuning needs to reach the error from scratch", factor_cells(results)),
    ):
        if len(cells) > 1:
            table = Table(
                title=escape(title), title_justify="left", box=None, pad_edge=False, header_style="bold"
            )
            # Broken by hand: eighty columns hold the table, and no number is cut.
            for place, header in enumerate(cells[0]):
                broken = header.replace(" ", "\n") if len(header) > 9 else header
                table.add_column(broken, justify="left" if place == 0 else "right", no_wrap=True)
            for row in cells[1:]:
                table.add_row(*(escape(re.sub(r" (?=[\[(]|on |vs )", "\n", cell)) for cell in row))
            console.print(table, "")


def error_cells(results: Results) -> Cells:
    """The errors by environment and amount of data, under their headers."""
    rows = [["environment", "data", "copy last row", "zero-shot", "from scratch", "fine-tuned", "ratio"]]
    for one in results.environments:
        for size in results.plan.sizes:
            scratch, tuned = one.curve(FROM_SCRATCH, size), one.curve(FINE_TUNED, size)
            zero = tuned is not None and tuned.steps[0] == 0
            rows.append(
                [
                    _name(one),
                    f"{size:,}",
                    number(one.copy_last_row.normalised_mae),
                    number(tuned.mean[0]) if zero and tuned is not None else "–",
                    _last(scratch),
                    _last(tuned),
                    "–"
                    if scratch is None or tuned is None or not tuned.mean[-1]
                    else f"{scratch.mean[-1] / tuned.mean[-1]:.2f}",
                ]
            )
    return rows


def factor_cells(results: Results) -> Cells:
    """What each side of an environment needs for the error from scratch, under its headers.

    That error is the one after the last step on the most data, and in a second row the least at any step, where that is
    less. "vs" stands between what fine-tuning and what scratch needs; the factors of the seeds stand in brackets where
    they differ.
    """
    size = results.plan.sizes[-1]
    rows = [
        [
            "environment",
            "error from scratch",
            "data tuned vs scratch",
            "data factor",
            f"steps on {size:,} tuned vs scratch",
            "step factor",
            "on the least data",
        ]
    ]
    for one in results.environments:
        if one.factors is None:
            continue
        last, best = one.factors.last, one.factors.best
        seeds = one.seed_factors
        rows.append(_factor_row(one, last, [each.last for each in seeds], number(last.target)))
        if best.target < last.target:
            text = f"{number(best.target)} (least)"
            rows.append(_factor_row(one, best, [each.best for each in seeds], text))
    return rows if len(rows) > 1 else []


def _factor_row(
    one: EnvironmentResults, savings: Savings, by_seed: Sequence[Savings], target: str
) -> list[str]:
    smallest = savings.smallest
    least = "none" if smallest is None else f"{_amount(savings.steps[smallest])} on {smallest:,}"
    return [
        _name(one),
        target,
        f"{_amount(savings.data)} vs {savings.amount:,}",
        _factors(savings.data, [each.data for each in by_seed]),
        f"{_amount(savings.largest)} vs {savings.step:,}",
        _factors(savings.largest, [each.largest for each in by_seed]),
        least,
    ]


def _name(one: EnvironmentResults) -> str:
    """``Hopper`` of ``gymnasium/Hopper-v5``: the narrower the better."""
    return plain(re.sub(r"-v\d+$", "", short_name(one.environment)))


def _amount(need: Need | None) -> str:
    if need is None:
        return "not reached"
    about = "" if math.isclose(need.about, need.amount) else f" (≈ {need.about:,.0f})"
    return f"{need.amount:,}{about}"


def _factors(need: Need | None, by_seed: Sequence[Need | None]) -> str:
    """A factor, and from the least to the greatest of the seeds where they differ: ``10 (never–20)``."""

    def key(one: Need | None) -> float:
        return -1.0 if one is None else math.inf if one.factor is None else one.factor

    ends = (
        [_factor(end, "never") for end in (min(by_seed, key=key), max(by_seed, key=key))] if by_seed else []
    )
    mean = _factor(need, "–")
    return mean if len(set(ends)) < 2 else f"{mean} ({ends[0]}–{ends[1]})"


def _factor(need: Need | None, never: str) -> str:
    if need is None:
        return never
    return "no step" if need.factor is None else f"{need.factor:.3g}"


def _last(curve: Curve | None) -> str:
    if curve is None:
        return "–"
    if len(curve.errors[-1]) == 1:
        return number(curve.mean[-1])
    return f"{number(curve.mean[-1])} [{number(curve.low[-1])}–{number(curve.high[-1])}]"
