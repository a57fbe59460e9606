"""`bnrecal admin`: the operator's commands, on the machine of the server."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from bnrecal_client.cli.arguments import server_missing

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the sub-command; its arguments, which the server's package defines, are added on use."""
    parser = commands.add_parser(
        "admin", help="administer a server's data folder", populate=_add_arguments
    )
    parser.set_defaults(command=run)


def run(args: Namespace) -> int:
    """Run the command, which prints its own result and errors."""
    from service.admin.command import execute

    return int(execute(args))


def _add_arguments(parser: ArgumentParser) -> None:
    try:
        from service.admin.command import add_arguments
    except ImportError as error:
        parser.exit(2, f"bnrecal: {server_missing(error).message}\n")
    add_arguments(parser)
