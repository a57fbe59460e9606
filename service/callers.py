"""Callers: who sends a request, and which data they may see."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The sender of a request.

    Attributes:
        name: name of the token, which owns what the caller creates; empty without a named token.
        sees_all: whether the data of all owners is visible.
    """

    name: str
    sees_all: bool

    @property
    def scope(self) -> str | None:
        """The owner whose data is visible; None for the data of all owners."""
        return None if self.sees_all else self.name


EVERYTHING = Caller(name="", sees_all=True)
"""The server itself, clients on loopback without tokens, and tokens from the settings."""

NOTHING = Caller(name="", sees_all=False)
"""A request that was not authenticated."""
