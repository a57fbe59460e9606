"""The command line's grammar: every sub-command with its arguments, options and examples.

Nothing heavy is imported here; the module of a sub-command is imported when it runs.
"""

from __future__ import annotations

import click

from bnrecal_client import __version__
from bnrecal_client.cli.click_support import Group, Option
from bnrecal_client.cli.grammar import serving, work

__all__ = ["build_group"]

_CODES = (
    "Exit codes: 0 done",
    "1 internal error",
    "2 command line, option or token",
    "3 data",
    "4 model",
    "5 server unreachable",
    "6 recalibration failed",
    "7 cancelled or interrupted",
    "8 verdict do-not-deploy",
)


def build_group() -> Group:
    """Return the command with all sub-commands."""
    commands = (
        work.recalibrate(),
        work.inspect(),
        work.fold(),
        work.plan(),
        work.demo(),
        serving.report(),
        serving.compare(),
        serving.serve(),
        serving.runner(),
        serving.list_(),
        serving.status(),
        serving.fetch(),
        serving.cancel(),
        serving.admin(),
        serving.doctor(),
        serving.completion(),
    )
    return Group(
        "bnrecal",
        help="Recalibrate a network's BatchNorm layers for a new domain.",
        notes=_CODES,
        commands={command.name or "": command for command in commands},
        params=[_version()],
    )


def _version() -> Option:
    def show(ctx: click.Context, _: click.Parameter, wanted: object) -> None:
        if wanted and not ctx.resilient_parsing:
            click.echo(f"bnrecal {__version__}")
            ctx.exit()

    text = "print the version"
    return Option(
        "--version", is_flag=True, expose_value=False, is_eager=True, callback=show, help=text
    )
