"""`bnrecal report`: show the report of a finished recalibration again, or convert it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bnrecal_client.cli.arguments import check_reports
from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.cli.loaded_report import load_outcome, plot, render
from bnrecal_client.cli.output import print_result
from bnrecal_client.cli.outputs import OutputFile, check_output
from bnrecal_client.errors import OptionError

__all__ = ["run"]

# Formats of charts.
_PLOTS = (".svg", ".png", ".pdf")


def run(args: Arguments) -> None:
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
