"""Printing: the result on stdout, as text or as one JSON object."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bnrecal_client.cli import summary
from bnrecal_client.cli.outputs import OutputFile
from bnrecal_client.result import Outcome

__all__ = ["print_json", "print_lines", "print_result"]


def print_result(args: Namespace, result: Outcome, files: Sequence[OutputFile]) -> None:
    """Print the summary of a finished recalibration and its files."""
    found = summary.summary(result, files)
    if args.json:
        print_json({**found, "server": args.server})
    elif not args.quiet:
        print_lines(summary.lines(found))


def print_lines(lines: Iterable[str]) -> None:
    """Print lines of text."""
    for line in lines:
        print(line)  # noqa: T201 - a command's result


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201 - a command's result
