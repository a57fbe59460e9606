"""`bnrecal cancel`: stop a recalibration at a server for good."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from bnrecal_client.cli import arguments
from bnrecal_client.cli.commands.status import as_json
from bnrecal_client.cli.output import say, say_json

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "cancel",
        help="stop a recalibration for good",
        description="Stop a recalibration for good; what was uploaded for it is removed.",
    )
    arguments.add_recalibration(parser)
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    """Cancel and tell."""
    with arguments.connect(args) as client:
        now = client.cancel(args.id)
    if args.json:
        say_json(as_json(now))
    else:
        say([f"{now.id}  {now.state}"])
