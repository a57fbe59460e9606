"""`bnrecal fold`: fold BatchNorm into the weights, with the statistics as they are."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from bnrecal_client.cli import arguments
from bnrecal_client.cli.local import fold_file
from bnrecal_client.cli.outputs import check_writable
from bnrecal_client.cli.show import say, say_json
from bnrecal_client.cli.text import count, size, table
from bnrecal_client.files import write_atomic

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "fold",
        help="fold a model's BatchNorm into its weights, without recalibrating",
        description="Fold the BatchNorm layers of an ONNX model into neighbouring weights, with "
        "their statistics as they are, and say what became of each layer.",
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="ONNX file, BatchNorm kept")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, required=True, help="the folded model"
    )
    arguments.add_common(parser)
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    """Fold, write, tell."""
    check_writable(args.output)
    content, layers = fold_file(args.model)
    write_atomic(args.output, content)
    if args.json:
        say_json(_as_json(layers, args.output))
    else:
        say(_lines(layers, args.output, len(content)))


def _lines(layers: Any, output: Path, length: int) -> list[str]:
    rows = [[fold.name, str(fold.status), fold.rule or fold.reason or ""] for fold in layers]
    folded = sum(str(fold.status) == "folded" for fold in layers)
    return [
        *table(["layer", "", "by rule, or why not"], rows, right=frozenset()).splitlines(),
        "",
        f"folded {folded:,} of {count(len(rows), 'layer')}",
        f"wrote model  {output} ({size(length)})",
    ]


def _as_json(layers: Any, output: Path) -> dict[str, Any]:
    found = [
        {"name": f.name, "status": str(f.status), "rule": f.rule, "reason": f.reason}
        for f in layers
    ]
    folded = sum(layer["status"] == "folded" for layer in found)
    return {"layers": found, "folded": folded, "files": {"model": str(output)}}
