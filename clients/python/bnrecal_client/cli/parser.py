"""The command line's grammar."""

from __future__ import annotations

from argparse import ArgumentParser

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

__all__ = ["build_parser"]

_CODES = (
    "exit codes: 0 done · 1 internal error · 2 command line, option or token · 3 data · "
    "4 model · 5 server unreachable · 6 recalibration failed · 7 cancelled or interrupted"
)


def build_parser() -> ArgumentParser:
    """Build the parser of all sub-commands."""
    parser = ArgumentParser(
        prog="bnrecal",
        description="Recalibrate a network's BatchNorm layers for a new domain.",
        epilog=_CODES,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (recalibrate, inspect, fold, serve, status, fetch, cancel, admin):
        module.add_command(commands)
    return parser
