"""One command line, from its arguments to its exit code."""

from __future__ import annotations

import json
import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence

from bnrecal_client.cli.exit_codes import Exit, describe, exit_of
from bnrecal_client.cli.parser import build_parser
from bnrecal_client.errors import OptionError

__all__ = ["run"]


def run(argv: Sequence[str] | None) -> int:
    """Run one command line and return its exit code.

    Raises:
        SystemExit: for `--help` and `--version`.
    """
    words = sys.argv[1:] if argv is None else argv
    try:
        args = build_parser().parse_args(words)
    except OptionError as error:
        return _fail(error, Namespace(json="--json" in words, debug=False))
    try:
        code: int | None = args.command(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of stdout has closed it (`| head`). stdout is redirected, because the
        # interpreter flushes it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - reported in one line
        return _fail(error, args)
    return code or Exit.OK


def _fail(error: BaseException, args: Namespace) -> int:
    code = exit_of(error)
    found = describe(error)
    if getattr(args, "debug", False):
        traceback.print_exception(error)
    if getattr(args, "json", False):
        print(json.dumps({"exit": int(code), "error": found}))  # noqa: T201 - the answer
    print(f"bnrecal: {_one_line(str(found['detail']))}", file=sys.stderr)  # noqa: T201
    return code


def _one_line(text: str) -> str:
    return " ".join(text.split())
