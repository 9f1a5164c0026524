"""The sections of a card that come from studies of the model, each read from the ``results.json`` of its folder.

The numbers are the studies' own; so are the sentences (``findings``), good news and bad.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trajworld.card.markdown import plain, table
from trajworld.errors import TrajWorldError
from trajworld.files import read_json
from trajworld.wording import number, short_name


def transfer_section(folder: Path) -> str:
    """What ``trajworld evaluate-transfer`` found: fine-tuning the model against training from scratch.

    Raises:
        TrajWorldError: The folder holds no such results.
    """
    return _section(folder, "Transfer: fine-tuned against from scratch", _transfer_table)


def zero_shot_section(folder: Path) -> str:
    """What ``trajworld evaluate-zero-shot`` found: the model without an update, by length of context.

    Raises:
        TrajWorldError: The folder holds no such results.
    """
    return _section(folder, "Zero-shot: unseen environments without an update", _zero_shot_table)


def _section(folder: Path, title: str, table_of: Callable[[dict[str, Any]], str]) -> str:
    path = folder / "results.json"
    results = read_json(path)
    try:
        parts = [f"## {title}", table_of(results)]
        if sentences := [f"- {plain(str(sentence))}" for sentence in results["findings"]]:
            parts.append("\n".join(sentences))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise TrajWorldError(f"{path} does not hold the results of that study ({error!r})") from None
    return "\n\n".join(parts)


def _transfer_table(results: dict[str, Any]) -> str:
    """A row for each environment and amount of data; mean absolute errors over seeds, in standard deviations."""
    rows = []
    for one in results["environments"]:
        for size in results["plan"]["sizes"]:
            curves = {curve["side"]: curve for curve in one["curves"] if curve["transitions"] == size}
            tuned, scratch = curves.get("fine-tuned"), curves.get("from scratch")
            begins = tuned is not None and tuned["steps"][0] == 0
            after, before = _mean(tuned, -1), _mean(scratch, -1)
            rows.append(
                [
                    plain(short_name(one["environment"])),
                    f"{size:,}",
                    number(one["copy_last_row"]["normalised_mae"]),
                    number(_mean(tuned, 0) if begins else None),
                    number(before),
                    number(after),
                    number(before / after) if before is not None and after else "–",
                ]
            )
    steps = results["plan"]["settings"]["steps"][-1]
    head = (
        "environment",
        "transitions",
        "copy last row",
        "zero-shot",
        "from scratch",
        "fine-tuned",
        "scratch / fine-tuned",
    )
    return (
        f"One-step error in standard deviations of each variate, after {steps:,} steps of training.\n\n"
        + table(head, rows)
    )


def _mean(curve: dict[str, Any] | None, place: int) -> float | None:
    if curve is None:
        return None
    seeds = curve["errors"][place]
    return sum(seeds) / len(seeds)


def _zero_shot_table(results: dict[str, Any]) -> str:
    """A row a family; errors with the whole context, and the model's with the shortest."""
    contexts = results["settings"]["contexts"]
    predictors = list(results["families"][0]["errors"])
    rows = []
    for family in results["families"]:
        curves = {name: family["errors"][name]["mean"] for name in predictors}
        rows.append(
            [
                plain(family["family"]),
                f"{len(family['environments'])}",
                *(number(curves[name][-1]) for name in predictors),
                number(curves["model"][0]),
            ]
        )
    head = (
        "family",
        "environments",
        *map(plain, predictors),
        f"model, {contexts[0]} row{'s' * (contexts[0] > 1)}",
    )
    return (
        f"One-step error in standard deviations of each variate, with {contexts[-1]} rows of context.\n\n"
        + table(head, rows)
    )
