"""A click group whose commands are imported only when they are called."""

import importlib
from collections.abc import Mapping
from typing import Any

import click

from trajworld.errors import UsageError


class LazyGroup(click.Group):
    """A group that lists its commands without importing them, so that ``--help`` needs no framework.

    ``lazy`` has each command's place (``.module:attribute``) and a line of help. ``gone`` has names of earlier
    versions, which are not listed, and what does their work now.
    """

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, tuple[str, str]] | None = None,
        gone: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._lazy, self._gone = lazy or {}, gone or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, the lazy ones first, in the order they were given."""
        return [*self._lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now if it is a lazy one."""
        if cmd_name in self._gone:
            name = ctx.command_path
            raise UsageError(f"{name} {cmd_name} is now: {name} {self._gone[cmd_name]}")
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        return getattr(importlib.import_module(module, __package__), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands and their lines of help without importing the lazy ones."""
        rows = [(name, words) for name, (_, words) in self._lazy.items()]
        rows += [(name, self.commands[name].get_short_help_str(90)) for name in super().list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
