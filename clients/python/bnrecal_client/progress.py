"""Display of progress: one line for all phases of a run, with the time left.

On a terminal a bar, in a notebook an output that is replaced, elsewhere (a file, a CI log) a line
every few seconds; or the caller's callback.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bnrecal_client.models import Progress

__all__ = ["Estimate", "ProgressCallback", "ProgressOption", "progress_display", "silent"]

ProgressCallback = Callable[[Progress], None]
ProgressOption = bool | ProgressCallback | None
"""None or True: shown, as the output allows. False: nothing is shown. Or a callback."""

Clock = Callable[[], float]

_LABELS = {
    "model": "uploading the model",
    "sending-source": "sending source batches",
    "sending": "sending batches",
    "open": "waiting for batches",
    "sealed": "queued",
    "queued": "queued",
    "running": "starting the worker",
    "inserting": "reading source batches",
    "sampling": "choosing samples",
    "reading": "reading batches",
    "measuring": "measuring layers",
    "choosing": "choosing statistics",
    "folding": "folding",
    "verifying": "verifying",
    "fetching": "fetching the result",
}

# The usual share of each phase in a run's time, in the order of the phases: in percent of runs of
# MobileNetV2 on 31 and 160 images in process, with guesses for what a server adds. A wrong share
# only makes the bar uneven; the estimate follows the clock.
_SHARES: Mapping[str, float] = {
    "model": 1,
    "sending-source": 5,
    "sending": 10,
    "open": 0,
    "sealed": 0,
    "queued": 0,
    "running": 3,
    "inserting": 10,
    "sampling": 0,
    "reading": 2,
    "measuring": 35,
    "choosing": 30,
    "folding": 32,
    "verifying": 1,
    "fetching": 2,
}
# In these, `done` counts in steps of the stream, so a share of it is a share of the samples.
_OF_THE_STREAM = frozenset({"sending", "reading", "measuring"})
_IN_BATCHES = frozenset({"sending-source", "sending", "inserting", "sampling", "reading"})

# A run in this process starts with one of these, and fetches nothing.
_LOCAL_STARTS = frozenset({"inserting", "sampling", "reading"})

_SMOOTHING_S = 8.0
_FIRST_ESTIMATE_S = 3.0
_LEAST_SHARE = 0.03
_LINE_EVERY_S = 5.0
_CELLS = 24


def silent(progress: Progress) -> None:
    """Show nothing."""


class Estimate:
    """How much of a run is done, over all phases, and the time left.

    The end is extrapolated from the share that is done and smoothed over some seconds, so the time
    left shrinks steadily instead of jumping with each phase.

    Args:
        clock: returns seconds.

    Attributes:
        share: the share of the run that is done, 0…1; it never shrinks.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._started = self._began = clock()
        self._first: str | None = None
        self._updated = self._started
        self._end: float | None = None
        self.share = 0.0

    def update(self, progress: Progress) -> None:
        """Take a step into account."""
        if progress.phase not in _SHARES:
            return
        if self._first is None:
            # What precedes the first step, such as loading packages, is not part of the rate.
            self._first, self._began = progress.phase, self._clock()
        order = list(_SHARES)
        begun = order[order.index(self._first) :]
        if self._first in _LOCAL_STARTS:
            begun = [phase for phase in begun if phase != "fetching"]
        total = sum(_SHARES[phase] for phase in begun) or 1.0
        before = sum(
            _SHARES[phase] for phase in begun if order.index(phase) < order.index(progress.phase)
        )
        part = min(1.0, progress.done / progress.total) if progress.total else 0.0
        self.share = max(self.share, (before + part * _SHARES[progress.phase]) / total)
        self._smooth()

    def _smooth(self) -> None:
        now = self._clock()
        elapsed = now - self._began
        if elapsed < _FIRST_ESTIMATE_S or self.share < _LEAST_SHARE:
            return
        end = self._began + elapsed / self.share
        if self._end is None:
            self._end = end
        weight = min(1.0, (now - self._updated) / _SMOOTHING_S)
        self._end += weight * (end - self._end)
        self._updated = now

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    @property
    def seconds_left(self) -> float | None:
        """Estimated rest of the run in seconds; None while it is unknown."""
        return None if self._end is None else max(0.0, self._end - self._clock())


class _Line:
    """The text of a display, the same everywhere.

    Args:
        samples: number of samples in the stream; None if unknown.
        clock: returns seconds.
    """

    def __init__(self, samples: int | None, clock: Clock) -> None:
        self._samples = samples
        self._step = Progress(phase="starting", done=0)
        self.estimate = Estimate(clock)

    def update(self, progress: Progress) -> None:
        """Take a step into account."""
        self._step = progress
        self.estimate.update(progress)

    @property
    def label(self) -> str:
        """What is being done."""
        if self._step.note is not None:
            return f"waiting for the server ({self._step.note})"
        return _LABELS.get(self._step.phase, self._step.phase)

    @property
    def count(self) -> str:
        """How much of the phase is done, in samples where they are known, else in batches."""
        step = self._step
        if step.note is not None:
            return ""
        if step.total and self._samples and step.phase in _OF_THE_STREAM:
            done = round(min(1.0, step.done / step.total) * self._samples)
            return f"{done:,}/{self._samples:,} samples"
        if step.phase not in _IN_BATCHES or (step.total is None and step.done == 0):
            return ""
        return f"{step.done:,}" + ("" if step.total is None else f"/{step.total:,}") + " batches"

    @property
    def left(self) -> str:
        """The time left, rounded."""
        seconds = self.estimate.seconds_left
        return f"about {_rounded(seconds)} left" if seconds else ""

    @property
    def text(self) -> str:
        """All of it in one line."""
        share = f"{self.estimate.share:4.0%}"
        return "  ".join(part for part in (share, self.label, self.count, self.left) if part)


def _rounded(seconds: float) -> str:
    """Return a duration with about one digit of what is known."""
    if seconds < 10:  # noqa: PLR2004
        return f"{max(1, round(seconds))} s"
    if seconds < 120:  # noqa: PLR2004
        return f"{5 * round(seconds / 5)} s"
    return f"{round(seconds / 60)} min"


@contextmanager
def progress_display(
    option: ProgressOption, *, samples: int | None = None, clock: Clock = time.monotonic
) -> Iterator[ProgressCallback]:
    """Yield the callback for progress; a bar is removed at the end.

    Args:
        option: as `ProgressOption`.
        samples: number of samples in the stream; None if unknown.
        clock: returns seconds.
    """
    if callable(option):
        yield option
    elif option is False:
        yield silent
    elif sys.stderr.isatty():
        with _bar(_Line(samples, clock)) as notify:
            yield notify
    elif (display := _notebook_display()) is not None:
        with _in_notebook(_Line(samples, clock), display) as notify:
            yield notify
    else:
        yield _in_log(_Line(samples, clock), clock)


def _in_log(line: _Line, clock: Clock) -> ProgressCallback:
    """Return a callback that prints a line every few seconds, the first after as many."""
    printed = clock()

    def notify(progress: Progress) -> None:
        nonlocal printed
        line.update(progress)
        if clock() - printed >= _LINE_EVERY_S:
            printed = clock()
            print(f"bnrecal: {line.text}", file=sys.stderr, flush=True)  # noqa: T201 - progress

    return notify


def _notebook_display() -> Any:
    """Return IPython's `display` in a notebook, else None; nothing is imported elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if type(shell).__name__ != "ZMQInteractiveShell":
        return None
    return sys.modules["IPython.display"].display


@contextmanager
def _in_notebook(line: _Line, display: Any) -> Iterator[ProgressCallback]:
    handle = display({"text/plain": line.text}, raw=True, display_id=True)
    shown = ""

    def notify(progress: Progress) -> None:
        nonlocal shown
        line.update(progress)
        if line.text != shown:
            shown = line.text
            filled = round(_CELLS * line.estimate.share)
            bar = "█" * filled + "░" * (_CELLS - filled)
            handle.update({"text/plain": f"{bar} {shown}"}, raw=True)

    yield notify
    handle.update({"text/plain": f"done in {_rounded(line.estimate.elapsed)}"}, raw=True)


@contextmanager
def _bar(line: _Line) -> Iterator[ProgressCallback]:
    # Imported here: rich takes longer to load than everything else that this package needs.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as Bars  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    class TimeLeft(ProgressColumn):
        """The time left, which passes between two steps as well."""

        def render(self, task: Task) -> Text:
            del task
            return Text(line.left)

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=_CELLS),
        TextColumn("{task.fields[count]}", markup=False),
        TimeElapsedColumn(),
        TimeLeft(),
    )
    # stderr, so that what a program writes to stdout stays clean; transient, so that only the
    # result stays on the screen.
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=1.0, count="")
        shown = ""

        def notify(progress: Progress) -> None:
            nonlocal shown
            line.update(progress)
            bars.update(
                task,
                description=line.label,
                completed=line.estimate.share,
                count=line.count,
                # A new phase is shown even if it is over before the next regular refresh.
                refresh=progress.phase != shown,
            )
            shown = progress.phase

        yield notify
