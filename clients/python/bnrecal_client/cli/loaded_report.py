"""Reports of finished recalibrations, from a JSON file or from a server."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bnrecal_client._encoding.atomic_write import write_atomic
from bnrecal_client._library import render_report
from bnrecal_client.cli import arguments
from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.errors import InputError, UnexpectedResponseError
from bnrecal_client.report import Report
from bnrecal_client.result import Outcome

__all__ = ["load_outcome", "plot", "render"]

_ID_PREFIX = "rc_"


def load_outcome(run: str, args: Arguments) -> Outcome:
    """Return the results of a recalibration; its models are not loaded.

    Args:
        run: path of a JSON report, or the id of a recalibration.
        args: the options that name the server.

    Raises:
        InputError: it is neither, or the file is not a report.
        BnrecalError: the server has no result for the id.
    """
    path = Path(run)
    if path.is_file():
        return Outcome(
            recalibration_id=None, report=_read(path), report_html="", statistics={}, source=None
        )
    if run.startswith(_ID_PREFIX):
        with arguments.connect(args) as client:
            return client.fetch_report(run)
    raise InputError(f"{run} is neither a JSON report nor the id of a recalibration (rc_…)")


def _read(path: Path) -> Report:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a JSON report ({error}): --report run.json of "
            "`bnrecal recalibrate` writes one"
        ) from error
    if not isinstance(found, dict) or "layers" not in found or "stream" not in found:
        raise InputError(f"{path} is JSON, but not a report of a recalibration")
    report: Report = found  # type: ignore[assignment]  # members are checked where they are used
    return report


def render(outcome: Outcome) -> str:
    """Return the report as an HTML page.

    Raises:
        OptionError: bn_ops is not installed.
        InputError: the report is of another version of bn_ops.
    """
    if outcome.report_html:
        return outcome.report_html
    with _of_this_version():
        return render_report(outcome.report)


def plot(outcome: Outcome, path: Path) -> None:
    """Write the chart of drift by depth, in the format of the file name.

    Raises:
        OptionError: bn_ops or matplotlib is not installed.
        InputError: the report is of another version of bn_ops.
    """
    file = io.BytesIO()
    with _of_this_version():
        outcome.plot().savefig(file, format=path.suffix.lower().lstrip("."))
    write_atomic(path, file.getvalue())


@contextmanager
def _of_this_version() -> Iterator[None]:
    try:
        yield
    except UnexpectedResponseError as error:
        raise InputError(str(error)) from error
