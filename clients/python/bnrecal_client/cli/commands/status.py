"""`bnrecal status`: the state of a recalibration of a server."""

from __future__ import annotations

from typing import Any

import msgspec

from bnrecal_client.cli import arguments
from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.cli.output import count, print_json, print_lines, size
from bnrecal_client.models import Recalibration

__all__ = ["as_json", "run"]


def run(args: Arguments) -> None:
    """Print the state."""
    with arguments.connect(args) as client:
        now = client.status(args.id)
    if args.json:
        print_json(as_json(now))
    else:
        print_lines([now.state] if args.quiet else _lines(now))


def as_json(now: Recalibration) -> dict[str, Any]:
    """Return the state as JSON values."""
    found: dict[str, Any] = msgspec.to_builtins(now)
    return found


def _lines(now: Recalibration) -> list[str]:
    state = now.state
    if now.progress is not None and not now.has_ended:
        total = "" if now.progress.total is None else f" of {now.progress.total:,}"
        state += f", {now.progress.phase} {now.progress.done:,}{total}"
        if now.progress.seconds_left is not None:
            state += f", about {now.progress.seconds_left:,.0f} s left"
    stream = now.batches
    of = "" if stream.total is None else f" of {stream.total:,}"
    stored = f"{count(stream.samples, 'sample')}, {size(stream.bytes)}"
    lines = [
        f"{now.id}  {state}",
        f"model    {now.model}",
        f"batches  {stream.received:,}{of} received, {stored}",
        f"created  {now.created}" + (f", ended {now.ended}" if now.ended else ""),
    ]
    return lines if now.error is None else [*lines, f"error    {now.error.detail}"]
