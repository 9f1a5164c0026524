"""``trajworld quickstart``: the quickstart's study, all in one folder."""

from pathlib import Path

import click

from trajworld.backend import require_framework
from trajworld.errors import UsageError


@click.command(short_help="Fine-tune a pre-trained model on an unseen robot, compare, report.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("trajworld-quickstart"),
    show_default=True,
    help="Folder for everything: datasets, results, report. Must not exist, be empty, or hold the same quickstart.",
)
@click.option(
    "--scale",
    type=click.Choice(["small", "tiny"]),
    default="small",
    show_default=True,
    help="small: a real result, at most 5 minutes on two cores; tiny: a try of the machinery in half a minute.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is random.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def quickstart(output: Path, scale: str, seed: int, as_json: bool) -> None:
    """Show what pre-training buys on a robot that the model has never seen.

    Collects trajectories of Gymnasium's hopper and fine-tunes the model that ships, trajworld-small, on several
    amounts of them, against training from scratch with equal steps and learning rates, and against copying the
    last row. Writes a report (index.html) with pictures. Run again after Ctrl-C, it continues.

    \b
    Examples:
      trajworld quickstart
      KERAS_BACKEND=torch trajworld quickstart -o quick-torch
      trajworld quickstart --scale tiny -o /tmp/try
    """
    require_framework()
    from trajworld.files import read_json
    from trajworld.studies.quickstart import SCALES, Quickstart
    from trajworld.study.report import RECORD, options
    from trajworld.study.run import LocalEngine, default_workers

    from .study import execute

    study = Quickstart(**SCALES[scale], seed=seed, datasets=str(output.absolute() / "datasets"))
    record = output / RECORD
    same = record.is_file() and read_json(record).get("options") == options(study)
    if output.exists() and not same and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is not empty: name another folder with -o, or remove it first")
    workers = default_workers()
    execute(study, output, output / "cells", LocalEngine(workers), workers, as_json)
