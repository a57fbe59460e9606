"""The sub-commands about the installation: `doctor`, `completion`."""

from __future__ import annotations

from bnrecal_client.cli import options
from bnrecal_client.cli.click_support import Choice, Command, Positional
from bnrecal_client.cli.options import run_of

__all__ = ["completion", "doctor"]

_SECTION = "Setup"


def doctor() -> Command:
    """Return `bnrecal doctor`."""
    return Command(
        "doctor",
        run=run_of("doctor"),
        section=_SECTION,
        summary="check what is installed, the sandbox, and the server",
        description="Print what is installed and what it allows, the sandbox that a server on this "
        "machine would have, the configuration, and what the configured server reports.",
        examples=("bnrecal doctor", "bnrecal doctor --server http://127.0.0.1:8000"),
        params=[*options.server(), *options.reporting(quiet="only what is wrong")],
    )


def completion() -> Command:
    """Return `bnrecal completion`."""
    return Command(
        "completion",
        run=run_of("completion"),
        section=_SECTION,
        summary="print the shell's completion script",
        description="Print the script that completes commands, options and values in a shell.",
        examples=(
            'eval "$(bnrecal completion bash)"    # in ~/.bashrc',
            'eval "$(bnrecal completion zsh)"     # in ~/.zshrc',
            "bnrecal completion fish | source     # in ~/.config/fish/config.fish",
        ),
        params=[
            Positional(
                "shell",
                metavar="SHELL",
                type=Choice("bash", "zsh", "fish"),
                text="bash, zsh or fish",
            ),
            *options.reporting(quiet="nothing else"),
        ],
    )
