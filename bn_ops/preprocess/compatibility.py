"""Check whether preprocessed images fit a model, as far as known before reading them."""

from __future__ import annotations

from collections.abc import Sequence

from bn_ops.core.signature import ArrayHeader, TensorInfo, check_headers
from bn_ops.errors import BatchError, OptionError
from bn_ops.preprocess.value import Preprocess

__all__ = ["check_preprocess"]

_AXES = 4


def check_preprocess(preprocess: Preprocess, inputs: Sequence[TensorInfo]) -> None:
    """Check that the arrays of a preprocessing fit a model's inputs.

    Raises:
        OptionError: the model has several inputs, or takes another type or shape.
    """
    if len(inputs) != 1:
        raise OptionError(
            f"preprocess: the model takes {[one.name for one in inputs]}; images fit "
            "models with one input"
        )
    (info,) = inputs
    header = ArrayHeader(dtype=preprocess.dtype, shape=_shape(preprocess, info))
    try:
        check_headers(inputs, {info.name: header})
    except BatchError as error:
        raise OptionError(
            f"preprocess: the images do not fit the model: {error.message}"
        ) from error


def _shape(preprocess: Preprocess, info: TensorInfo) -> tuple[int, ...]:
    """Return the shape of a batch of one; sizes that depend on the image are the model's."""
    sides: tuple[int, int] | None = preprocess.crop
    if (
        sides is None
        and preprocess.resize is not None
        and isinstance(preprocess.resize.size, tuple)
    ):
        sides = preprocess.resize.size
    channels_first = preprocess.layout == "nchw"
    if sides is None:
        places = (2, 3) if channels_first else (1, 2)
        known = info.shape if info.shape is not None and len(info.shape) == _AXES else ()
        expected = [known[place] if known else None for place in places]
        high, wide = (side if isinstance(side, int) else 1 for side in expected)
        sides = (high, wide)
    if channels_first:
        return (1, preprocess.channels, *sides)
    return (1, *sides, preprocess.channels)
