"""``trajworld checkpoint``: import published checkpoints, show, describe and publish models."""

from pathlib import Path
from typing import Annotated, Any

import click

from trajworld.backend import require_framework
from trajworld.errors import UsageError

from .commands import AtLeast1, File, Json, LazyGroup, With
from .output import MANY, console, print_facts, print_json, print_records, print_rows

_LICENCE = "The model's licence, as the hub names it: mit, apache-2.0.  [default: none, or that of a model that ships]"
Licence = Annotated[str, With(flags=["--license"], metavar="ID", help=_LICENCE)]


@click.group(cls=LazyGroup, lazy={})
def checkpoint() -> None:
    """Import published checkpoints; show, describe and publish models."""


@checkpoint.command("import")
def import_(
    source: Annotated[Path, With(metavar="FILE.pkl")],
    *,
    output: Path,
    heads: AtLeast1 = 4,
    environment: str = "",
    as_json: Json = False,
) -> None:
    """Make a model file of a checkpoint that the published code wrote (trm_dynamics.pkl, tdm_dynamics.pkl).

    The pickle is read without running anything in it. The model's sizes are inferred from its weights, and
    its ranges are kept.

    \b
    Examples:
      trajworld checkpoint import trm_dynamics.pkl -o model.keras
      trajworld checkpoint import hopper/trm_dynamics.pkl -o hopper.keras --environment gymnasium/Hopper-v5

    Options:
        output: The model file to write (.keras).
        heads: Attention heads, which the weights do not show.
        environment: The environment it belongs to: gymnasium/Hopper-v5.
    """
    require_framework()
    from trajworld.models.files import describe_model, model_path, save_model

    model_path(output)
    with console(stderr=True).status("Importing ..."):
        from trajworld.interop.published import import_published

        save_model(import_published(source, heads=heads, environment=environment), output)
    _show(describe_model(output), as_json)


@checkpoint.command()
def show(model: str, *, as_json: Json = False) -> None:
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

    _show(describe_model(find_model(model)), as_json)


@checkpoint.command("list")
def list_(*, as_json: Json = False) -> None:
    """List the models that ship.

    Their names can be used wherever a model is asked for.

    \b
    Examples:
      trajworld checkpoint list
      trajworld evaluate trajworld-small DATASET
    """
    from trajworld.models.files import describe_model
    from trajworld.weights import shipped_card, shipped_models

    models = [
        {"name": name, **describe_model(file), "card": str(shipped_card(name) or "")}
        for name, file in shipped_models().items()
    ]
    if as_json:
        return print_json(models)
    for one in models:
        one |= {"environments": len(_environments(one)), "steps": one["history"].get("step")}
        one["card"] = "yes" if one["card"] else "no"
    print_records(models, ("name", "parameters", "bytes", "environments", "steps", "card"))


@checkpoint.command()
def card(
    run: Annotated[Path, With(metavar="RUN")],
    *,
    output: File,
    name: str = "",
    studies: Annotated[tuple[Path, ...], With(flags=["--study"], metavar="FOLDER")] = (),
    licence: Licence = "",
) -> None:
    """Write the card of the model that RUN trained, Markdown for people and for the Hugging Face hub.

    Its numbers come from the run's config.toml, run.json and metrics.jsonl, and from the reports of studies, which must
    be of the run's best.keras (last.keras where nothing was held out).

    \b
    Examples:
      trajworld checkpoint card runs/pre -o CARD.md
      trajworld checkpoint card runs/pre --name hf://USER/REPO --study transfer --study zero-shot -o CARD.md

    Options:
        output: The card (.md).
        name: What the model is loaded by: trajworld-small, hf://USER/REPO, a file.
        studies: Add the report of a study of this model: the folder of `trajworld study run`; may be repeated.
    """
    if output.suffix.lower() != ".md":
        raise UsageError(f"a card is Markdown: {output} does not end in .md")
    from trajworld.card.card import write_card

    write_card(run, output, name=name, licence=licence, studies=studies)
    click.echo(f"Card: {output}", err=True)


@checkpoint.command()
def push(
    model: str,
    address: Annotated[str, With(metavar="hf://USER/REPO")],
    *,
    card_file: Annotated[File, With(flags=["--card"], metavar="FILE")] | None = None,
    licence: Licence = "",
    private: bool = False,
    message: str | None = None,
    as_json: Json = False,
) -> None:
    """Upload a model and its card to the Hugging Face hub.

    MODEL becomes model.keras of a repository, created if needed, its card README.md. The address may name an existing
    branch and another file: hf://USER/REPO[@BRANCH][/FILE.keras]; with another file a card is uploaded only where
    --card names one. The token is huggingface_hub's: log in with `hf auth login`, or set HF_TOKEN. HF_ENDPOINT names
    another hub.

    \b
    Examples:
      trajworld checkpoint push trajworld-small hf://USER/trajworld-small
      trajworld checkpoint push runs/pre/best.keras hf://USER/robots --private --message "32 000 steps"
      trajworld checkpoint push tuned.keras hf://USER/hopper --card CARD.md

    Options:
        card_file: Markdown to upload as README.md.  [default: the card that ships with MODEL, or of the run it is in;
            none beside another file than model.keras]
        private: Make the repository private.
        message: The commit message.
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
    else:
        # Beside another file, README.md is of the repository's model.keras, or someone's own.
        text = card_for(model, address, licence) if place.file == DEFAULT_FILE else None
    check_model(path)
    with console(stderr=True).status("Uploading ..."):
        page = upload(place, path, card=text, private=private or None, message=message)
    files = [place.file, *(["README.md"] if text is not None else [])]
    if as_json:
        return print_json({"address": str(place), "page": page, "files": files})
    without = "" if text is not None else " (without a card: --card takes one)"
    click.echo(f"{page}: {', '.join(files)}{without}")
    click.echo(f"Load it by its address, {place}")


def _show(found: dict[str, Any], as_json: bool) -> None:
    """What one model file holds."""
    if as_json:
        return print_json(found)
    sources = _environments(found)
    facts = found | {"environment": found["environment"] or list(sources) or "(not known)"}
    shown = [(name, value) for name, value in facts.items() if name not in ("support", "sources", "history")]
    print_facts([*shown, *found["history"].items()])
    _print_ranges(found)
    if len(sources) > MANY:
        click.echo("--json has the range of every variate of each.")


def _print_ranges(found: dict[str, Any]) -> None:
    """The support of each variate; of a pre-trained model, how many variates its environments have."""
    lower, upper = found["support"]["lower"], found["support"]["upper"]
    if isinstance(lower, list):
        observations, actions = found["observation_size"] or 0, found["action_size"] or 0
        names = [
            *(f"observation {i}" for i in range(observations)),
            "reward",
            *(f"action {i}" for i in range(actions)),
        ]
        names = names if len(names) == len(lower) else [str(i) for i in range(len(lower))]
        ends = ([f"{end:.6g}" for end in pair] for pair in zip(lower, upper, strict=True))
        rows = [(name, *pair) for name, pair in zip(names, ends, strict=True)]
        return print_rows(("variate", "lower", "upper"), rows, "Ranges")
    shared, sizes = f"{lower:g} to {upper:g}", _environments(found)
    if len(sizes) <= MANY:
        shown = [(name, count, shared) for name, count in sizes.items()]
        unknown = [("(data are scaled by their own range)", None, shared)]
        return print_rows(("environment", "variates", "shared range"), shown or unknown, "Ranges")
    from trajworld.collect.corpus_table import source_of

    groups: dict[str, list[int]] = {}
    for name, count in sizes.items():
        groups.setdefault(source_of(name), []).append(count)
    if len(groups) > 1:
        groups["all"] = list(sizes.values())
    counts = [
        (source, len(of), f"{min(of)} – {max(of)}", len(set(of)), shared) for source, of in groups.items()
    ]
    print_rows(("source", "environments", "variates", "different", "shared range"), counts, "Ranges")


def _environments(found: dict[str, Any]) -> dict[str, int]:
    """M of each environment, or dataset of no known environment, that a model was pre-trained on."""
    return {one["environment"] or one["dataset"]: len(one["support"]["lower"]) for one in found["sources"]}
