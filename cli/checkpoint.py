"""``trajworld checkpoint``: import published checkpoints, show, describe and publish models."""

import json
from pathlib import Path

import click

from trajworld.backend import require_framework
from trajworld.errors import UsageError

from .model_tables import print_model, print_models
from .options import FILE, PATH, json_option
from .output import console

_licence_option = click.option(
    "--license",
    "licence",
    default="",
    metavar="ID",
    help="The model's licence, as the hub names it: mit, apache-2.0, ….  [default: none is named, but for a model that "
    "ships]",
)


@click.group()
def checkpoint() -> None:
    """Import published checkpoints; show, describe and publish models."""


@checkpoint.command("import", short_help="Make a model file of a checkpoint of the published code.")
@click.argument("source", metavar="FILE.pkl", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="The model file to write (.keras).")
@click.option(
    "--heads",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Attention heads, which the weights do not tell.",
)
@click.option("--environment", default="", help="The environment it belongs to: gymnasium/Hopper-v5.")
@json_option
def import_(source: Path, output: Path, heads: int, environment: str, as_json: bool) -> None:
    """Make a model file of a checkpoint that the published code wrote (trm_dynamics.pkl).

    The pickle is read without running anything in it. The model's sizes are inferred from its weights, and
    its ranges are kept.

    \b
    Examples:
      trajworld checkpoint import trm_dynamics.pkl -o model.keras
      trajworld checkpoint import hopper/trm_dynamics.pkl -o hopper.keras --environment gymnasium/Hopper-v5
    """
    require_framework()
    from trajworld.models.files import describe_model, model_path, save_model

    model_path(output)
    with console(stderr=True).status("Importing ..."):
        from trajworld.interop.published import import_published

        save_model(import_published(source, heads=heads, environment=environment), output)
    print_model(describe_model(output), as_json)


@checkpoint.command(short_help="Show what a model file holds.")
@click.argument("model", metavar="MODEL")
@json_option
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

    print_model(describe_model(find_model(model)), as_json)


@checkpoint.command("list", short_help="List the models that ship.")
@json_option
def list_(as_json: bool) -> None:
    """List the pre-trained models that ship with the package; their names can be used wherever a model is asked for.

    \b
    Examples:
      trajworld checkpoint list
      trajworld evaluate trajworld-small DATASET
    """
    from trajworld.models.files import describe_model
    from trajworld.weights import shipped_card, shipped_models

    found = {name: describe_model(file) for name, file in shipped_models().items()}
    print_models(found, {name: str(shipped_card(name) or "") for name in found}, as_json)


@checkpoint.command(short_help="Write a model card from a run's records.")
@click.argument("run", metavar="RUN", type=PATH)
@click.option("-o", "--output", required=True, type=FILE, help="The card (.md).")
@click.option(
    "--name", default="", help="What the model is loaded by: trajworld-small, hf://USER/REPO, a file."
)
@click.option(
    "--study",
    "studies",
    metavar="FOLDER",
    multiple=True,
    type=PATH,
    help="Add the report of a study of this model: the folder of `trajworld study run`; may be repeated.",
)
@click.option("--transfer", "--zero-shot", "gone", hidden=True)
@_licence_option
def card(
    run: Path, output: Path, name: str, studies: tuple[Path, ...], gone: str | None, licence: str
) -> None:
    """Write the card of the model that RUN trained, Markdown for people and for the Hugging Face hub.

    Its numbers come from the run's config.toml, run.json and metrics.jsonl, and from the reports of studies, which must
    be of the run's best.keras (last.keras where nothing was held out).

    \b
    Examples:
      trajworld checkpoint card runs/pre -o CARD.md
      trajworld checkpoint card runs/pre --name hf://USER/REPO --study transfer --study zero-shot -o CARD.md
    """
    if gone is not None:
        raise UsageError("--transfer and --zero-shot are gone: name the folder of each study by --study")
    if output.suffix.lower() != ".md":
        raise UsageError(f"a card is Markdown: {output} does not end in .md")
    from trajworld.card.card import write_card

    write_card(run, output, name=name, licence=licence, studies=studies)
    click.echo(f"Card: {output}", err=True)


@checkpoint.command(short_help="Upload a model and its card to the Hugging Face hub.")
@click.argument("model", metavar="MODEL")
@click.argument("address", metavar="hf://USER/REPO")
@click.option(
    "--card",
    "card_file",
    metavar="FILE",
    type=FILE,
    help="Markdown to upload as README.md.  [default: the card that ships with MODEL, or of the run it is in; none "
    "beside another file than model.keras]",
)
@_licence_option
@click.option("--private", is_flag=True, help="Make the repository a private one.")
@click.option("--message", help="Of the commit.")
@json_option
def push(
    model: str,
    address: str,
    card_file: Path | None,
    licence: str,
    private: bool,
    message: str | None,
    as_json: bool,
) -> None:
    """Upload MODEL as model.keras, with its card as README.md, to a repository, which is made if need be.

    The address may name a branch that is there and another file: hf://USER/REPO[@BRANCH][/FILE.keras]; with another
    file a card is uploaded only where --card names one. The token is huggingface_hub's: log in with `hf auth login`, or
    set HF_TOKEN. HF_ENDPOINT names another hub.

    \b
    Examples:
      trajworld checkpoint push trajworld-small hf://USER/trajworld-small
      trajworld checkpoint push runs/pre/best.keras hf://USER/robots --private --message "32 000 steps"
      trajworld checkpoint push tuned.keras hf://USER/hopper --card CARD.md
    """
    from trajworld.card.card import card_for, read_card
    from trajworld.models.files import check_model
    from trajworld.models.hub import DEFAULT_FILE, hub_address, upload
    from trajworld.models.names import find_model

    place = hub_address(address)
    if licence and (card_file is not None or place.file != DEFAULT_FILE):
        raise UsageError(
            "--license goes into a card that is made for model.keras: your own card names its licence itself"
        )
    path = find_model(model)
    if card_file is not None:
        text: str | None = read_card(card_file)
    elif place.file == DEFAULT_FILE:
        text = card_for(model, address, licence)
    else:
        # The repository's README.md is of its model.keras, or someone's own.
        text = None
    check_model(path)
    with console(stderr=True).status("Uploading ..."):
        page = upload(place, path, card=text, private=private or None, message=message)
    files = [place.file, *(["README.md"] if text is not None else [])]
    if as_json:
        click.echo(json.dumps({"address": str(place), "page": page, "files": files}, indent=2))
        return
    without = "" if text is not None else " (without a card: --card takes one)"
    click.echo(f"{page}: {', '.join(files)}{without}")
    click.echo(f"Load it by its address, {place}")
