"""`bnrecal serve`, `runner`, `admin`, `list`, `status`, `fetch` and `cancel`: servers and runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from bnrecal_client.cli import arguments
from bnrecal_client.cli.arguments import server_missing
from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.cli.output import count, deliver, print_json, print_lines, size, table
from bnrecal_client.models import Recalibration

__all__ = ["admin", "cancel", "fetch", "list_all", "runner", "serve", "status"]

_MODEL_DIGITS = 12
_MINUTES = 16  # characters of an RFC 3339 time up to the minutes


def list_all(args: Arguments) -> None:
    """Print the recalibrations, the newest first."""
    with arguments.connect(args) as client:
        found = [job.state for job in client.jobs(search=args.search)]
    shown = found[: args.limit]
    if args.json:
        items = [msgspec.to_builtins(one) for one in shown]
        print_json({"server": args.server, "total": len(found), "recalibrations": items})
    elif args.quiet:
        print_lines([one.id for one in shown])
    else:
        print_lines(_list_lines(shown, len(found)))


def _list_lines(shown: Sequence[Recalibration], total: int) -> list[str]:
    if not shown:
        return ["there are no recalibrations"]
    rows = [
        [
            one.id,
            one.name,
            ", ".join(one.tags),
            one.state,
            "" if one.verdict is None else one.verdict.code,
            f"{one.batches.samples:,}",
            one.model[:_MODEL_DIGITS],
            one.created[:_MINUTES].replace("T", " "),
        ]
        for one in shown
    ]
    head = ["id", "name", "tags", "state", "verdict", "samples", "model", "created (UTC)"]
    kept = [place for place in range(len(head)) if any(row[place] for row in rows)]
    lines = table(
        [head[place] for place in kept],
        [[row[place] for place in kept] for row in rows],
        right=frozenset({kept.index(head.index("samples"))}),
    ).splitlines()
    hidden = total - len(shown)
    return lines if hidden <= 0 else [*lines, f"and {hidden:,} more (--limit, --search)"]


def status(args: Arguments) -> None:
    """Print the state."""
    with arguments.connect(args) as client:
        now = client.status(args.id)
    if args.json:
        print_json(msgspec.to_builtins(now))
    else:
        print_lines([now.state] if args.quiet else _status_lines(now))


def _status_lines(now: Recalibration) -> list[str]:
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


def fetch(args: Arguments) -> int:
    """Wait for the end, write the files and print a summary."""
    outputs = arguments.outputs_of(args, Path(f"{args.id}.onnx"))
    with arguments.connect(args) as client:
        progress = False if args.quiet else None
        client.wait(args.id, timeout=args.timeout, progress=progress)
        result = client.fetch(args.id, unfolded=outputs.unfolded is not None)
    return deliver(args, result, outputs)


def cancel(args: Arguments) -> None:
    """Cancel the recalibration and print its state."""
    with arguments.connect(args) as client:
        now = client.cancel(args.id)
    if args.json:
        print_json(msgspec.to_builtins(now))
    elif not args.quiet:
        print_lines([f"{now.id}  {now.state}"])


def serve(args: Arguments) -> int:
    """Run the server until it ends; it prints itself why it does not start."""
    return _start(args, "serve", {"host": args.host, "port": args.port})


def runner(args: Arguments) -> int:
    """Run queued recalibrations until the process is terminated."""
    return _start(args, "run_queued", {})


def _start(args: Arguments, name: str, settings: dict[str, object]) -> int:
    try:
        from service import server
    except ImportError as error:
        raise server_missing(error) from error
    settings |= {
        "data_dir": args.data_dir,
        "log_level": "warning" if args.quiet else None,
        "log_format": "json" if args.json else None,
    }
    return int(getattr(server, name)(args.config, settings))


def admin(args: Arguments) -> int:
    """Run the command of the server's package, which parses its own arguments."""
    try:
        from service.admin.command import main
    except ImportError as error:
        raise server_missing(error) from error
    try:
        return main(args.words, prog="bnrecal admin")
    except SystemExit as ended:  # `--help`, or an error that argparse has printed
        return ended.code if isinstance(ended.code, int) else 0
