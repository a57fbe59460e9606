"""`Preprocess` as it travels in JSON: the inverse of `Preprocess.to_json`, with short forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from bn_ops.errors import OptionError
from bn_ops.preprocess.value import Preprocess, Resize

__all__ = ["preprocess_from_json"]

_LONGEST = 16


def preprocess_from_json(form: Mapping[str, object]) -> Preprocess:
    """Build the value from its JSON form.

    Short forms: `"resize": 256`, `"crop": 224`, and one number for `mean` or `std`.

    Raises:
        OptionError: an unknown member, or a value of another kind or out of range.
    """
    said = _known("preprocess", form, Preprocess)
    if (resize := said.pop("resize", None)) is not None:
        said["resize"] = _resize(resize)
    if (crop := said.pop("crop", None)) is not None:
        size = _size("crop", crop)
        said["crop"] = size if isinstance(size, tuple) else (size, size)
    if "scale" in said:
        said["scale"] = _number("scale", said["scale"])
    for name in ("mean", "std"):
        if name in said:
            said[name] = _numbers(name, said[name])
    _check_texts("", said, ("orientation", "colour", "layout", "dtype"))
    return Preprocess(**said)


def _resize(value: object) -> Resize:
    if not isinstance(value, Mapping):
        return Resize(size=_size("resize", value))
    said = _known("preprocess: resize", value, Resize)
    if "size" not in said:
        raise OptionError("preprocess: resize has no size")
    said["size"] = _size("resize.size", said["size"])
    _check_texts("resize.", said, ("interpolation",))
    if not isinstance(said.get("antialias", True), bool):
        raise OptionError("preprocess: resize.antialias is true or false")
    return Resize(**said)


def _known(where: str, form: Mapping[Any, object], kind: type[Any]) -> dict[str, Any]:
    names = [field.name for field in fields(kind)]
    unknown = sorted(str(name)[:50] for name in form if name not in names)
    if unknown:
        raise OptionError(f"{where}: {unknown[0]!r} is unknown; there are {', '.join(names)}")
    return {str(name): value for name, value in form.items()}


def _size(name: str, value: object) -> int | tuple[int, int]:
    if _is_whole(value):
        assert isinstance(value, int)
        return value
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_whole, value)):  # noqa: PLR2004
        return value[0], value[1]
    raise OptionError(f"preprocess: {name} is a number of pixels or [height, width]")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise OptionError(f"preprocess: {name} is a number, got {str(value)[:50]!r}")
    try:
        return float(value)
    except OverflowError as error:
        raise OptionError(f"preprocess: {name} is too large") from error


def _numbers(name: str, value: object) -> tuple[float, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    if len(values) > _LONGEST:
        raise OptionError(f"preprocess: {name} has {len(values)} numbers")
    return tuple(_number(name, one) for one in values)


def _check_texts(prefix: str, said: Mapping[str, object], names: tuple[str, ...]) -> None:
    for name in names:
        if not isinstance(said.get(name, ""), str):
            raise OptionError(f"preprocess: {prefix}{name} is a text")
