"""One command line, from its words to its exit code."""

from __future__ import annotations

import json
import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence

from bnrecal_client.cli.commands import admin
from bnrecal_client.cli.exit_codes import Exit, describe, exit_of
from bnrecal_client.cli.parser import build_parser

__all__ = ["run"]


def run(argv: Sequence[str] | None) -> int:
    """Run one command line and return its exit code.

    Raises:
        SystemExit: from argparse, for `--help` and for a command line it cannot read (2).
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["admin"]:
        return admin.hand_over(words[1:])
    args = build_parser().parse_args(argv)
    try:
        code: int | None = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of stdout has gone (`| head`): nobody is left to tell. stdout is pointed
        # elsewhere, or the interpreter would complain when it flushes it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - told in one line, by the table
        return _fail(error, args)
    return code or Exit.OK


def _fail(error: BaseException, args: Namespace) -> int:
    code = exit_of(error)
    told = describe(error)
    if getattr(args, "debug", False):
        traceback.print_exception(error)
    if getattr(args, "json", False):
        print(json.dumps({"exit": int(code), "error": told}))  # noqa: T201 - the answer
    print(f"bnrecal: {_one_line(str(told['detail']))}", file=sys.stderr)  # noqa: T201
    return code


def _one_line(text: str) -> str:
    return " ".join(text.split())
