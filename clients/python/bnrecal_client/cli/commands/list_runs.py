"""`bnrecal list`: the recalibrations of a server."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bnrecal_client.cli import arguments
from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.cli.output import print_json, print_lines, table
from bnrecal_client.models import Recalibration

__all__ = ["run"]

_MODEL_DIGITS = 12
_MINUTES = 16  # characters of an RFC 3339 time up to the minutes


def run(args: Arguments) -> None:
    """Print the recalibrations, the newest first."""
    with arguments.connect(args) as client:
        found = client.recalibrations(search=args.search)
    shown = found[: args.limit]
    if args.json:
        items = [msgspec.to_builtins(one) for one in shown]
        print_json({"server": args.server, "total": len(found), "recalibrations": items})
    elif args.quiet:
        print_lines([one.id for one in shown])
    else:
        print_lines(_lines(shown, len(found)))


def _lines(shown: Sequence[Recalibration], total: int) -> list[str]:
    if not shown:
        return ["there are no recalibrations"]
    rows = [
        [
            one.id,
            one.name,
            one.state,
            "" if one.verdict is None else one.verdict.code,
            f"{one.batches.samples:,}",
            one.model[:_MODEL_DIGITS],
            one.created[:_MINUTES].replace("T", " "),
        ]
        for one in shown
    ]
    head = ["id", "name", "state", "verdict", "samples", "model", "created (UTC)"]
    kept = [place for place in range(len(head)) if any(row[place] for row in rows)]
    lines = table(
        [head[place] for place in kept],
        [[row[place] for place in kept] for row in rows],
        right=frozenset({kept.index(head.index("samples"))}),
    ).splitlines()
    hidden = total - len(shown)
    return lines if hidden <= 0 else [*lines, f"and {hidden:,} more (--limit, --search)"]
