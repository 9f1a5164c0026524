"""The two pictures of a study of transfer: error against data, and error against steps."""

import math
import os
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from trajworld.charts import MARKERS, Look, amounts_axis, error_axes, save_figure, style_axes
from trajworld.text import short_name
from trajworld.transfer.factors import Need, Savings
from trajworld.transfer.plan import FINE_TUNED, FROM_SCRATCH, SIDES
from trajworld.transfer.results import Curve, EnvironmentResults, Results

_LOOK = Look()
# Inches: a panel, and what is above and below the panels. Three panels fill a page's width, letters still readable.
_WIDTH, _HEIGHT, _TOP, _BOTTOM = 2.6, 2.5, 1.0, 0.55
_LEFT, _GAP = 0.5, 0.55
# Above each panel: points of a line of text, and how many lines.
_LINE = 13
_SMALL = 9.5


def draw_data(results: Results, path: str | os.PathLike[str]) -> None:
    """Draw the error after the last step against the amount of data, a panel for each environment."""
    steps = results.plan.settings.steps[-1]
    figure = _panels(
        results,
        _data_panel,
        f"mean absolute one-step error after {steps:,} steps, standard deviations",
        "transitions of data (log scale)",
        [("copy last row", "copy", (1.5, 2)), ("zero-shot", "zero-shot", (6, 3))],
        lines=1,
    )
    save_figure(figure, path)


def draw_steps(results: Results, path: str | os.PathLike[str]) -> None:
    """Draw the error against the steps of training on the most data, a panel for each environment."""
    size = results.plan.sizes[-1]
    figure = _panels(
        results,
        _steps_panel,
        f"mean absolute one-step error on {size:,} transitions, standard deviations",
        "steps of training (log scale)",
        [("copy last row", "copy", (1.5, 2))],
        lines=2,
    )
    save_figure(figure, path)


def _panels(
    results: Results,
    draw: Callable[[Axes, Results, EnvironmentResults], tuple[list[float], list[str]]],
    title: str,
    below: str,
    others: Sequence[tuple[str, str, tuple[float, float]]],
    lines: int,
) -> Figure:
    """A panel for each environment, with so many lines of news above each."""
    count = len(results.environments)
    width = _LEFT + count * _WIDTH + (count - 1) * _GAP + 0.25
    height = _TOP + lines * _LINE / 72 + _HEIGHT + _BOTTOM
    # A figure of its own, not pyplot's: nothing global is changed.
    figure = Figure(figsize=(max(width, 6.5), height), facecolor=_LOOK.colour("paper"))
    width = figure.get_figwidth()
    panels: list[tuple[Axes, list[float]]] = []
    for place, one in enumerate(results.environments):
        left = _LEFT + place * (_WIDTH + _GAP)
        axes = figure.add_axes((left / width, _BOTTOM / height, _WIDTH / width, _HEIGHT / height))
        style_axes(axes, _LOOK)
        shown, news = draw(axes, results, one)
        positive = [error for error in shown if error > 0 and math.isfinite(error)]
        if positive:
            panels.append((axes, positive))
        _heading(axes, 8 + lines * _LINE, short_name(one.environment), "text", 11)
        for number, line in enumerate(news, start=1):
            _heading(axes, 7 + (lines - number) * _LINE, line, FINE_TUNED, _SMALL - 0.5)
        if place == 0:
            axes.set_xlabel(below, loc="left")
    log = " (log scale)" if error_axes(panels) else ""
    figure.text(
        0.1 / width,
        1 - 0.12 / height,
        f"{title}{log}",
        fontsize=_SMALL + 1,
        color=_LOOK.colour("faint text"),
        va="top",
    )
    _legend(figure, others)
    return figure


def _heading(axes: Axes, above: float, text: str, colour: str, size: float) -> None:
    """A line of text, so many points above a panel."""
    axes.annotate(
        text,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, above),
        textcoords="offset points",
        color=_LOOK.colour(colour),
        fontsize=size,
        fontweight="bold",
    )


def _legend(figure: Figure, others: Sequence[tuple[str, str, tuple[float, float]]]) -> None:
    lines = [
        Line2D([], [], color=_LOOK.colour(side), marker=MARKERS[side], linewidth=2.2, label=side)
        for side in (FINE_TUNED, FROM_SCRATCH)
    ]
    lines += [
        Line2D([], [], color=_LOOK.colour(colour), dashes=dashes, linewidth=1.6, label=name)
        for name, colour, dashes in others
    ]
    legend = figure.legend(
        handles=lines,
        loc="upper left",
        bbox_to_anchor=(0.0, 1 - 0.3 / figure.get_figheight()),
        ncols=len(lines),
        frameon=False,
        fontsize=_SMALL + 0.5,
        handlelength=2.2,
    )
    for text, line in zip(legend.get_texts(), lines, strict=True):
        text.set_color(line.get_color())
        text.set_fontweight("bold")


def _data_panel(axes: Axes, results: Results, one: EnvironmentResults) -> tuple[list[float], list[str]]:
    """Draw one environment; the errors that are in it, and the news."""
    shown = [one.copy_last_row.normalised_mae]
    axes.axhline(shown[0], color=_LOOK.colour("copy"), linewidth=1.6, dashes=(1.5, 2))
    zero = [(curve.transitions, curve.mean[0]) for curve in one.of_side(FINE_TUNED) if curve.steps[0] == 0]
    if zero:
        axes.plot(*zip(*zero, strict=True), color=_LOOK.colour("zero-shot"), linewidth=1.6, dashes=(6, 3))
        shown += [error for _, error in zero]
    for side in SIDES:
        curves = one.of_side(side)
        if curves:
            places = [curve.transitions for curve in curves]
            bounds = [(curve.low[-1], curve.mean[-1], curve.high[-1]) for curve in curves]
            _line(axes, side, places, bounds)
            shown += [error for bound in bounds for error in bound]
    amounts_axis(axes, results.plan.sizes)
    if one.factors is None:
        return shown, []
    savings = one.factors.last
    _target(axes, savings.target, savings.amount)
    if savings.data is None:
        return shown, ["no amount of data gets there"]
    reached = one.curve(FINE_TUNED, savings.data.amount)
    _mark(axes, savings.data.amount, reached.mean[-1] if reached is not None else savings.target)
    return shown, [f"needs {_part(savings.data, 'data')}"]


def _steps_panel(axes: Axes, results: Results, one: EnvironmentResults) -> tuple[list[float], list[str]]:
    """Draw one environment; the errors that are in it, and the news."""
    steps, size = results.plan.settings.steps, results.plan.sizes[-1]
    shown = [one.copy_last_row.normalised_mae]
    axes.axhline(shown[0], color=_LOOK.colour("copy"), linewidth=1.6, dashes=(1.5, 2))
    # On a logarithmic axis 0 has no place: it is put before the first step, and its tick says 0.
    zero = next((step for step in steps if step > 0), 1) / 2.5
    for side in SIDES:
        curve = one.curve(side, size)
        if curve is not None:
            bounds = list(zip(curve.low, curve.mean, curve.high, strict=True))
            _line(axes, side, [step or zero for step in steps], bounds)
            shown += [error for bound in bounds for error in bound]
    least = _least_data(one)
    if least is not None and least.transitions < size:
        axes.plot(
            [step or zero for step in least.steps],
            least.mean,
            color=_LOOK.colour(FINE_TUNED),
            linewidth=1.4,
            dashes=(4, 2),
            zorder=3,
        )
        shown += least.mean
    axes.set_xscale("log")
    axes.set_xlim((zero if steps[0] == 0 else steps[0]) / 1.25, steps[-1] * 1.25)
    ticks = {step or zero: step for step in steps}
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(ticks, value)))
    if one.factors is None:
        return shown, []
    savings = one.factors.last
    _target(axes, savings.target, savings.step)
    reached = one.curve(FINE_TUNED, size)
    if savings.largest is None or reached is None:
        return shown, ["does not get there"]
    amount = savings.largest.amount
    _mark(axes, amount or zero, reached.mean[steps.index(amount)])
    news = [f"needs {_part(savings.largest, 'steps')}"]
    need = None if least is None else savings.steps[least.transitions]
    if least is not None and least.transitions < size and need is not None:
        news.append(f"dashed, on {least.transitions:,}: {_part(need, 'steps')}")
    return shown, news


def _tick(ticks: dict[float, int], value: float) -> str:
    step = next((step for place, step in ticks.items() if math.isclose(place, value)), None)
    if step is None:
        return ""
    return f"{step // 1000}k" if step >= 1000 and step % 1000 == 0 else str(step)


def _least_data(one: EnvironmentResults) -> Curve | None:
    """The fine-tuned curve of the least data that reaches the target."""
    savings: Savings | None = None if one.factors is None else one.factors.last
    if savings is None or savings.smallest is None:
        return None
    return one.curve(FINE_TUNED, savings.smallest)


def _line(
    axes: Axes, side: str, places: Sequence[float], bounds: Sequence[tuple[float, float, float]]
) -> None:
    """A side's means as a line with marks, from the least to the greatest seed as a band."""
    colour = _LOOK.colour(side)
    low, mean, high = zip(*bounds, strict=True)
    axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(
        places,
        mean,
        marker=MARKERS[side],
        color=colour,
        linewidth=2.2,
        markersize=6.5,
        markeredgecolor=_LOOK.colour("paper"),
        markeredgewidth=1.0,
        zorder=4,
    )


def _target(axes: Axes, target: float, place: float) -> None:
    """Scratch's error as a thin line to the left of where it has it first."""
    axes.plot(
        [axes.get_xlim()[0], place],
        [target, target],
        color=_LOOK.colour(FROM_SCRATCH),
        linewidth=1.0,
        zorder=2,
    )


def _mark(axes: Axes, place: float, error: float) -> None:
    """A ring around the first point of the fine-tuned line that is at the target or below."""
    axes.plot(
        [place],
        [error],
        marker="o",
        markersize=13,
        markerfacecolor="none",
        markeredgecolor=_LOOK.colour(FINE_TUNED),
        markeredgewidth=1.6,
        zorder=5,
    )


def _part(need: Need, of: str) -> str:
    """What part of scratch's data or steps is needed: ``1/16 of the data``; at most, where less was not tried."""
    if need.factor is None:
        return f"none of the {of}"
    bound = "at most " if need.below is None else ""
    if need.factor == 1:
        return f"{bound}as {'much' if of == 'data' else 'many'} {of}"
    if need.factor > 1:
        return f"{bound}1/{need.factor:.3g} of the {of}"
    return f"{bound}{1 / need.factor:.3g} × the {of}" if need.factor else f"more {of}"
