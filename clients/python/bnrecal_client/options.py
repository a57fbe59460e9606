"""How a caller says method, estimator and layers, and the one form that goes over the wire."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bnrecal_client.errors import OptionError

__all__ = ["METHODS", "Options", "parse_estimator"]

METHODS = ("exact", "batch")
_HOW = (
    "name replace, shrink, prior:SAMPLES, prior:SAMPLES:mixture or momentum:M, "
    "or pass its JSON form"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one recalibration.

    Attributes:
        method: `exact` or `batch`.
        estimator: JSON form, with its `name`.
        layers: globs to include, `"!glob"` to leave out; None means all.
        preprocess: what is done to images, in JSON form; None where batches are arrays.
    """

    method: str = "exact"
    estimator: Mapping[str, object]
    layers: tuple[str, ...] | None = None
    preprocess: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise OptionError(f"method is {self.method!r}; there are {', '.join(METHODS)}")
        if not isinstance(self.estimator.get("name"), str):
            raise OptionError(f"the estimator {dict(self.estimator)!r} has no name: {_HOW}")

    @classmethod
    def of(
        cls,
        *,
        method: str,
        estimator: str | Mapping[str, object] | None,
        layers: Sequence[str] | None,
        preprocess: Mapping[str, object] | None = None,
    ) -> Options:
        """Bring the caller's forms into the one form.

        Raises:
            OptionError: an option has no meaning as given.
        """
        if isinstance(layers, str):
            raise OptionError(f"layers takes a list of patterns, got the string {layers!r}")
        return cls(
            method=method,
            estimator=parse_estimator(estimator),
            layers=None if layers is None else tuple(layers),
            preprocess=None if preprocess is None else dict(preprocess),
        )

    def differences(self, stored: Mapping[str, object]) -> list[str]:
        """Name the options that a stored recalibration holds otherwise.

        Only what is said here is compared: the server fills in defaults of an estimator.
        """
        found = stored.get("estimator")
        held = found if isinstance(found, Mapping) else {}
        wrong = [
            f"estimator {key}" for key, value in self.estimator.items() if held.get(key) != value
        ]
        if stored.get("method") != self.method:
            wrong.append("method")
        layers = stored.get("layers")
        if (None if self.layers is None else list(self.layers)) != layers:
            wrong.append("layers")
        if not _same_preprocess(self.preprocess, stored.get("preprocess")):
            wrong.append("preprocess")
        return wrong


def _same_preprocess(said: Mapping[str, object] | None, stored: object) -> bool:
    """Compare what is said with what the server holds, which is written out in full."""
    if said is None or not isinstance(stored, Mapping):
        return said is stored
    return all(_covers(stored.get(key), _long(key, value)) for key, value in said.items())


def _long(key: str, value: object) -> object:
    """Write a short form of `preprocess` out."""
    if key == "resize" and value is not None and not isinstance(value, Mapping):
        return {"size": value}
    if key == "crop" and isinstance(value, int):
        return [value, value]
    return [value] if key in {"mean", "std"} and isinstance(value, int | float) else value


def _covers(stored: object, said: object) -> bool:
    if isinstance(said, Mapping) and isinstance(stored, Mapping):
        return all(_covers(stored.get(key), value) for key, value in said.items())
    return stored == (list(said) if isinstance(said, tuple) else said)


def parse_estimator(said: str | Mapping[str, object] | None) -> Mapping[str, object]:
    """Turn `"prior:16"` and the like into the JSON form; None means replace.

    Raises:
        OptionError: the text names no estimator.
    """
    if said is None:
        return {"name": "replace"}
    if isinstance(said, Mapping):
        return dict(said)
    name, *arguments = said.split(":")
    try:
        return _PARSERS[name](arguments)
    except (KeyError, ValueError) as error:
        raise OptionError(f"the estimator {said!r} has no meaning: {_HOW}") from error


def _bare(name: str, arguments: list[str]) -> dict[str, object]:
    if arguments:
        raise ValueError(name)
    return {"name": name}


def _prior(arguments: list[str]) -> dict[str, object]:
    samples, *more = arguments
    if more not in ([], ["mixture"]):
        raise ValueError(more)
    return {"name": "prior", "samples": _count(samples), "mixture": bool(more)}


def _momentum(arguments: list[str]) -> dict[str, object]:
    (momentum,) = arguments
    return {"name": "momentum", "momentum": _finite(momentum)}


def _count(said: str) -> int | float:
    """A prior may weigh as much as a fraction of a sample; whole numbers stay whole."""
    value = _finite(said)
    return int(value) if value.is_integer() else value


def _finite(said: str) -> float:
    value = float(said)
    if not math.isfinite(value):
        raise ValueError(said)  # JSON has no such number
    return value


_PARSERS = {
    "replace": lambda arguments: _bare("replace", arguments),
    "shrink": lambda arguments: _bare("shrink", arguments),
    "prior": _prior,
    "momentum": _momentum,
}
