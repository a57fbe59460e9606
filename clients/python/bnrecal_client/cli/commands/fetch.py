"""`bnrecal fetch`: wait for a recalibration of a server and write its results."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from bnrecal_client.cli import arguments
from bnrecal_client.cli.output import deliver

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "fetch",
        help="wait for a recalibration to end and write its results",
        description="Wait for a started recalibration to end, then write its results.",
    )
    parser.add_argument(
        "--timeout", type=arguments.seconds, metavar="SECONDS", help="longest time to wait"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary")
    arguments.add_outputs(parser, "ID.onnx in the current folder")
    arguments.add_force(parser, "write the model even if the verdict is do-not-deploy")
    arguments.add_recalibration(parser)
    parser.set_defaults(command=run)


def run(args: Namespace) -> int:
    """Wait for the end, write the files and print a summary."""
    outputs = arguments.outputs_of(args, Path(f"{args.id}.onnx"))
    with arguments.connect(args) as client:
        progress = False if args.quiet else None
        client.wait(args.id, timeout=args.timeout, progress=progress)
        result = client.fetch(args.id, unfolded=outputs.unfolded is not None)
    return deliver(args, result, outputs)
