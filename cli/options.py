"""Options of commands: shared ones, and those made from the fields of a dataclass."""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class _List(click.ParamType):
    """Values with commas between them."""

    name = "list"

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._kind(part) for part in str(value).split(",") if part)
        except ValueError:
            self.fail(
                f"{value!r} is not a list of {self._kind.__name__} with commas between them", param, ctx
            )


def documented(kind: type) -> tuple[str, dict[str, str]]:
    """A class's docstring before its attributes, and what it says of each attribute."""
    text, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", attributes, re.M | re.S)
    return text, {name: " ".join(words.replace("``", "").split()) for name, words in found}


def field_options(
    kind: "type[Any]", *, leave_out: Collection[str] = (), unset: bool = False
) -> list[click.Parameter]:
    """An option for each field of a dataclass, whose help is what the docstring says of the attribute.

    With ``unset`` an option that is not given is None; else it is the field's default.
    """
    hints, helps = typing.get_type_hints(kind), documented(kind)[1]
    fields = [field for field in dataclasses.fields(kind) if field.name not in leave_out]
    return [_option(field, hints[field.name], helps.get(field.name, ""), unset) for field in fields]


def _option(field: "dataclasses.Field[Any]", kind: Any, words: str, unset: bool) -> click.Option:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    if typing.get_origin(kind) is tuple:
        kind = _List(typing.get_args(kind)[0])
    elif typing.get_origin(kind) is typing.Literal:
        kind = click.Choice(typing.get_args(kind))
    default = None if field.default is dataclasses.MISSING else field.default
    if isinstance(default, tuple):
        default = ",".join(f"{one:g}" if isinstance(one, float) else str(one) for one in default)
    shown = default not in (None, "")
    if unset and shown:
        words += f"  [default: {default}]"
    flag = "--" + field.name.replace("_", "-")
    return click.Option(
        [f"{flag}/--no-{flag[2:]}" if kind is bool else flag, field.name],
        type=None if kind is bool else kind,
        default=None if unset else default,
        show_default=shown and not unset,
        help=words,
    )
