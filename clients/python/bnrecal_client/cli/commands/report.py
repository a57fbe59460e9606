"""`bnrecal report`: the report of a finished recalibration, from a file or a server."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bnrecal_client._library import render_report
from bnrecal_client.cli import arguments
from bnrecal_client.cli.arguments import check_reports
from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.cli.output import print_result
from bnrecal_client.cli.outputs import OutputFile, check_output
from bnrecal_client.errors import InputError, OptionError, UnexpectedResponseError
from bnrecal_client.report import Report
from bnrecal_client.result import Outcome, write_atomic

__all__ = ["load_outcome", "plot", "render", "report"]

# Formats of charts.
_PLOTS = (".svg", ".png", ".pdf")


def report(args: Arguments) -> None:
    """Print the summary and write the files."""
    wanted: Sequence[Path] = args.output
    check_reports(wanted)
    plots: Sequence[Path] = () if args.plot is None else (args.plot,)
    for path in plots:
        if path.suffix.lower() not in _PLOTS:
            raise OptionError(f"--plot {path}: name a file that ends in {', '.join(_PLOTS)}")
    for path in (*wanted, *plots):
        check_output(path, () if args.force else (Path(args.run),))
    outcome = load_outcome(args.run, args)
    if any(path.suffix.lower() == ".html" for path in wanted):
        outcome = replace(outcome, report_html=render(outcome))
    files = [
        OutputFile(kind=f"report {path.suffix.lower().lstrip('.')}", path=path) for path in wanted
    ]
    for file in files:
        outcome.save_report(file.path)
    for path in plots:
        plot(outcome, path)
        files.append(OutputFile(kind="chart", path=path))
    print_result(args, outcome, files)


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
    raise InputError(
        f"there is no file {run}, and the id of a recalibration begins with {_ID_PREFIX}: name a "
        "JSON report or an id (`bnrecal list` prints the ids)"
    )


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
