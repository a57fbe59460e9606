"""Load settings from the command line, the environment and a TOML file, in this precedence."""

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
_NOT_SETTINGS = frozenset({FILE_VARIABLE, f"{PREFIX}TOKEN", f"{PREFIX}SERVER"})


def read(file: Path | None, given: Mapping[str, object]) -> Settings:
    """Return the settings; a setting that is not given has its default.

    Args:
        file: a TOML file; None uses the file that `BNRECAL_CONFIG` names, if any.
        given: values from the command line by setting; None for a value that is not given.

    Raises:
        StartError: the file cannot be read or has an unknown key, or a value is invalid.
    """
    explicit = {name: value for name, value in given.items() if value is not None}
    file = file or (Path(named) if (named := os.environ.get(FILE_VARIABLE)) else None)
    values = {} if file is None else _read_file(file)
    try:
        return Settings(**{**values, **EnvSettingsSource(Settings)(), **explicit})
    except ValidationError as error:
        raise StartError("; ".join(map(_describe, error.errors()))) from error


def unknown_variables() -> list[str]:
    """Return environment variables that look like settings but are not."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | _NOT_SETTINGS
    return sorted(
        name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known
    )


def _read_file(file: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartError(f"the settings file {file} cannot be read: {error.strerror}") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are subclasses
        raise StartError(f"the settings file {file} is not valid TOML: {error}") from error
    for name in found:
        if name not in Settings.model_fields:
            raise StartError(
                f"the settings file {file} has an unknown key {name!r}{_suggestion(name)}"
            )
    return {name: _resolve(file, name, value) for name, value in found.items()}


def _suggestion(name: str) -> str:
    plain = name.lower().removeprefix(PREFIX.lower()).replace("-", "_")
    close = difflib.get_close_matches(plain, Settings.model_fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _resolve(file: Path, name: str, value: object) -> object:
    """Resolve a relative path against the file: a service manager may use any working folder."""
    if isinstance(value, str) and Settings.model_fields[name].annotation in (Path, Path | None):
        return file.parent / value
    return value


def _describe(fault: Any) -> str:
    """Describe an error without the value: a misplaced token must not be logged."""
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
