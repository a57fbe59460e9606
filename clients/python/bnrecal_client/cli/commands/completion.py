"""`bnrecal completion`: the script that completes commands in a shell."""

from __future__ import annotations

import json

import click
from click.shell_completion import get_completion_class

from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.cli.grammar import build_group

__all__ = ["run"]


def run(args: Arguments) -> None:
    """Print the shell's completion script."""
    kind = get_completion_class(args.shell)
    assert kind is not None  # the grammar allows no other shell
    script = kind(build_group(), {}, "bnrecal", "_BNRECAL_COMPLETE").source()
    click.echo(json.dumps({"shell": args.shell, "script": script}) if args.json else script)
