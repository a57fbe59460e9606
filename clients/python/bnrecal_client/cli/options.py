"""Types of values, and options that several sub-commands share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import click

from bnrecal_client.cli.click_support import Arguments, Option, Positional

__all__ = [
    "COUNT",
    "DATA",
    "FILE",
    "PATH",
    "SECONDS",
    "Number",
    "force",
    "output_files",
    "recalibration",
    "reporting",
    "run_of",
    "server",
]

PATH = click.Path(path_type=Path)
"""A file or folder, checked where it is used."""


class _PathOrUrl(click.Path):
    """A path, or the URL of an object as it is."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        """Return the path or the URL."""
        if isinstance(value, str) and "://" in value:
            return value
        return super().convert(value, param, ctx)


DATA = _PathOrUrl(path_type=Path)
"""A file, a folder, or a URL of objects that a server reads."""

FILE = click.Path(path_type=Path)
_SERVER = "Server"
_FILES = "Files to write"


class Number(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.5
    """A finite number.

    Args:
        kind: int or float.
        minimum: the smallest value.
        what: what the value is, for messages.
    """

    name = "number"

    def __init__(self, kind: type[int | float], *, minimum: int, what: str) -> None:
        self._kind = kind
        self._minimum = minimum
        self._what = what

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | float:
        """Return the number."""
        try:
            number = self._kind(str(value))
        except ValueError:
            self.fail(f"{value} is not {self._what}", param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not {self._what}", param, ctx)
        if number < self._minimum:
            self.fail(f"{value} is less than {self._minimum}", param, ctx)
        return number


COUNT = Number(int, minimum=1, what="a number")
SECONDS = Number(float, minimum=0, what="a duration in seconds")


def reporting(
    *, quiet: str = "no progress and no summary", json: str = "one JSON object on standard output"
) -> list[click.Parameter]:
    """Return the options of every sub-command: what is printed.

    Args:
        quiet: what `--quiet` prints, for the help.
        json: what `--json` prints, for the help.
    """
    return [
        Option("--json", is_flag=True, help=f"print {json}"),
        Option("--quiet", "-q", is_flag=True, help=f"print {quiet}"),
        Option("--debug", is_flag=True, help="print the traceback of an error"),
    ]


def server(*, local: bool = False) -> list[click.Parameter]:
    """Return the options that name the server and how to reach it.

    Args:
        local: whether the sub-command can also work in this process.
    """
    text = "address of the server, such as http://127.0.0.1:8000; default: BNRECAL_SERVER, then "
    text += "the configuration file"
    found: list[click.Parameter] = [
        Option(
            "--server",
            metavar="URL",
            section=_SERVER,
            help=text + (", else the work is done in this process" if local else ""),
        ),
        Option(
            "--token",
            metavar="TOKEN",
            section=_SERVER,
            help="the server's token; preferably set BNRECAL_TOKEN in the environment",
        ),
        Option(
            "--retry-timeout",
            metavar="SECONDS",
            type=SECONDS,
            section=_SERVER,
            help="how long a request to an unreachable server is retried (default 120)",
        ),
    ]
    if local:
        text = "work in this process, even if BNRECAL_SERVER or the configuration names a server"
        found.insert(1, Option("--local", is_flag=True, section=_SERVER, help=text))
    return found


def recalibration() -> list[click.Parameter]:
    """Return the argument that names a recalibration of a server."""
    return [Positional("id", metavar="ID", text="the recalibration, rc_…")]


def output_files(default: str) -> list[click.Parameter]:
    """Return the options that name the files to write."""
    return [
        Option(
            "-o",
            "--output",
            metavar="FILE",
            type=FILE,
            section=_FILES,
            help=f"the folded model (default {default})",
        ),
        Option(
            "--unfolded",
            metavar="FILE",
            type=FILE,
            section=_FILES,
            help="the recalibrated model, BatchNorm kept",
        ),
        Option(
            "--statistics",
            metavar="FILE",
            type=FILE,
            section=_FILES,
            help="the new running statistics (safetensors)",
        ),
        Option(
            "--report",
            metavar="FILE",
            type=FILE,
            multiple=True,
            section=_FILES,
            help="the report, as .html or .json; may be repeated",
        ),
    ]


def force(what: str) -> Option:
    """Return the option that allows an overwrite or another risk; `what` describes it."""
    return Option("--force", is_flag=True, section=_FILES, help=what)


def run_of(module: str, function: str = "run") -> Callable[[Arguments], int | None]:
    """Return a function of a module of `commands`, which is imported when it is called."""

    def run(args: Arguments) -> int | None:
        commands = import_module(f"bnrecal_client.cli.commands.{module}")
        found: int | None = getattr(commands, function)(args)
        return found

    return run
