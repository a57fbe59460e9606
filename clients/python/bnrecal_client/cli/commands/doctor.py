"""`bnrecal doctor`: the state of the installation, the sandbox and the server."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from bnrecal_client import __version__
from bnrecal_client._http.environment import config_file, find_server
from bnrecal_client.cli import arguments
from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.cli.exit_codes import Exit, describe, exit_of
from bnrecal_client.cli.output import paint, print_json, print_lines
from bnrecal_client.errors import BnrecalError

__all__ = ["run"]

_SANDBOX_SECONDS = 30.0
_SERVER_RETRY = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The outcome of one check.

    Attributes:
        group: `packages`, `sandbox`, `configuration` or `server`.
        name: what it is.
        state: `ok`, `missing` (something works without it) or `wrong`.
        text: what was found, and what to do.
        code: the exit code that the finding causes.
    """

    group: str
    name: str
    state: str
    text: str
    code: Exit = Exit.OK


# Module, distribution, what it is for, and how to install it.
_PACKAGES = (
    ("bn_ops", "bnrecal", "recalibrating in this process", "bnrecal"),
    ("onnxruntime", "onnxruntime", "running ONNX models", "bnrecal"),
    ("PIL", "pillow", "images as data", "bnrecal[images]"),
    ("pyarrow", "pyarrow", "Arrow streams on a server", "bnrecal[arrow]"),
    ("torch", "torch", "recalibrating and exporting an nn.Module", "bnrecal[torch]"),
    ("matplotlib", "matplotlib", "`bnrecal report --plot` and `plot()`", "bnrecal[plot]"),
    ("fastapi", "fastapi", "`bnrecal serve` and `bnrecal admin`", "bnrecal[server]"),
)
_RESTRICTIONS = ("rlimits", "parent_death_signal", "no_new_privs", "landlock", "seccomp")


def run(args: Arguments) -> int:
    """Print every check; the exit code is that of the first thing that is wrong."""
    checks = [*_packages(), *_sandbox(), *_server(args)]
    wrong = [check for check in checks if check.state == "wrong"]
    if args.json:
        items = [
            {"group": c.group, "name": c.name, "state": c.state, "text": c.text} for c in checks
        ]
        print_json({"ok": not wrong, "checks": items})
    else:
        print_lines(_lines(wrong if args.quiet else checks))
    return wrong[0].code if wrong else Exit.OK


def _lines(checks: list[Check]) -> Iterator[str]:
    colors = {"ok": "green", "missing": "yellow", "wrong": "red"}
    width = max((len(check.name) for check in checks), default=0)
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            yield paint(group, bold=True)
        state = paint(check.state.ljust(7), fg=colors[check.state])
        yield f"  {state}  {check.name.ljust(width)}  {check.text}"


def _packages() -> Iterator[Check]:
    group = "packages"
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Check(group=group, name="python", state="ok", text=f"{python} ({sys.executable})")
    yield Check(group=group, name="bnrecal-client", state="ok", text=__version__)
    for module, distribution, use, extra in _PACKAGES:
        found = _version(module, distribution)
        if found is None:
            text = f'for {use}: pip install "{extra}"'
            yield Check(group=group, name=distribution, state="missing", text=text)
        else:
            yield Check(group=group, name=distribution, state="ok", text=found)


def _version(module: str, distribution: str) -> str | None:
    """Return the version of an installed package without importing it; None if it is missing."""
    if find_spec(module) is None:
        return None
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "from its source folder" if module == "bn_ops" else "installed in another way"


def _sandbox() -> Iterator[Check]:
    """Ask a worker, as a server on this machine would start it, for its restrictions."""
    group = "sandbox"
    try:
        from service.settings import Settings
        from service.workers.process_pool import ProcessExecutor
    except ImportError:
        return
    import anyio

    async def ask() -> Mapping[str, Any]:
        with anyio.fail_after(_SANDBOX_SECONDS):
            return await ProcessExecutor(Settings()).sandbox_status()

    try:
        found = anyio.run(ask)
    except Exception as error:  # noqa: BLE001 - every failure is listed
        text = f"a worker does not start: {error}"
        yield Check(group=group, name="worker", state="wrong", text=text, code=Exit.INTERNAL)
        return
    for name in _RESTRICTIONS:
        value = found.get(name)
        works = bool(value)
        text = "in force" if works else "not available on this machine"
        if works and not isinstance(value, bool):
            text += f" ({value})"
        yield Check(group=group, name=name, state="ok" if works else "missing", text=text)


def _server(args: Arguments) -> Iterator[Check]:
    path = config_file()
    text = str(path) if path.is_file() else f"{path} does not exist (it is optional)"
    try:
        found = find_server(args.server, args.token)
    except BnrecalError as error:
        code = exit_of(error)
        yield Check(
            group="configuration", name="file", state="wrong", text=error.message, code=code
        )
        return
    yield Check(group="configuration", name="file", state="ok", text=text)
    if found is None:
        text = "none is configured (BNRECAL_SERVER): work is done in this process"
        yield Check(group="configuration", name="server", state="ok", text=text)
        return
    token = "with a token" if found.token else "without a token"
    text = f"{found.url} from {found.origin}, {token}"
    yield Check(group="configuration", name="server", state="ok", text=text)
    yield from _answers(args)


def _answers(args: Arguments) -> Iterator[Check]:
    group = "server"
    if args.retry_timeout is None:
        args.retry_timeout = _SERVER_RETRY
    try:
        with arguments.connect(args) as client:
            ready = client.readiness()
            models = client.models()
    except BnrecalError as error:
        detail = str(describe(error)["detail"])
        yield Check(group=group, name=args.server, state="wrong", text=detail, code=exit_of(error))
        return
    failures = ready.get("failures") or []
    if failures:
        text = f"not ready: {'; '.join(map(str, failures))}"
        yield Check(group=group, name="state", state="wrong", text=text, code=Exit.FAILED)
    else:
        yield Check(group=group, name="state", state="ok", text="ready")
    workers = ready.get("workers") or {}
    restrictions = [name for name in _RESTRICTIONS if workers.get(name)]
    text = ", ".join(restrictions) or "none"
    yield Check(group=group, name="sandbox", state="ok" if restrictions else "missing", text=text)
    yield Check(group=group, name="models", state="ok", text=f"{len(models):,} stored")
