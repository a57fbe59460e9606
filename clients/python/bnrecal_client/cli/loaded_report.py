"""Reports of finished recalibrations, from a JSON file or from a server."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from bnrecal_client._library import library
from bnrecal_client.cli import arguments
from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.errors import InputError
from bnrecal_client.result import Outcome

__all__ = ["load_outcome", "render"]

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


def _read(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a JSON report ({error}): --report run.json of "
            "`bnrecal recalibrate` writes one"
        ) from error
    if not isinstance(found, dict) or "layers" not in found or "stream" not in found:
        raise InputError(f"{path} is JSON, but not a report of a recalibration")
    return found


def render(outcome: Outcome) -> str:
    """Return the report as an HTML page.

    Raises:
        OptionError: bn_ops is not installed.
        InputError: the report is of another version of bn_ops.
    """
    if outcome.report_html:
        return outcome.report_html
    with library("a report is converted to HTML in this process") as bn_ops:
        try:
            report = msgspec.convert(dict(outcome.report), type=bn_ops.Report, strict=False)
        except msgspec.ValidationError as error:
            raise InputError(
                f"the report is not one of this version of bn_ops ({error}): run again, or install "
                "the version that wrote it"
            ) from error
        return str(bn_ops.render_html(report))
