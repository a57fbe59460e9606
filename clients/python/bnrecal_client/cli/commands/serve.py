"""`bnrecal serve`: start a server in this process."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from bnrecal_client.errors import OptionError

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "serve",
        help="start a server",
        description="Start a bnrecal server. Its other settings come from a TOML file or the "
        "environment (BNRECAL_…, see docs/service.md).",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file of settings")
    parser.add_argument("--host", help="address to bind (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to bind; 0 picks a free one (default 8000)")
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="FOLDER",
        help="where everything is kept (default ./bnrecal-data)",
    )
    parser.add_argument("--debug", action="store_true", help="show where an error arose")
    parser.set_defaults(run=run)


def run(args: Namespace) -> int:
    """Hand over to the server until it ends; it tells by itself why it would not start."""
    try:
        from service.server import main
    except ImportError as error:
        raise OptionError(
            f"a server needs the package bnrecal with its server part ({error}): "
            'pip install "bnrecal[server]"'
        ) from error
    given = {
        "--config": args.config,
        "--host": args.host,
        "--port": args.port,
        "--data-dir": args.data_dir,
    }
    argv = [
        word for name, value in given.items() if value is not None for word in (name, str(value))
    ]
    return main(argv)
