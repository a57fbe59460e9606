"""`bnrecal fetch`: wait for a recalibration at a server and write its files."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from bnrecal_client.cli import arguments
from bnrecal_client.cli.output import show_result

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "fetch",
        help="wait for a recalibration to end and write its files",
        description="Wait for a started recalibration to end, then write its files.",
    )
    parser.add_argument(
        "--timeout", type=arguments.seconds, metavar="SECONDS", help="wait no longer than this"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary")
    arguments.add_outputs(parser, "ID.onnx in the current folder")
    arguments.add_recalibration(parser)
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    """Wait, fetch, write, tell."""
    outputs = arguments.outputs_of(args, Path(f"{args.id}.onnx"))
    with arguments.connect(args) as client:
        progress = False if args.quiet else None
        client.wait(args.id, timeout=args.timeout, progress=progress)
        result = client.fetch(args.id, unfolded=outputs.unfolded is not None)
    show_result(args, result, outputs.write(result))
