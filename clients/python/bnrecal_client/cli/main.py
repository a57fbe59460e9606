"""One command line, from its arguments to its exit code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

import click

from bnrecal_client.cli.click_support import Group, option_error
from bnrecal_client.cli.exit_codes import Exit, describe, exit_of
from bnrecal_client.cli.grammar import build_group

__all__ = ["run"]

_NAME = "bnrecal"
_COMPLETE = "_BNRECAL_COMPLETE"


def run(argv: Sequence[str] | None) -> int:
    """Run one command line and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _invoke(build_group(), words)
        sys.stdout.flush()
    except click.exceptions.Exit as ended:
        code = ended.exit_code
    except BrokenPipeError:
        # The reader of stdout has closed it (`| head`). stdout is redirected, because the
        # interpreter flushes it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.OK
    except click.UsageError as error:
        code = _fail(option_error(error, _NAME), words)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - reported in one line
        code = _fail(error, words)
    return code


def _invoke(group: Group, words: list[str]) -> int:
    if instruction := os.environ.get(_COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(group, {}, _NAME, _COMPLETE, instruction)
    if not words:
        with click.Context(group, info_name=_NAME) as ctx:
            click.echo(group.get_help(ctx), err=True)
        return Exit.USAGE
    color = False if os.environ.get("NO_COLOR") else None  # https://no-color.org
    with group.make_context(_NAME, words, color=color) as ctx:
        code: int | None = group.invoke(ctx)
    return code or Exit.OK


def _fail(error: BaseException, words: Sequence[str]) -> int:
    code = exit_of(error)
    found = describe(error)
    if "--debug" in words:
        import traceback

        traceback.print_exception(error)
    if "--json" in words:
        click.echo(json.dumps({"exit": int(code), "error": found}))
    color = False if os.environ.get("NO_COLOR") else None
    prefix = click.style(f"{_NAME}:", fg="red", bold=True)
    click.echo(f"{prefix} {_one_line(str(found['detail']))}", err=True, color=color)
    return code


def _one_line(text: str) -> str:
    return " ".join(text.split())
