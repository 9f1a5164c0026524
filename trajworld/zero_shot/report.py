"""The folder that a zero-shot study leaves: its results as JSON, its tables and findings as Markdown, its picture."""

from collections.abc import Sequence
from pathlib import Path

from trajworld.card.markdown import code, plain, table
from trajworld.files import atomic_file, write_json
from trajworld.text import number
from trajworld.zero_shot.pictures import draw
from trajworld.zero_shot.results import Group, Results, group_of
from trajworld.zero_shot.study import COPY, MINIMUM_NORM, MODEL, PREDICTORS, RIDGE

FILES = ("results.json", "results.md", "zero-shot.png")
"""All that :func:`write_results` writes."""

_JSON, _MARKDOWN, _PICTURE = FILES

_HEADINGS = {
    COPY: "copy last row",
    MINIMUM_NORM: "least squares, min. norm",
    RIDGE: "least squares, ridge",
    MODEL: "model",
}


def write_results(results: Results, findings: Sequence[str], folder: Path) -> None:
    """Write ``results.json``, ``results.md`` and ``zero-shot.png``.

    Raises:
        TrajWorldError: The folder cannot be written.
    """
    write_json(folder / _JSON, results.as_json(findings))
    with atomic_file(folder / _MARKDOWN) as temporary:
        temporary.write_text(markdown(results, findings), encoding="utf-8")
    draw(results, folder / _PICTURE)


def markdown(results: Results, findings: Sequence[str]) -> str:
    """A table of all predictors with the whole context, one of the model by length of context, and the findings."""
    contexts = results.measured[0].errors.contexts
    step = "" if results.model.step is None else f" (step {results.model.step:,})"
    parts = [
        f"One-step error of {code(results.model.name)}{step} in standard deviations of each variate, with "
        f"{contexts[-1]} rows of context, and 95 % interval:",
        _by_predictor(results),
    ]
    if len(contexts) > 1:
        parts += ["The model's error by rows of context:", _by_context(results)]
    parts.append("\n".join(f"- {plain(sentence)}" for sentence in findings))
    return "\n\n".join(parts) + "\n"


def _rows(results: Results) -> list[tuple[str, str, Group]]:
    """The first cell, M and errors of each row: families of several environments, then their members."""
    rows = []
    for group in results.family_groups:
        if len(group.members) > 1:
            rows.append((f"**{plain(group.name)}** (mean of {len(group.members)})", "", group))
        for member in group.members:
            rows.append(
                (plain(group_of(member).name), f"{member.trial.dataset.num_variates}", group_of(member))
            )
    return rows


def _by_predictor(results: Results) -> str:
    head = ("environment", "M", "test episodes", *(_HEADINGS[predictor] for predictor in PREDICTORS))
    return table(head, [_row(*row) for row in _rows(results)])


def _row(name: str, variates: str, group: Group) -> list[str]:
    episodes = f"{group.errors.episodes}" if len(group.members) == 1 else ""
    return [name, variates, episodes, *(_error(group, predictor) for predictor in PREDICTORS)]


def _error(group: Group, predictor: str) -> str:
    """``0.21 [0.19–0.24]``; without the interval where there are too few episodes for one."""
    mean, low, high = group.errors.curve(predictor)[:, -1].tolist()
    interval = f" [{number(low)}–{number(high)}]" if group.errors.enough else ""
    return f"{number(mean)}{interval}"


def _by_context(results: Results) -> str:
    contexts = results.measured[0].errors.contexts
    rows = [
        [name, *(number(group.errors.of(MODEL, context)) for context in contexts)]
        for name, _, group in _rows(results)
    ]
    return table(("environment", *map(str, contexts)), rows)
