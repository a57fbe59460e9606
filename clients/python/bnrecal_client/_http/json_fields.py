"""Typed access to parsed JSON: each function takes one member or says what was wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bnrecal_client.errors import UnexpectedAnswerError

__all__ = ["flag", "integer", "items", "maybe_integer", "maybe_text", "member", "number", "text"]


def member(value: object, where: str) -> Mapping[str, object]:
    """Return the value as a JSON object."""
    if not isinstance(value, Mapping):
        raise _wrong(where, "an object", value)
    return value


def items(obj: Mapping[str, object], key: str) -> Sequence[object]:
    """Return the list under the key."""
    value = obj.get(key)
    if not isinstance(value, list):
        raise _wrong(key, "a list", value)
    return value


def text(obj: Mapping[str, object], key: str) -> str:
    """Return the string under the key."""
    value = obj.get(key)
    if not isinstance(value, str):
        raise _wrong(key, "a string", value)
    return value


def maybe_text(obj: Mapping[str, object], key: str) -> str | None:
    """Return the string under the key, or None."""
    return None if obj.get(key) is None else text(obj, key)


def integer(obj: Mapping[str, object], key: str) -> int:
    """Return the integer under the key."""
    value = obj.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(key, "an integer", value)
    return value


def maybe_integer(obj: Mapping[str, object], key: str) -> int | None:
    """Return the integer under the key, or None."""
    return None if obj.get(key) is None else integer(obj, key)


def number(obj: Mapping[str, object], key: str) -> float:
    """Return the number under the key."""
    value = obj.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong(key, "a number", value)
    return float(value)


def flag(obj: Mapping[str, object], key: str) -> bool:
    """Return the boolean under the key."""
    value = obj.get(key)
    if not isinstance(value, bool):
        raise _wrong(key, "true or false", value)
    return value


def _wrong(where: str, wanted: str, got: object) -> UnexpectedAnswerError:
    return UnexpectedAnswerError(
        f"the server's answer has no usable {where!r}: wanted {wanted}, got {got!r:.80}; "
        "is this address a bnrecal server of the same version?"
    )
