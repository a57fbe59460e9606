"""Options that several sub-commands share."""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from bnrecal_client.cli.outputs import Outputs
from bnrecal_client.client import Client
from bnrecal_client.errors import OptionError
from bnrecal_client.retry_policy import RetryPolicy

__all__ = [
    "add_common",
    "add_outputs",
    "add_recalibration",
    "add_server",
    "connect",
    "outputs_of",
    "positive",
    "seconds",
]

_TOKEN_VARIABLE = "BNRECAL_TOKEN"  # noqa: S105 - the variable's name


def add_common(parser: ArgumentParser) -> None:
    """Add what every sub-command takes."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--debug", action="store_true", help="show where an error arose")


def add_server(parser: ArgumentParser, *, required: bool) -> None:
    """Add the options that say which server, and how."""
    what = "address of the server, like http://127.0.0.1:8000"
    way = what if required else f"{what}; without it the work is done in this process"
    parser.add_argument("--server", metavar="URL", required=required, help=way)
    parser.add_argument(
        "--token", help=f"the server's token; better in the environment as {_TOKEN_VARIABLE}"
    )
    parser.add_argument(
        "--retry-timeout",
        metavar="SECONDS",
        type=seconds,
        default=RetryPolicy().total_timeout,
        help="how long a server that is away is tried again (default %(default)g)",
    )


def add_recalibration(parser: ArgumentParser) -> None:
    """Add what every sub-command about one recalibration at a server takes."""
    parser.add_argument("id", metavar="ID", help="the recalibration, rc_…")
    add_server(parser, required=True)
    add_common(parser)


def connect(args: Namespace) -> Client:
    """Build the client that the options describe."""
    token = args.token if args.token is not None else os.environ.get(_TOKEN_VARIABLE)
    return Client(args.server, token, retry=RetryPolicy(total_timeout=args.retry_timeout))


def add_outputs(parser: ArgumentParser, default: str) -> None:
    """Add the options that say which files are written."""
    files = parser.add_argument_group("files to write")
    files.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help=f"the folded model (default {default})"
    )
    files.add_argument(
        "--unfolded", metavar="FILE", type=Path, help="the recalibrated model, BatchNorm kept"
    )
    files.add_argument(
        "--statistics", metavar="FILE", type=Path, help="the new running statistics (safetensors)"
    )
    files.add_argument(
        "--report",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="the report, as .html or .json; may be given twice",
    )


def outputs_of(args: Namespace, default: Path) -> Outputs:
    """Return the files to write, checked before any work is done.

    Raises:
        OptionError: one of them cannot be written, or two are the same.
    """
    for report in args.report:
        if report.suffix.lower() not in {".html", ".json"}:
            raise OptionError(f"--report {report}: a report is .html or .json")
    outputs = Outputs(
        model=args.output or default,
        unfolded=args.unfolded,
        statistics=args.statistics,
        reports=tuple(args.report),
    )
    outputs.check()
    return outputs


def positive(text: str) -> int:
    """Read a number of at least 1."""
    value = int(text)
    if value < 1:
        raise ArgumentTypeError(f"{value} is less than 1")
    return value


def seconds(text: str) -> float:
    """Read a time of at least 0 seconds."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ArgumentTypeError(f"{text} is no time in seconds")
    return value
