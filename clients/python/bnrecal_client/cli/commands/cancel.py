"""`bnrecal cancel`: cancel a recalibration of a server."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from bnrecal_client.cli import arguments
from bnrecal_client.cli.commands.status import as_json
from bnrecal_client.cli.output import print_json, print_lines

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "cancel",
        help="cancel a recalibration",
        description="Cancel a recalibration; its uploaded batches are deleted.",
    )
    arguments.add_recalibration(parser)
    parser.set_defaults(command=run)


def run(args: Namespace) -> None:
    """Cancel the recalibration and print its state."""
    with arguments.connect(args) as client:
        now = client.cancel(args.id)
    if args.json:
        print_json(as_json(now))
    else:
        print_lines([f"{now.id}  {now.state}"])
