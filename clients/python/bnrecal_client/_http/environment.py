"""The server that a client uses: from its arguments, the environment, or the user's configuration.

The configuration is a TOML file, `$XDG_CONFIG_HOME/bnrecal/config.toml`, by default
`~/.config/bnrecal/config.toml`, with the keys of `_KEYS`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from bnrecal_client.errors import OptionError

__all__ = ["SERVER_VARIABLE", "TOKEN_VARIABLE", "Server", "config_file", "find_server"]

SERVER_VARIABLE = "BNRECAL_SERVER"
TOKEN_VARIABLE = "BNRECAL_TOKEN"  # noqa: S105 - the variable's name

_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "server": str,
    "token": str,
    "retry_timeout": (int, float),
}

# A host and a port, or this machine, without the scheme.
_BARE = re.compile(r"(localhost|[\w.-]+:\d+|\[[0-9a-fA-F:]+\]:\d+)(/.*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """How to reach a server.

    Attributes:
        url: its address.
        token: the bearer token; None for none.
        retry_timeout: how long a request is retried, in seconds; None for the default.
        origin: where the address comes from, for messages.
    """

    url: str
    token: str | None
    retry_timeout: float | None
    origin: str


def find_server(url: str | None = None, token: str | None = None) -> Server | None:
    """Return the server to use; None if no address is given anywhere.

    An argument precedes the environment (`BNRECAL_SERVER`, `BNRECAL_TOKEN`), which precedes the
    configuration. The token of the configuration is sent only to the server of the configuration.

    Args:
        url: the address; None for that of the environment or the configuration.
        token: the token; None for that of the environment or the configuration.

    Raises:
        OptionError: the configuration cannot be read, or has an unknown key.
    """
    config = _read(config_file())
    configured = config.get("server")
    named = os.environ.get(SERVER_VARIABLE) or None
    address, origin = next(
        (
            (value, where)
            for value, where in (
                (url, "the argument"),
                (named, SERVER_VARIABLE),
                (configured, str(config_file())),
            )
            if value is not None
        ),
        (None, ""),
    )
    if not isinstance(address, str):
        return None
    address = with_scheme(address)
    own = isinstance(configured, str) and with_scheme(configured) == address
    found = token if token is not None else os.environ.get(TOKEN_VARIABLE)
    if found is None and own:
        found = str(config["token"]) if "token" in config else None
    seconds = config.get("retry_timeout")
    return Server(
        url=address,
        token=found,
        retry_timeout=float(seconds) if isinstance(seconds, int | float) else None,
        origin=origin,
    )


def with_scheme(url: str) -> str:
    """Return an address without a trailing slash; `host:port` and `localhost` get `http://`."""
    return f"http://{url}".rstrip("/") if _BARE.fullmatch(url) else url.rstrip("/")


def config_file() -> Path:
    """Return the path of the user's configuration, which need not exist."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "bnrecal" / "config.toml"


def _read(path: Path) -> Mapping[str, object]:
    """Return the configuration; empty if there is none."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are subclasses
        raise OptionError(f"{path} is not valid TOML: {error}") from error
    for key, value in found.items():
        if key not in _KEYS:
            near = get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(_KEYS)}"
            raise OptionError(f"{path} has an unknown key {key!r}; {hint}")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise OptionError(f"{path}: {key} is {value!r}, which is of the wrong type")
    return found
