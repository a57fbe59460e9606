"""Estimators by name, as options are written in JSON and on command lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from bn_ops.core.estimators.auto import Auto
from bn_ops.core.estimators.base import Estimator
from bn_ops.core.estimators.momentum import Momentum
from bn_ops.core.estimators.prior import Prior
from bn_ops.core.estimators.replace import Replace
from bn_ops.core.estimators.shrink import Shrink
from bn_ops.errors import OptionError

__all__ = ["as_estimator", "estimator_from_json", "estimator_from_string"]

# A new estimator is one module and one line here.
_BY_NAME: Mapping[str, type[Auto | Replace | Prior | Momentum | Shrink]] = {
    "auto": Auto,
    "replace": Replace,
    "prior": Prior,
    "momentum": Momentum,
    "shrink": Shrink,
}
_FORMS = "auto, auto:varied, replace, shrink, prior:64, prior:64:mixture or momentum:0.1"


def as_estimator(value: object, *, default: Estimator | None = None) -> Estimator:
    """Return the estimator for the value of an `estimator=` option.

    Args:
        value: an estimator, its string form, or None.
        default: the estimator for None; `Replace()` unless given.

    Raises:
        OptionError: neither an estimator nor the string form of one.
    """
    if value is None:
        return default or Replace()
    if isinstance(value, str):
        return estimator_from_string(value)
    if isinstance(value, Estimator) and not isinstance(value, type):
        return value
    raise OptionError(
        f"estimator= takes an estimator such as Shrink() or a string such as 'prior:64', "
        f"got {value!r}"
    )


def estimator_from_json(form: Mapping[str, object]) -> Estimator:
    """Build an estimator from its JSON form, the inverse of `to_json`; None means the default.

    Raises:
        OptionError: unknown name, unknown or missing option, or a value out of range.
    """
    options = {key: value for key, value in form.items() if value is not None}
    name = options.pop("name", None)
    build = _class_named(name)
    if any(not isinstance(value, int | float) for value in options.values()):
        raise OptionError(f"estimator {name!r}: options are numbers or booleans, got {options}")
    try:
        return build(**options)  # type: ignore[arg-type]  # a wrong option is a TypeError
    except TypeError as error:
        given = f"does not take the options {options}" if options else "requires an option"
        raise OptionError(f"estimator {name!r} {given}; as a string, write {_FORMS}") from error


def estimator_from_string(text: str) -> Estimator:
    """Build an estimator from its string form: `name`, then its options separated by colons.

    Numbers are given in the order of the estimator's options, a flag by its name: `auto`,
    `auto:varied`, `replace`, `shrink`, `prior:64`, `prior:64:mixture`, `momentum:0.1`.

    Raises:
        OptionError: as `estimator_from_json`.
    """
    name, *arguments = text.split(":")
    names = [field.name for field in fields(_class_named(name))]
    if len(arguments) > len(names):
        raise OptionError(
            f"estimator {text!r} has too many options, {name!r} takes {names}; write {_FORMS}"
        )
    options: dict[str, object] = {"name": name}
    for option, argument in zip(names, arguments, strict=False):
        options[option] = True if argument == option else _number(text, argument)
    return estimator_from_json(options)


def _class_named(name: object) -> type[Auto | Replace | Prior | Momentum | Shrink]:
    found = _BY_NAME.get(name) if isinstance(name, str) else None
    if found is None:
        raise OptionError(f"unknown estimator {name!r}; write {_FORMS}")
    return found


def _number(text: str, argument: str) -> int | float:
    try:
        value = float(argument)
    except ValueError as error:
        raise OptionError(
            f"estimator {text!r}: {argument!r} is neither a number nor an option; write {_FORMS}"
        ) from error
    return int(value) if value.is_integer() else value
