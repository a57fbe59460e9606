"""`bnrecal admin`: the operator's commands, on the machine of the server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from bnrecal_client.cli.exit_codes import Exit

__all__ = ["add_command", "hand_over"]


def add_command(commands: Any) -> None:
    """Add the sub-command to the list; its own words are read by the server's package."""
    parser = commands.add_parser("admin", help="look after a server's data folder", add_help=False)
    parser.set_defaults(run=lambda _args: hand_over([]))


def hand_over(words: Sequence[str]) -> int:
    """Let the server's package do the command; it reads its own words and tells its own errors."""
    try:
        from service.admin.command import main
    except ImportError as error:
        sys.stderr.write(
            f"bnrecal: this needs the package bnrecal with its server part ({error}): "
            'pip install "bnrecal[server]"\n'
        )
        return Exit.USAGE
    status: int = main(words, prog="bnrecal admin")
    return status
