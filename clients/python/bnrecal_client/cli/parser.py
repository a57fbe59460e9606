"""The command line's grammar."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from bnrecal_client import __version__
from bnrecal_client.cli.commands import (
    admin,
    cancel,
    fetch,
    fold,
    inspect,
    recalibrate,
    serve,
    status,
)
from bnrecal_client.errors import OptionError

__all__ = ["CommandParser", "build_parser"]

_CODES = (
    "exit codes: 0 done · 1 internal error · 2 command line, option or token · 3 data · "
    "4 model · 5 server unreachable · 6 recalibration failed · 7 cancelled or interrupted · "
    "8 verdict do-not-deploy"
)


class CommandParser(ArgumentParser):
    """A parser that may add its arguments only when its sub-command is used.

    Args:
        populate: adds the arguments; it may import what is too heavy for every command line.
        options: as `ArgumentParser`.
    """

    def __init__(
        self, *, populate: Callable[[ArgumentParser], None] | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self._populate = populate

    def parse_known_args(  # type: ignore[override]  # typeshed's overloads for other namespaces
        self, args: Sequence[str] | None = None, namespace: Namespace | None = None
    ) -> tuple[Namespace, list[str]]:
        """Add the arguments, then parse."""
        if self._populate is not None:
            populate, self._populate = self._populate, None
            populate(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise an error, which is reported like every other.

        Raises:
            OptionError: always.
        """
        raise OptionError(f"{message} (`{self.prog} --help` lists the arguments)", code="usage")


def build_parser() -> CommandParser:
    """Return the parser of all sub-commands."""
    parser = CommandParser(
        prog="bnrecal",
        description="Recalibrate a network's BatchNorm layers for a new domain.",
        epilog=_CODES,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (recalibrate, inspect, fold, serve, status, fetch, cancel, admin):
        module.add_command(commands)
    return parser
