"""The sub-commands about finished recalibrations: `report`, `compare`."""

from __future__ import annotations

from bnrecal_client.cli import options
from bnrecal_client.cli.click_support import Command, Option, Positional
from bnrecal_client.cli.options import FILE, run_of

__all__ = ["compare", "report"]

_SECTION = "Results"


def report() -> Command:
    """Return `bnrecal report`."""
    return Command(
        "report",
        run=run_of("report"),
        section=_SECTION,
        summary="show a report again, or convert it",
        description="Print the summary of a finished recalibration from its JSON report or from "
        "the server, and write it as HTML or JSON.",
        examples=(
            "bnrecal report run.json",
            "bnrecal report run.json -o report.html --plot drift.svg",
            "bnrecal report rc_3f0c… --server http://127.0.0.1:8000 -o report.html",
        ),
        params=[
            Positional(
                "run", metavar="RUN", text="a JSON report, or the id of a recalibration, rc_…"
            ),
            Option(
                "-o",
                "--output",
                metavar="FILE",
                type=FILE,
                multiple=True,
                section="Files to write",
                help="the report, as .html or .json; may be repeated",
            ),
            Option(
                "--plot",
                metavar="FILE",
                type=FILE,
                section="Files to write",
                help="the drift by layer as a chart, .svg, .png or .pdf (needs matplotlib)",
            ),
            options.force("allow an output to overwrite the report"),
            *options.server(),
            *options.reporting(),
        ],
    )


def compare() -> Command:
    """Return `bnrecal compare`."""
    return Command(
        "compare",
        run=run_of("compare"),
        section=_SECTION,
        summary="compare two recalibrations side by side",
        description="Print the verdicts, the errors, the predictions and the layers that differ "
        "most of two recalibrations, each a JSON report or the id of a recalibration.",
        examples=("bnrecal compare shrink.json replace.json", "bnrecal compare old.json rc_3f0c…"),
        params=[
            Positional("first", metavar="A", text="a JSON report, or an id, rc_…"),
            Positional("second", metavar="B", text="a JSON report, or an id, rc_…"),
            *options.server(),
            *options.reporting(quiet="nothing but errors"),
        ],
    )
