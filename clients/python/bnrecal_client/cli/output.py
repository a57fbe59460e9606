"""Printing: the answer on stdout, as text or as one JSON object."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import Any

from bnrecal_client.cli import summary
from bnrecal_client.result import Outcome

__all__ = ["say", "say_json", "show_result"]


def show_result(args: Namespace, result: Outcome, files: Mapping[str, str]) -> None:
    """Tell what a finished recalibration did and where its files are."""
    told = summary.summary(result, files)
    if args.json:
        say_json({**told, "server": args.server})
    elif not args.quiet:
        say(summary.lines(told))


def say(lines: Iterable[str]) -> None:
    """Print lines for a person."""
    for line in lines:
        print(line)  # noqa: T201 - a command's answer


def say_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201 - a command's answer
