"""Options that several sub-commands share."""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path

from bnrecal_client.cli.outputs import Outputs
from bnrecal_client.client import Client
from bnrecal_client.errors import OptionError
from bnrecal_client.retry_policy import RetryPolicy

__all__ = [
    "add_common",
    "add_force",
    "add_outputs",
    "add_recalibration",
    "add_server",
    "connect",
    "fraction",
    "outputs_of",
    "positive",
    "seconds",
    "server_missing",
]

_TOKEN_VARIABLE = "BNRECAL_TOKEN"  # noqa: S105 - the variable's name


def add_common(parser: ArgumentParser) -> None:
    """Add the options of every sub-command."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")


def add_server(parser: ArgumentParser, *, required: bool) -> None:
    """Add the options that name the server and how to reach it."""
    what = "address of the server, like http://127.0.0.1:8000"
    way = what if required else f"{what}; by default the work is done in this process"
    parser.add_argument("--server", metavar="URL", required=required, help=way)
    parser.add_argument(
        "--token", help=f"the server's token; preferably set {_TOKEN_VARIABLE} in the environment"
    )
    parser.add_argument(
        "--retry-timeout",
        metavar="SECONDS",
        type=seconds,
        default=RetryPolicy().total_timeout,
        help="how long a request to an unreachable server is retried (default %(default)g)",
    )


def add_recalibration(parser: ArgumentParser) -> None:
    """Add the arguments of every sub-command about one recalibration of a server."""
    parser.add_argument("id", metavar="ID", help="the recalibration, rc_…")
    add_server(parser, required=True)
    add_common(parser)


def connect(args: Namespace) -> Client:
    """Return the client that the options describe."""
    token = args.token if args.token is not None else os.environ.get(_TOKEN_VARIABLE)
    return Client(args.server, token, retry=RetryPolicy(total_timeout=args.retry_timeout))


def add_outputs(parser: ArgumentParser, default: str) -> None:
    """Add the options that name the files to write."""
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
        help="the report, as .html or .json; may be repeated",
    )


def add_force(parser: ArgumentParser, what: str) -> None:
    """Add the option that allows a write which may do harm; `what` describes it."""
    parser.add_argument("--force", action="store_true", help=what)


def outputs_of(args: Namespace, default: Path, *, sources: Sequence[Path] = ()) -> Outputs:
    """Return the files to write, checked before any work is done.

    Args:
        args: the parsed options.
        default: path of the folded model if none was given.
        sources: inputs of the command, which must not be overwritten.

    Raises:
        OptionError: one of them cannot be written, is a source, or is named twice.
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
    outputs.check(sources)
    return outputs


def server_missing(error: ImportError) -> OptionError:
    """Return the error for a command that needs the server's package."""
    return OptionError(
        f"this command needs the package bnrecal with its server part ({error}): "
        'pip install "bnrecal[server]"'
    )


def positive(text: str) -> int:
    """Return a number of at least 1."""
    value = int(text)
    if value < 1:
        raise ArgumentTypeError(f"{value} is less than 1")
    return value


def fraction(text: str) -> float:
    """Return a number of at least 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ArgumentTypeError(f"{text} is not a number of at least 0")
    return value


def seconds(text: str) -> float:
    """Return a duration of at least 0 seconds."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ArgumentTypeError(f"{text} is not a duration in seconds")
    return value
