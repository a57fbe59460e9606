"""The sub-commands about a server, about finished recalibrations and about the installation."""

from __future__ import annotations

import click

from bnrecal_client.cli import options
from bnrecal_client.cli.click_support import Choice, Command, Option, Positional
from bnrecal_client.cli.options import COUNT, FILE, PATH, SECONDS, Number, run_of

__all__ = [
    "admin",
    "cancel",
    "compare",
    "completion",
    "doctor",
    "fetch",
    "list_",
    "report",
    "runner",
    "serve",
    "status",
]

_SECTION = "Server"


def serve() -> Command:
    """Return `bnrecal serve`."""
    return Command(
        "serve",
        run=run_of("serving", "serve"),
        section=_SECTION,
        summary="start a server",
        description="Start a bnrecal server. Its other settings come from a TOML file or the "
        "environment (BNRECAL_…, see docs/service.md). The log is text on a terminal and JSON "
        "elsewhere.",
        examples=("bnrecal serve", "bnrecal serve --port 0 --data-dir /var/lib/bnrecal"),
        params=[
            *_files(),
            Option(
                "--host",
                metavar="ADDRESS",
                section=_SECTION,
                help="address to bind (default 127.0.0.1)",
            ),
            Option(
                "--port",
                metavar="PORT",
                type=Number(int, minimum=0, what="a port"),
                section=_SECTION,
                help="port to bind; 0 picks a free one (default 8000)",
            ),
            *_logging(),
        ],
    )


def runner() -> Command:
    """Return `bnrecal runner`."""
    return Command(
        "runner",
        run=run_of("serving", "runner"),
        section=_SECTION,
        summary="run the queued recalibrations of servers",
        description="Run queued recalibrations, without HTTP, until the process is terminated "
        "(docs/operations.md). Its settings are those of the servers that share its ledger.",
        examples=("bnrecal runner --config bnrecal.toml",),
        params=[*_files(), *_logging()],
    )


def _files() -> list[click.Parameter]:
    return [
        Option(
            "--config", metavar="FILE", type=FILE, section=_SECTION, help="TOML file of settings"
        ),
        Option(
            "--data-dir",
            metavar="FOLDER",
            type=PATH,
            section=_SECTION,
            help="folder for all data (default ./bnrecal-data)",
        ),
    ]


def _logging() -> list[click.Parameter]:
    return options.reporting(
        quiet="warnings and errors only", json="the log as JSON, also on a terminal"
    )


def list_() -> Command:
    """Return `bnrecal list`."""
    return Command(
        "list",
        run=run_of("serving", "list_all"),
        section=_SECTION,
        summary="list the recalibrations of a server",
        description="List the recalibrations of a server, the newest first.",
        examples=("bnrecal list", "bnrecal list --search camera --limit 5"),
        params=[
            Option("--limit", metavar="N", type=COUNT, default=20, help="at most N (default 20)"),
            Option(
                "--search",
                metavar="TEXT",
                help="only those whose name, tags, id, model, state or verdict contains TEXT",
            ),
            *options.server(),
            *options.reporting(quiet="only the ids"),
        ],
    )


def status() -> Command:
    """Return `bnrecal status`."""
    return Command(
        "status",
        run=run_of("serving", "status"),
        section=_SECTION,
        summary="print a recalibration's state",
        description="Print a recalibration's state, its progress, and its stored batches.",
        examples=("bnrecal status rc_3f0c…",),
        params=[
            *options.recalibration(),
            *options.server(),
            *options.reporting(quiet="only the state"),
        ],
    )


def fetch() -> Command:
    """Return `bnrecal fetch`."""
    return Command(
        "fetch",
        run=run_of("serving", "fetch"),
        section=_SECTION,
        summary="wait for a recalibration to end and write its results",
        description="Wait for a started recalibration to end, then write its results.",
        examples=("bnrecal fetch rc_3f0c… -o recalibrated.onnx --report report.html",),
        params=[
            *options.recalibration(),
            Option("--timeout", metavar="SECONDS", type=SECONDS, help="longest time to wait"),
            *options.output_files("ID.onnx in the current folder"),
            options.force("write the model even if the verdict is do-not-deploy"),
            *options.server(),
            *options.reporting(),
        ],
    )


def cancel() -> Command:
    """Return `bnrecal cancel`."""
    return Command(
        "cancel",
        run=run_of("serving", "cancel"),
        section=_SECTION,
        summary="cancel a recalibration",
        description="Cancel a recalibration; its uploaded batches are deleted.",
        examples=("bnrecal cancel rc_3f0c…",),
        params=[
            *options.recalibration(),
            *options.server(),
            *options.reporting(quiet="nothing but errors"),
        ],
    )


def admin() -> Command:
    """Return `bnrecal admin`."""
    return Command(
        "admin",
        run=run_of("serving", "admin"),
        section=_SECTION,
        summary="administer a server's data folder",
        description="Administer the data folder of a server on this machine.",
        params=[click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)],
        # The server's package defines the arguments, and `--help`.
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
    )


_RESULTS = "Results"


def report() -> Command:
    """Return `bnrecal report`."""
    return Command(
        "report",
        run=run_of("report", "report"),
        section=_RESULTS,
        summary="show a report again, or convert it",
        description="Print the summary of a finished recalibration from its JSON report or from "
        "the server, and write it as HTML or JSON.",
        examples=(
            "bnrecal report run.json",
            "bnrecal report run.json -o report.html --plot drift.svg",
            "bnrecal report rc_3f0c… --server http://127.0.0.1:8000 -o report.html",
        ),
        params=[
            Positional(
                "run", metavar="RUN", text="a JSON report, or the id of a recalibration, rc_…"
            ),
            Option(
                "-o",
                "--output",
                metavar="FILE",
                type=FILE,
                multiple=True,
                section="Files to write",
                help="the report, as .html or .json; may be repeated",
            ),
            Option(
                "--plot",
                metavar="FILE",
                type=FILE,
                section="Files to write",
                help="the drift by layer as a chart, .svg, .png or .pdf (needs matplotlib)",
            ),
            options.force("allow an output to overwrite the report"),
            *options.server(),
            *options.reporting(),
        ],
    )


def compare() -> Command:
    """Return `bnrecal compare`."""
    return Command(
        "compare",
        run=run_of("compare", "compare"),
        section=_RESULTS,
        summary="compare two recalibrations side by side",
        description="Print the verdicts, the errors, the predictions and the layers that differ "
        "most of two recalibrations, each a JSON report or the id of a recalibration.",
        examples=("bnrecal compare shrink.json replace.json", "bnrecal compare old.json rc_3f0c…"),
        params=[
            Positional("first", metavar="A", text="a JSON report, or an id, rc_…"),
            Positional("second", metavar="B", text="a JSON report, or an id, rc_…"),
            *options.server(),
            *options.reporting(quiet="nothing but errors"),
        ],
    )


_SETUP = "Setup"


def doctor() -> Command:
    """Return `bnrecal doctor`."""
    return Command(
        "doctor",
        run=run_of("doctor"),
        section=_SETUP,
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
        section=_SETUP,
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
