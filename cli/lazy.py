"""A click group whose commands are imported only when they are called."""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click

from trajworld.errors import UsageError


class LazyCommand(NamedTuple):
    """Where a command lives: ``module`` (relative to this package), ``attribute``, and one line of
    ``help``.
    """

    module: str
    attribute: str
    help: str


class LazyGroup(click.Group):
    """A group that knows its commands' names and a line of help each, and imports a command when it is
    called.

    Listing the commands imports none of them, so that ``--help`` needs no framework. Commands that are gone are not
    listed; calling one says what does its work now.
    """

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, LazyCommand] | None = None,
        gone: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._lazy, self._gone = dict(lazy or {}), dict(gone or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, the lazy ones first, in the order they were given."""
        return [*self._lazy, *(name for name in super().list_commands(ctx) if name not in self._lazy)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now if it is a lazy one."""
        if cmd_name in self._gone and cmd_name not in self._lazy:
            name = ctx.command_path
            raise UsageError(f"{name} {cmd_name} is now: {name} {self._gone[cmd_name]}")
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        entry = self._lazy[cmd_name]
        return getattr(importlib.import_module(entry.module, __package__), entry.attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands and their lines of help without importing the lazy ones."""
        rows = []
        for name in self.list_commands(ctx):
            command = None if name in self._lazy else self.get_command(ctx, name)
            rows.append((name, self._lazy[name].help if command is None else command.get_short_help_str(90)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)
