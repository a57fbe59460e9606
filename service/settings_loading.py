"""Where settings come from: the command line, the environment, a TOML file, in this order."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from service.errors import StartError
from service.settings import Settings

PREFIX = "BNRECAL_"
FILE_VARIABLE = f"{PREFIX}CONFIG"
# Variables of the client's command, which often shares the server's environment.
_OF_OTHERS = frozenset({FILE_VARIABLE, f"{PREFIX}TOKEN"})


def read(file: Path | None, given: Mapping[str, object]) -> Settings:
    """Build the settings; what is not told anywhere keeps its default.

    Args:
        file: a TOML file; None looks for its name in `BNRECAL_CONFIG`.
        given: values of the command line, by setting; None stands for a value that is not given.

    Raises:
        StartError: the file cannot be read, holds an unknown key, or a value makes no sense.
    """
    told = {name: value for name, value in given.items() if value is not None}
    file = file or (Path(named) if (named := os.environ.get(FILE_VARIABLE)) else None)
    values = {} if file is None else _read_file(file)
    try:
        return Settings(**{**values, **EnvSettingsSource(Settings)(), **told})
    except ValidationError as error:
        raise StartError("; ".join(map(_told, error.errors()))) from error


def unknown_variables() -> list[str]:
    """Return the variables of the environment that look like settings and are none."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | _OF_OTHERS
    return sorted(
        name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known
    )


def _read_file(file: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartError(f"the settings file {file} cannot be read: {error.strerror}") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are both such
        raise StartError(f"the settings file {file} is no TOML: {error}") from error
    for name in found:
        if name not in Settings.model_fields:
            raise StartError(f"the settings file {file} has an unknown key {name!r}{_near(name)}")
    return {name: _from_folder_of(file, name, value) for name, value in found.items()}


def _near(name: str) -> str:
    plain = name.lower().removeprefix(PREFIX.lower()).replace("-", "_")
    close = difflib.get_close_matches(plain, Settings.model_fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _from_folder_of(file: Path, name: str, value: object) -> object:
    """Let relative paths count from the file: a service manager starts us anywhere."""
    if isinstance(value, str) and Settings.model_fields[name].annotation in (Path, Path | None):
        return file.parent / value
    return value


def _told(fault: Any) -> str:
    """Write one fault without the value: a token in the wrong place must not get into a log."""
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
