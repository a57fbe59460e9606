"""Who asks, and what they may see."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whoever a request, or this server itself, acts for.

    Attributes:
        name: the token's name, which owns what it makes; empty where no named token is used.
        sees_all: whether what others own is visible, too.
    """

    name: str
    sees_all: bool

    @property
    def scope(self) -> str | None:
        """The one owner whose things are visible; None for everybody's."""
        return None if self.sees_all else self.name


EVERYTHING = Caller(name="", sees_all=True)
"""The server itself, loopback without tokens, and tokens of the settings."""

NOTHING = Caller(name="", sees_all=False)
"""A request that nobody has let in."""
