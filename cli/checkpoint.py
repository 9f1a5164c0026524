"""``trajworld checkpoint``: import published checkpoints, show model files."""

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table


@click.group()
def checkpoint() -> None:
    """Import published checkpoints, show model files."""


@checkpoint.command("import", short_help="Make a model file of a checkpoint of the published code.")
@click.argument("source", metavar="FILE.pkl", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The model file to write (.keras)."
)
@click.option(
    "--heads",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Attention heads, which the weights do not tell.",
)
@click.option("--environment", default="", help="The environment it belongs to: gymnasium/Hopper-v5.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_(source: Path, output: Path, heads: int, environment: str, as_json: bool) -> None:
    """Make a model file of a checkpoint that the published code wrote (trm_dynamics.pkl).

    The pickle is read without running anything in it. The model's sizes are inferred from its weights, and
    its ranges are kept.

    \b
    Examples:
      trajworld checkpoint import trm_dynamics.pkl -o model.keras
      trajworld checkpoint import hopper/trm_dynamics.pkl -o hopper.keras --environment gymnasium/Hopper-v5
    """
    from trajworld.models.files import describe_model, model_path, save_model

    model_path(output)
    with Console(stderr=True).status("Importing ..."):
        from trajworld.interop.convert import import_published

        save_model(import_published(source, heads=heads, environment=environment), output)
    _print(describe_model(output), as_json)


@checkpoint.command(short_help="Show what a model file holds.")
@click.argument("model", metavar="MODEL")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(model: str, as_json: bool) -> None:
    """Show a model's sizes, environment, ranges, versions and history.

    MODEL is one that ships, one on the Hugging Face hub (hf://USER/REPO[@REVISION][/FILE.keras]) or a file.

    \b
    Examples:
      trajworld checkpoint show trajworld-small
      trajworld checkpoint show model.keras
      trajworld checkpoint show model.keras --json | jq .sizes
    """
    from trajworld.models.files import describe_model
    from trajworld.models.names import find_model

    _print(describe_model(find_model(model)), as_json)


def _print(description: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(description, indent=2))
        return
    console = Console()
    sizes, saved, history = description["sizes"], description["saved"], dict(description["history"])
    versions = history.pop("versions", None)
    facts = Table(show_header=False, box=None)
    facts.add_column()
    facts.add_column(overflow="fold")
    environments = description["environment"] or ", ".join(description["sources"]) or "(not known)"
    for name, value in (
        ("model", description["path"]),
        ("size", f"{description['bytes'] / 1e6:,.1f} MB, {description['parameters']:,} parameters"),
        ("blocks, width, heads", f"{sizes['blocks']}, {sizes['width']}, {sizes['heads']}"),
        ("window, bins", f"{sizes['window']} rows, {sizes['bins']} bins"),
        ("most variates", str(sizes["variates"])),
        ("dropout, dtype", f"{sizes['dropout']}, {description['dtype']}"),
        ("environment", environments),
        ("saved", f"{saved['date_saved']}, Keras {saved['keras_version']}"),
        *((name, value if isinstance(value, str) else json.dumps(value)) for name, value in history.items()),
    ):
        facts.add_row(_plain(name), _plain(value))
    if isinstance(versions, dict):
        facts.add_row(
            "versions", _plain(", ".join(f"{name} {version}" for name, version in versions.items()))
        )
    console.print(facts)
    console.print(_ranges(description))


def _ranges(description: dict[str, Any]) -> Table:
    """The support of each variate; of a pre-trained model, how many variates each environment has."""
    table = Table(title="Ranges", title_justify="left")
    lower, upper = description["support"]["lower"], description["support"]["upper"]
    if isinstance(lower, list):
        observations = description["observation_size"]
        table.add_column("variate")
        table.add_column("lower", justify="right")
        table.add_column("upper", justify="right")
        for index, ends in enumerate(zip(lower, upper, strict=True)):
            table.add_row(_variate(index, observations), *(f"{end:.6g}" for end in ends))
        return table
    table.add_column("environment", overflow="fold")
    table.add_column("variates", justify="right")
    table.add_column("shared range", justify="right")
    for name, support in description["sources"].items():
        table.add_row(_plain(name), str(len(support["lower"])), f"{lower:g} to {upper:g}")
    if not description["sources"]:
        table.add_row("(data are scaled by their own range)", "", f"{lower:g} to {upper:g}")
    return table


def _variate(index: int, observations: int | None) -> str:
    if observations is None:
        return str(index)
    if index == observations:
        return "reward"
    return f"observation {index}" if index < observations else f"action {index - observations - 1}"


def _plain(text: str) -> str:
    """Text from a file for the terminal: no markup, and what would move the cursor spelled out."""
    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))
