"""A study's output: its tidy table, charts, a Markdown report, and one HTML page that needs no other file."""

import base64
import dataclasses
import inspect
import io
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from trajworld.charts import Look, png, svg
from trajworld.errors import TrajWorldError, one_line
from trajworld.files import atomic_file, read_json, remove_leftovers, write_json
from trajworld.study.run import Study
from trajworld.study.tables import markdown, texts
from trajworld.text import duration

PAGE, MARKDOWN, TABLE, RECORD = "index.html", "report.md", "table.csv", "study.json"
_LOOKS = (
    (Look(dark=True, narrow=True), "screen and (prefers-color-scheme: dark) and (max-width: 640px)"),
    (Look(narrow=True), "screen and (max-width: 640px)"),
    (Look(dark=True), "screen and (prefers-color-scheme: dark)"),
    (Look(), ""),
)
_STRICT: dict[str, Any] = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("trajworld.study", ""), autoescape=True, **_STRICT
)


def write_report(
    study: Study,
    table: pd.DataFrame,
    folder: Path,
    origin: Mapping[str, Any],
    pictures: Mapping[str, bytes] = {},
) -> Path:
    """Write ``table.csv``, ``study.json``, ``report.md``, ``index.html`` and a PNG of each chart; the page's path.

    A report of the same study in ``folder`` is replaced. ``table`` are the study's finished cells,
    ``origin`` says what ran them, and how long; ``pictures`` are PNGs beside the charts, by title. For errors see
    :func:`claim_folder`.
    """
    claim_folder(study, folder)
    any_rows = len(table) > 0
    tables = study.tables(table) if any_rows else {}
    looks = [(study.charts(table, look) if any_rows else {}, media) for look, media in _LOOKS]
    charts = {title: [(found[title], media) for found, media in looks] for title in looks[0][0]}
    drawn = {title: png(figures[-1][0]) for title, figures in charts.items()} | dict(pictures)
    files = [_file_name(title) for title in drawn]
    for earlier in {*read_json(folder / RECORD).get("files", [])} - {*files}:
        (folder / Path(earlier).name).unlink(missing_ok=True)
    _record(study, folder, origin=origin, pictures=list(pictures), files=files)
    _write(folder / TABLE, table.to_csv(index=False))
    for file, picture in zip(files, drawn.values(), strict=True):
        _write(folder / file, picture)
    title, *protocol = _paragraphs(study)
    title = " ".join(title.split()).rstrip(".")
    facts = {"time of all cells" if name == "seconds" else name: value for name, value in origin.items()}
    if "seconds" in origin:
        facts["time of all cells"] = duration(origin["seconds"])
    parts = [f"# {title}", *protocol]
    parts += [f"## {title}\n\n{markdown(one)}".rstrip() for title, one in tables.items()]
    parts += [f"![{title}]({_file_name(title)})" for title in drawn]
    shown = "; ".join(f"{name} {value}" for name, value in facts.items())
    _write(folder / MARKDOWN, "\n\n".join([*parts, f"Made by `{command(study)}`. {shown}."]) + "\n")
    page = _TEMPLATES.get_template("report.html").render(
        name=study.name,
        title=title,
        protocol=protocol,
        tiles=study.tiles(table) if any_rows and hasattr(study, "tiles") else [],
        tables=[(title, *texts(one)) for title, one in tables.items()],
        charts={
            name: [(media, _uri(svg(figure), "svg+xml")) for figure, media in of]
            for name, of in charts.items()
        },
        pictures={name: _uri(picture, "png") for name, picture in pictures.items()},
        command=command(study),
        options=options(study),
        origin=facts,
    )
    _write(folder / PAGE, page)
    return folder / PAGE


def read_report(folder: Path) -> tuple[str, dict[str, Any], pd.DataFrame, dict[str, Any], dict[str, bytes]]:
    """What :func:`write_report` wrote to a folder: the study's name and options, table, origin and pictures.

    A ``TrajWorldError`` is raised where it is no such folder, or is damaged.
    """
    record = read_json(folder / RECORD)
    if "pictures" not in record:
        raise TrajWorldError(f"no report has been written to {folder} yet: run the study again")
    try:
        pictures = {title: (folder / _file_name(title)).read_bytes() for title in record["pictures"]}
        text = (folder / TABLE).read_text("utf-8")
        table = pd.read_csv(io.StringIO(text)) if text.strip() else pd.DataFrame()
        return record["study"], record["options"], table, record["origin"], pictures
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise TrajWorldError(
            f"{folder} holds no whole report of a study ({one_line(error)}): run the study again"
        ) from None


def claim_folder(study: Study, folder: Path) -> None:
    """Make a report's folder before anything is computed, so that an interrupted run's files are known as its own.

    A ``TrajWorldError`` is raised where it holds anything but a report of the same study.
    """
    found = read_json(folder / RECORD).get("study") if (folder / RECORD).is_file() else None
    if folder.exists() and found != study.name and (not folder.is_dir() or any(folder.iterdir())):
        what = f"a report of the study {found}" if found else "something else"
        raise TrajWorldError(f"{folder} holds {what}: name another folder with -o, or remove it first")
    remove_leftovers(folder)
    if found is None:
        _record(study, folder)


def options(study: Study) -> dict[str, Any]:
    """The options of a study, as JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(study)))  # type: ignore[call-overload]


def command(study: Study) -> str:
    """The command that runs a study with the options that are not the defaults, or its own, if it has one."""
    if made := getattr(study, "command", ""):
        return made
    words = ["trajworld", "study", "run", study.name]
    for field in dataclasses.fields(study):  # type: ignore[arg-type]
        value, flag = getattr(study, field.name), field.name.replace("_", "-")
        if isinstance(value, bool) and value != field.default:
            words.append(f"--{'' if value else 'no-'}{flag}")
        elif value != field.default:
            words += [f"--{flag}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)


def _record(study: Study, folder: Path, **facts: Any) -> None:
    write_json(folder / RECORD, {"study": study.name, "options": options(study), **facts})


def _paragraphs(study: Study) -> list[str]:
    """The docstring's paragraphs, without its list of attributes."""
    text = inspect.cleandoc(study.__doc__ or study.name).split("\nAttributes:")[0]
    return [paragraph.strip() for paragraph in text.split("\n\n")]


def _file_name(title: str) -> str:
    return re.sub(r"[^\w.-]+", "-", title.lower(), flags=re.ASCII).strip("-.") + ".png"


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _write(path: Path, content: bytes | str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
