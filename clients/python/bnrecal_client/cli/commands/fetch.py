"""`bnrecal fetch`: wait for a recalibration of a server and write its results."""

from __future__ import annotations

from pathlib import Path

from bnrecal_client.cli import arguments
from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.cli.output import deliver

__all__ = ["run"]


def run(args: Arguments) -> int:
    """Wait for the end, write the files and print a summary."""
    outputs = arguments.outputs_of(args, Path(f"{args.id}.onnx"))
    with arguments.connect(args) as client:
        progress = False if args.quiet else None
        client.wait(args.id, timeout=args.timeout, progress=progress)
        result = client.fetch(args.id, unfolded=outputs.unfolded is not None)
    return deliver(args, result, outputs)
