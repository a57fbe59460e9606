"""`bnrecal fold`: fold BatchNorm into the weights, with the statistics as they are."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from bnrecal_client.cli import arguments
from bnrecal_client.cli.data.array_batches import open_data
from bnrecal_client.cli.formatting import count, file_size, table
from bnrecal_client.cli.in_process import FoldedFile, fold_file
from bnrecal_client.cli.output import say, say_json
from bnrecal_client.cli.outputs import check_writable
from bnrecal_client.cli.summary import parity_line, parity_of

__all__ = ["add_command"]

_SAMPLES = 32
"""Samples that are run, as after a recalibration."""

_BATCH = 8


def add_command(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "fold",
        help="fold a model's BatchNorm into its weights, without recalibrating",
        description="Fold the BatchNorm layers of an ONNX model into neighbouring weights, with "
        "their statistics as they are, prove that the result computes the same, and say what "
        "became of each layer.",
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="ONNX file, BatchNorm kept")
    parser.add_argument(
        "data",
        metavar="DATA",
        type=Path,
        nargs="*",
        help=f"samples to prove it on, the first {_SAMPLES} of them; made-up ones always run too",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, required=True, help="the folded model"
    )
    arguments.add_common(parser)
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    """Fold, prove, write, tell."""
    check_writable(args.output)
    batches = open_data(args.data, batch_size=_BATCH, limit=_SAMPLES) if args.data else ()
    folded = fold_file(args.model, batches)
    folded.folded.save(args.output)
    if args.json:
        say_json(_as_json(folded, args.output))
    else:
        say(_lines(folded, args.output))


def _lines(folded: FoldedFile, output: Path) -> list[str]:
    if not folded.layers:
        told = f"wrote model  {output} ({file_size(output)}), as it was but for what nothing reads"
        return ["the model has no BatchNormalization node: there is nothing to fold", told]
    rows = [[f["name"], f["status"], f["rule"] or f["reason"] or ""] for f in folded.layers]
    known = parity_of({"parity": folded.parity})
    return [
        *table(["layer", "", "by rule, or why not"], rows, right=frozenset()).splitlines(),
        "",
        f"folded {_folded(folded):,} of {count(len(rows), 'layer')}",
        *([] if known is None else [parity_line(known)]),
        *(f"note: {note}" for note in folded.parity["notes"]),
        f"wrote model  {output} ({file_size(output)})",
    ]


def _as_json(folded: FoldedFile, output: Path) -> dict[str, Any]:
    return {
        "layers": list(folded.layers),
        "folded": _folded(folded),
        "parity": dict(folded.parity),
        "files": {"model": str(output)},
    }


def _folded(folded: FoldedFile) -> int:
    return sum(layer["status"] == "folded" for layer in folded.layers)
