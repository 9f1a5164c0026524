"""What commands are made of: options from a function's parameters or a dataclass's fields, and late imports."""

import functools
import inspect
import itertools
import re
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import click


class With:
    """What an annotation says of a parameter: click's settings of it, and ``flags``, its names."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings


_TYPES = {Path: click.Path(path_type=Path)}

AtLeast1 = Annotated[int, click.IntRange(min=1)]
File = Annotated[Path, click.Path(path_type=Path, dir_okay=False)]
Folder = Annotated[Path, click.Path(path_type=Path, file_okay=False)]
Json = Annotated[bool, With(flags=["--json"], help="Print JSON.")]
Seed = Annotated[int, click.IntRange(min=0), With(help="Seed of the episodes.")]
_WORKERS = "Processes; any number gives the same.  [default: one per core, fewer for small jobs]"
Workers = Annotated[AtLeast1, With(help=_WORKERS)]
Picture = Annotated[File, With(help="Also draw a picture here (.png).")]


class Command(click.Command):
    """A command whose parameters are those of its function; ``params`` come before them."""

    def __init__(
        self, name: str | None, *, help: str | None, params: Sequence[click.Parameter], **settings: Any
    ):
        own = parameters_of(settings["callback"])
        super().__init__(name, help=documented(help)[0], params=[*params, *own], **settings)


command = functools.partial(click.command, cls=Command)


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that ``--help`` needs no framework.

    ``lazy`` has each command's place (``module:attribute``) and a line of help.
    """

    command_class = Command

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._lazy = lazy
        for name, (_, words) in lazy.items():
            self.add_command(click.Command(name, short_help=words))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order in which they were added."""
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """The name that is called, its command, imported now, and the arguments left over."""
        name, found, rest = super().resolve_command(ctx, args)
        if name and name in self._lazy:
            found = self.load(self._lazy[name][0])
        return name, found, rest

    def load(self, place: str) -> Any:
        """The object there."""
        return resolve_name(place)


def list_of(kind: type) -> Callable[[str], tuple[Any, ...]]:
    """The type of values with commas between them."""

    def read(text: str) -> tuple[Any, ...]:
        try:
            return tuple(kind(part.strip()) for part in text.split(",") if part.strip())
        except ValueError:
            message = f"{text!r} is not a list of {kind.__name__} with commas between them"
            raise click.BadParameter(message) from None

    read.__name__ = "A,B,…"
    return read


def _together(ctx: click.Context, param: click.Parameter, value: Any) -> tuple[Any, ...] | None:
    """All values of an option that may be repeated, each a list; None where it is not given and has no default."""
    return tuple(itertools.chain(*value)) if value else None


def documented(text: str | None) -> tuple[str, dict[str, str]]:
    """A docstring before its attributes or options, and its text on each of these."""
    text, *more = re.split(r"\n(?:Attributes|Options):\n", inspect.cleandoc(text or ""))
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", "".join(more), re.M | re.S)
    words = {name: " ".join(help.replace("``", "").split()) for name, help in found}
    return text, {name: help.replace(" [default:", "  [default:") for name, help in words.items()}


def parameters_of(
    source: Callable[..., Any], *, leave_out: Collection[str] = (), unset: bool = False
) -> list[click.Parameter]:
    """A parameter for each of a function's, the keyword-only ones options; or an option for each field of a dataclass.

    Help is what the docstring says; ``Annotated`` adds a ``click.ParamType`` or :class:`With`.
    With ``unset`` an option that is not given is None; else it is the default.
    """
    hints, helps = get_type_hints(source, include_extras=True), dict[str, str]()
    for each in reversed(getattr(source, "__mro__", (source,))):
        helps |= documented(each.__doc__)[1]
    return [
        _parameter(one, hints[one.name], helps.get(one.name, ""), unset, inspect.isclass(source))
        for one in inspect.signature(source).parameters.values()
        if one.name not in leave_out and one.kind is not one.VAR_KEYWORD
    ]


def _parameter(one: inspect.Parameter, kind: Any, words: str, unset: bool, is_field: bool) -> click.Parameter:
    given: dict[str, Any] = {"help": ""}
    while get_origin(kind) in (types.UnionType, Union, Annotated):
        if get_origin(kind) is Annotated:
            for extra in kind.__metadata__:
                given |= extra.settings if isinstance(extra, With) else {"type": extra}
            kind = kind.__origin__
        else:
            kind = next(part for part in get_args(kind) if part is not type(None))
    given["help"] = words or given["help"]
    several = get_origin(kind) is tuple
    if several:
        kind = get_args(kind)[0]
        several = not is_field
        given |= {} if several else {"callback": _together}
        kind = kind if several else list_of(kind)
    elif get_origin(kind) is Literal:
        kind = click.Choice(get_args(kind))
    required = one.default is one.empty and not is_field
    default = None if one.default is one.empty else one.default
    given = {"type": _TYPES.get(kind, kind), "required": required, **given}
    if not (required or several):
        given["default"] = None if unset else default
    if one.kind is one.POSITIONAL_OR_KEYWORD and not is_field:
        del given["help"]
        return click.Argument([one.name], nargs=-1 if several else 1, **given)
    flag = "--" + one.name.replace("_", "-")
    flags = given.pop("flags", [flag, "-o"] if one.name == "output" else [flag])
    if kind is bool:
        flags = [f"{flag}/--no-{flag[2:]}"] if is_field else flags
        given |= {"type": None, "is_flag": True}
    if isinstance(default, tuple) and is_field:
        default = ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in default)
        given["default"] = None if unset else [default]
    shown = default not in (None, "") and (is_field or kind is not bool)
    if unset and shown and "[default: " not in words:
        given["help"] += f"  [default: {default}]"
    given |= {"show_default": shown and not unset, "multiple": several or "callback" in given}
    return click.Option([*flags, one.name], **given)
