"""Machines that are namespaces of this one: with a network of their own, or another processor."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

__all__ = ["Network", "network", "other_processor", "unsupported_reason"]

_CPUINFO = Path("/proc/cpuinfo")
# Addresses for tests of networks (RFC 2544).
_PREFIX = "198.18"


def unsupported_reason() -> str | None:
    """Return why there can be no namespaces on this machine, or None if there can."""
    if sys.platform != "linux":
        return "Linux is required"
    if os.geteuid() != 0:
        return "root is required for namespaces"
    missing = [tool for tool in ("ip", "unshare") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is missing"
    try:
        with network(1):
            pass
        _run("unshare", "--mount", "true")
    except subprocess.CalledProcessError as error:
        return f"{error.cmd[0]} fails: {error.stderr.strip()}"
    return None


class Network:
    """A network between this machine and some namespaces.

    Args:
        name: beginning of the names of its devices, at most 11 characters.
        subnet: first three numbers of its addresses.
    """

    def __init__(self, name: str, subnet: str) -> None:
        self._name = name
        self._subnet = subnet

    @property
    def own_address(self) -> str:
        """Address of this machine."""
        return f"{self._subnet}.1"

    def address(self, number: int) -> str:
        """Return the address of a namespace."""
        return f"{self._subnet}.{number + 2}"

    def within(self, number: int) -> tuple[str, ...]:
        """Return the beginning of a command that runs in a namespace."""
        return ("ip", "netns", "exec", self.namespace(number))

    def namespace(self, number: int) -> str:
        """Return the name of a namespace."""
        return f"{self._name}-{number}"

    def cut(self, number: int) -> None:
        """Cut a namespace off, as if its cable were pulled."""
        _run("ip", "link", "set", self._cable(number), "down")

    def heal(self, number: int) -> None:
        """Connect it again."""
        _run("ip", "link", "set", self._cable(number), "up")

    def _cable(self, number: int) -> str:
        return f"{self._name}v{number}"


@contextmanager
def network(count: int) -> Iterator[Network]:
    """Create some namespaces that a bridge connects with this machine.

    Args:
        count: number of namespaces.
    """
    name = f"bn{secrets.token_hex(4)}"
    found = Network(name, f"{_PREFIX}.{secrets.randbelow(254) + 1}")
    with ExitStack() as stack:
        _run("ip", "link", "add", name, "type", "bridge")
        stack.callback(_run, "ip", "link", "del", name)
        _run("ip", "address", "add", f"{found.own_address}/24", "dev", name)
        _run("ip", "link", "set", name, "up")
        for number in range(count):
            space, cable = found.namespace(number), f"{name}v{number}"
            _run("ip", "netns", "add", space)
            # The cable ends with the namespace.
            stack.callback(_run, "ip", "netns", "del", space)
            inner = f"{name}w{number}"
            _run("ip", "link", "add", cable, "type", "veth", "peer", "name", inner)
            _run("ip", "link", "set", inner, "netns", space)
            _run("ip", "link", "set", cable, "master", name, "up")
            for words in (
                ("address", "add", f"{found.address(number)}/24", "dev", inner),
                ("link", "set", inner, "up"),
                ("link", "set", "lo", "up"),
                ("route", "add", "default", "via", found.own_address),
            ):
                _run("ip", "-n", space, *words)
        yield found


def other_processor(folder: Path, feature: str) -> tuple[str, ...]:
    """Return the beginning of a command that sees a processor without one of its features.

    Args:
        folder: for a file.
        feature: a flag of /proc/cpuinfo.
    """
    file = folder / "cpuinfo"
    text = _CPUINFO.read_text("utf-8", "replace")
    assert f" {feature} " in text, "this processor does not have it either"
    file.write_text(text.replace(f" {feature} ", " "))
    script = f'mount --bind "$0" {_CPUINFO} && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, str(file))


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)
