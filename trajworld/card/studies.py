"""The sections of a card that come from studies of the model, each read from the ``results.json`` of its folder.

The numbers are the studies' own; so are the sentences (``findings``), good news and bad. A study says which model file
it is of (``model.file``, the SHA-256 of its bytes), and no other's stands in a card.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trajworld.card.markdown import plain, table
from trajworld.card.run import Weights
from trajworld.errors import TrajWorldError
from trajworld.files import read_json
from trajworld.text import number, short_name


def transfer_section(folder: Path, weights: Weights | None) -> str:
    """What ``trajworld evaluate-transfer`` found: fine-tuning the model against training from scratch.

    Args:
        folder: Where the results are, or the study's whole folder, with one for the results of each model.
        weights: The model file that they must be of.

    Raises:
        TrajWorldError: The folder holds no such results, or results of another model.
    """
    title = "Transfer: fine-tuned against from scratch"
    return _section(_folder_of(folder, weights), "transfer", title, _transfer_table, weights)


def zero_shot_section(folder: Path, weights: Weights | None) -> str:
    """What ``trajworld evaluate-zero-shot`` found: the model without an update, by length of context.

    Args:
        folder: Where the results are.
        weights: The model file that they must be of.

    Raises:
        TrajWorldError: The folder holds no such results, or results of another model.
    """
    # Whether the environments were unseen is for the findings to say.
    return _section(folder, "zero-shot", "Zero-shot: without an update", _zero_shot_table, weights)


def _folder_of(folder: Path, weights: Weights | None) -> Path:
    """Of a folder with results of several models, each in a folder of its own, the one of ``weights``; else ``folder``.

    Raises:
        TrajWorldError: There are some, but none is of these weights.
    """
    others = sorted(folder.glob("*/results.json"))
    if (folder / "results.json").is_file() or not others or weights is None:
        return folder
    for path in others:
        results = read_json(path)
        model = results.get("model") if isinstance(results, dict) else None
        if isinstance(model, dict) and model.get("file") == weights.digest:
            return path.parent
    raise TrajWorldError(
        f"{folder} holds results of other models ({len(others)}), and none of {weights.path}"
    )


def _section(
    folder: Path,
    kind: str,
    title: str,
    table_of: Callable[[dict[str, Any]], str],
    weights: Weights | None,
) -> str:
    path = folder / "results.json"
    results = read_json(path)
    try:
        # Studies of before kinds were written have none.
        if (found := results.get("kind", kind)) != kind:
            raise ValueError(f"they are of the kind {_short(found)}")
        parts = [f"## {title}", table_of(results)]
        if sentences := [f"- {plain(str(sentence))}" for sentence in results["findings"]]:
            parts.append("\n".join(sentences))
        model = results["model"]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise TrajWorldError(f"{path} does not hold the results of that study ({error!r})") from None
    _check_model(path, model, weights)
    return "\n\n".join(parts)


def _check_model(path: Path, model: Any, weights: Weights | None) -> None:
    """Refuse a study of another model file than ``weights``; ``model`` is what the study says of its own.

    Raises:
        TrajWorldError: It is one, or it cannot be told.
    """
    if model is None:
        raise TrajWorldError(f"{path} is a study of no model yet: only the side from scratch was run")
    if weights is None:
        raise TrajWorldError(f"{path} is a study of a model, but the run has left no model file yet")
    if not isinstance(model, dict) or not isinstance(model.get("file"), str):
        raise TrajWorldError(f"{path} was made by an earlier version: run the study again")
    if model["file"] != weights.digest:
        step = model.get("step")
        shown = f" (step {step:,})" if isinstance(step, int) else ""
        raise TrajWorldError(
            f"{path} is a study of {_short(model.get('name', '?'))}{shown}, not of {weights.path}"
        )


def _short(value: Any) -> str:
    """A value of a file for a line of text."""
    return "".join(c for c in str(value) if c.isprintable())[:200]


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
    settings = results["plan"]["settings"]
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
        f"One-step error in standard deviations of each variate, after {settings['steps'][-1]:,} steps of training in "
        f"batches of {settings['batch_size']:,}, {plain(_short(settings['targets']))} targets.\n\n"
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
        environments = family["environments"]
        rows.append(
            [
                # A family's name would claim too much where one of its environments was measured.
                plain(family["family"] if len(environments) > 1 else short_name(environments[0])),
                f"{len(environments)}",
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
