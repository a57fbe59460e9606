"""Display of progress: a bar on a terminal, nothing elsewhere, or the caller's callback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bnrecal_client.models import Progress

__all__ = ["ProgressCallback", "ProgressOption", "progress_display", "silent"]

ProgressCallback = Callable[[Progress], None]
ProgressOption = bool | ProgressCallback | None
"""None: a bar if stderr is a terminal. True: a bar anyway. False: nothing. Or a callback."""

_LABELS = {
    "model": "uploading the model",
    "sending": "sending batches",
    "sending-source": "sending source batches",
    "open": "waiting for batches",
    "sealed": "queued",
    "queued": "queued",
    "running": "starting the worker",
    "inserting": "reading source batches",
    "reading": "reading batches",
    "measuring": "measuring layers",
    "choosing": "choosing statistics",
    "folding": "folding",
    "verifying": "verifying",
    "fetching": "fetching the result",
}


def silent(progress: Progress) -> None:
    """Show nothing."""


@contextmanager
def progress_display(option: ProgressOption) -> Iterator[ProgressCallback]:
    """Yield the callback for progress; a bar is removed at the end."""
    if callable(option):
        yield option
    elif option or (option is None and sys.stderr.isatty()):
        with _bar() as notify:
            yield notify
    else:
        yield silent


def _label(progress: Progress) -> str:
    label = _LABELS.get(progress.phase, progress.phase)
    left = progress.seconds_left
    return label if left is None else f"{label} (about {left:,.0f} s left)"


@contextmanager
def _bar() -> Iterator[ProgressCallback]:
    # Imported here: rich takes longer to load than everything else that this package needs.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as Bars  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # stderr, so that what a program writes to stdout stays clean; transient, so that only the
    # result stays on the screen.
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=None)
        shown = ""

        def notify(progress: Progress) -> None:
            nonlocal shown
            if progress.note is not None:
                what = f"waiting for the server ({progress.note})"
                bars.update(task, description=what, refresh=True)
            else:
                bars.update(
                    task,
                    description=_label(progress),
                    completed=progress.done,
                    total=progress.total,
                    # A new phase is shown even if it is over before the next regular refresh.
                    refresh=progress.phase != shown,
                )
            shown = progress.phase

        yield notify
