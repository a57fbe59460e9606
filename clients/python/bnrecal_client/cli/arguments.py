"""Arguments of several sub-commands: the server, the output files, the caller's own metric."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bnrecal_client._http.environment import SERVER_VARIABLE, config_file, find_server
from bnrecal_client._library import Metric
from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.cli.outputs import Outputs
from bnrecal_client.errors import OptionError

if TYPE_CHECKING:
    from bnrecal_client.client import Client

__all__ = ["choose_server", "connect", "load_metric", "outputs_of", "server_missing"]


def choose_server(args: Arguments) -> None:
    """Set `args.server` to the address to use, or to None to work in this process.

    Raises:
        OptionError: the options contradict each other, or the configuration is invalid.
    """
    if args.local:
        if args.server is not None:
            raise OptionError("--local works in this process: leave --server out")
        return
    found = find_server(args.server, args.token)
    args.server = None if found is None else found.url


def connect(args: Arguments) -> Client:
    """Return the client of the server that the options, the environment or the file name.

    Raises:
        OptionError: none of them names a server.
    """
    from bnrecal_client._http.retry import RetryPolicy
    from bnrecal_client.client import Client

    found = find_server(args.server, args.token)
    if found is None:
        raise OptionError(
            f"no server is named: pass --server URL, set {SERVER_VARIABLE}, or write "
            f'server = "URL" to {config_file()} (`bnrecal serve` starts one)'
        )
    args.server = found.url
    seconds = found.retry_timeout if args.retry_timeout is None else args.retry_timeout
    retry = RetryPolicy() if seconds is None else RetryPolicy(total_timeout=seconds)
    return Client(found.url, found.token, retry=retry)


def outputs_of(args: Arguments, default: Path, *, sources: Sequence[Path] = ()) -> Outputs:
    """Return the files to write, checked before any work is done.

    Args:
        args: the parsed options.
        default: path of the folded model if none was given.
        sources: inputs of the command, which must not be overwritten.

    Raises:
        OptionError: one of them cannot be written, is a source, or is named twice.
    """
    check_reports(args.report)
    outputs = Outputs(
        model=args.output or default,
        unfolded=args.unfolded,
        statistics=args.statistics,
        reports=tuple(args.report),
    )
    outputs.check(sources)
    return outputs


def check_reports(paths: Sequence[Path]) -> None:
    """Check the names of reports to write.

    Raises:
        OptionError: one has a suffix other than `.html` and `.json`.
    """
    for path in paths:
        if path.suffix.lower() not in {".html", ".json"}:
            raise OptionError(f"{path} is not a name for a report, which is .html or .json")


def server_missing(error: ImportError) -> OptionError:
    """Return the error for a command that needs the server's package."""
    foreign = _foreign_service()
    if foreign is not None:
        return OptionError(
            f"the package 'service' in {foreign} is not that of bnrecal and hides it ({error}): "
            "run the command in a virtual environment and a folder without that package"
        )
    return OptionError(
        f"this command needs the package bnrecal with its server part ({error}): "
        'pip install "bnrecal[server]"'
    )


def _foreign_service() -> str | None:
    """Return where a package named `service` is that is not the server's; None if there is none."""
    try:
        found = find_spec("service")
    except (ImportError, ValueError):
        return None
    folders = [] if found is None else list(found.submodule_search_locations or ())
    if found is not None and found.origin is not None and not folders:
        return found.origin
    own = any((Path(folder) / "recalibrations" / "schemas.py").is_file() for folder in folders)
    return None if own or not folders else folders[0]


def load_metric(name: str) -> Metric:
    """Return the function `module:function`; the module is also searched in the current folder.

    Raises:
        OptionError: there is no such function.
    """
    module, _, function = name.partition(":")
    if not (module and function.isidentifier()):
        raise OptionError(f"--metric {name}: write it like module:function")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(module), function)
    except AttributeError as error:
        raise OptionError(f"--metric {name}: {module} has no {function}") from error
    except Exception as error:
        raise OptionError(
            f"--metric {name}: importing {module} failed: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(folder)
    if not callable(found):
        raise OptionError(f"--metric {name}: {function} is not a function")
    return cast("Metric", found)
