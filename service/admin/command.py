"""The command line of `python -m service.admin`."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from service import settings_loading
from service.admin import backup, check, listing, purge, tokens
from service.errors import ServiceError, StartError

DONE, FAILED, REFUSED = 0, 1, 2


def main(arguments: Sequence[str], *, prog: str = "python -m service.admin") -> int:
    """Run one command line; the exit code is that of `execute`."""
    parser = _Parser(prog=prog, description="Administer a server's data folder.")
    add_arguments(parser)
    return execute(parser.parse_args(arguments))


class _Parser(ArgumentParser):
    """A parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with 2."""
        self.exit(REFUSED, f"{self.prog}: {message} (`{self.prog} --help` lists the arguments)\n")


def execute(args: Namespace) -> int:
    """Run one parsed command; return 0 if all is well, 1 if it found faults, 2 if it failed."""
    try:
        args.settings = settings_loading.read(args.config, {"data_dir": args.data_dir})
        folder: Path = args.settings.data_dir
        if args.needs_folder and not (folder.is_dir() or args.settings.ledger):
            raise StartError(f"there is no data folder {folder}")
        found: dict[str, Any] = args.run(folder, args)
    except ServiceError as error:
        if args.json:
            _print(json.dumps({"error": error.message, "code": error.code}))
        sys.stderr.write(f"bnrecal admin: {error.message}\n")
        return REFUSED
    _print(json.dumps(found) if args.json else "\n".join(lines(found)))
    return FAILED if found.get("faults") else DONE


def lines(found: dict[str, Any]) -> list[str]:
    """Return a result as text: one line for each value, a table for each list."""
    written = []
    for name, value in found.items():
        if isinstance(value, list):
            written.append(f"{name}: {len(value)}")
            written += ["  " + _row(one) for one in value]
        else:
            written.append(f"{name}: {value}")
    return written


def _row(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name}={one}" for name, one in value.items() if one is not None)
    return str(value)


def add_arguments(parser: ArgumentParser) -> None:
    """Add all commands and options to a parser."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the server's settings file (BNRECAL_CONFIG)"
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="FOLDER", help="the data folder (BNRECAL_DATA_DIR)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (tokens, listing, purge, check, backup):
        module.add_command(commands)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
