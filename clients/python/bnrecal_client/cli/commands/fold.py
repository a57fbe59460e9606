"""`bnrecal fold`: fold BatchNorm into the weights, with its present statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.cli.data.array_batches import open_data
from bnrecal_client.cli.in_process import FoldedFile, fold_file
from bnrecal_client.cli.output import (
    count,
    file_size,
    parity_line,
    parity_of,
    print_json,
    print_lines,
    table,
)
from bnrecal_client.cli.outputs import check_output

__all__ = ["run"]

_SAMPLES = 32
"""Most samples of the verification, as after a recalibration."""

_BATCH = 8


def run(args: Arguments) -> None:
    """Fold and verify the model, write it and print what happened to each layer."""
    check_output(args.output, () if args.force else (args.model, *args.data))
    batches = open_data(args.data, batch_size=_BATCH, limit=_SAMPLES) if args.data else ()
    folded = fold_file(args.model, batches)
    folded.folded.save(args.output)
    if args.json:
        print_json(_as_json(folded, args.output))
    elif not args.quiet:
        print_lines(_lines(folded, args.output))


def _lines(folded: FoldedFile, output: Path) -> list[str]:
    if not folded.layers:
        wrote = f"wrote model  {output} ({file_size(output)}), unchanged except for unused parts"
        return ["the model has no BatchNormalization node: there is nothing to fold", wrote]
    rows = [[f["name"], f["status"], f["rule"] or f["reason"] or ""] for f in folded.layers]
    known = parity_of({"parity": folded.parity})
    return [
        *table(["layer", "", "rule or reason"], rows, right=frozenset()).splitlines(),
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
