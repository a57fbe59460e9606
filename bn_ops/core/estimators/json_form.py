"""Estimators by name, as options travel in JSON and on command lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bn_ops.core.estimators.base import Estimator
from bn_ops.core.estimators.momentum import Momentum
from bn_ops.core.estimators.prior import Prior
from bn_ops.core.estimators.replace import Replace
from bn_ops.core.estimators.shrink import Shrink
from bn_ops.errors import OptionError

__all__ = ["estimator_from_json"]

_BY_NAME: Mapping[str, Callable[..., Estimator]] = {
    "replace": Replace,
    "prior": Prior,
    "momentum": Momentum,
    "shrink": Shrink,
}


def estimator_from_json(form: Mapping[str, object]) -> Estimator:
    """Build an estimator from its JSON form, the inverse of `to_json`.

    Raises:
        OptionError: unknown name, unknown or missing option, or a value out of range.
    """
    options = dict(form)
    name = options.pop("name", None)
    build = _BY_NAME.get(name) if isinstance(name, str) else None
    if build is None:
        raise OptionError(f"unknown estimator {name!r}; there are {', '.join(sorted(_BY_NAME))}")
    if any(not isinstance(value, int | float) for value in options.values()):
        raise OptionError(f"estimator {name!r}: options are numbers or booleans, got {options}")
    try:
        return build(**options)
    except TypeError as error:
        raise OptionError(f"estimator {name!r} does not take the options {options}") from error
