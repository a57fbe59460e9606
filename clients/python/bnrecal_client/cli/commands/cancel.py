"""`bnrecal cancel`: cancel a recalibration of a server."""

from __future__ import annotations

from bnrecal_client.cli import arguments
from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.cli.commands.status import as_json
from bnrecal_client.cli.output import print_json, print_lines

__all__ = ["run"]


def run(args: Arguments) -> None:
    """Cancel the recalibration and print its state."""
    with arguments.connect(args) as client:
        now = client.cancel(args.id)
    if args.json:
        print_json(as_json(now))
    elif not args.quiet:
        print_lines([f"{now.id}  {now.state}"])
