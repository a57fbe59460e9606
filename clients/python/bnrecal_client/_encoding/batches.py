"""Encoding of batches: from the items of the caller's iterable to named arrays to bytes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from bnrecal_client._http.messages import sha256_hex
from bnrecal_client.errors import BatchError
from bnrecal_client.images import MEDIA_TYPE as TAR
from bnrecal_client.images import Images

if TYPE_CHECKING:
    from bnrecal_client._encoding.samples import SampleFilter

__all__ = ["Arrays", "EncodedBatch", "encode", "named_arrays", "split_labels", "to_array"]

_LABEL_NAMES = frozenset({"label", "labels", "target", "targets", "label_ids", "y"})

Arrays = Mapping[str, NDArray[np.generic]]
"""Named input arrays; the first axis of each counts the samples."""


_PAIR = 2

SAFETENSORS = "application/vnd.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedBatch:
    """One batch as it is sent.

    Attributes:
        body: safetensors, or a tar archive of images.
        sha256: digest of the body, in hex.
        samples: number of samples in it.
        media_type: the media type of the body.
    """

    body: bytes
    sha256: str
    samples: int
    media_type: str = SAFETENSORS


def encode(
    batch: object, inputs: Sequence[str], *, index: int, bad: SampleFilter | None = None
) -> EncodedBatch:
    """Return one batch, encoded; equal batches give equal bytes.

    Args:
        batch: `Images`, or as `named_arrays`.
        inputs: the model's input names, in its order.
        index: position in the stream, for messages.
        bad: leaves bad samples out; None to encode every sample.

    Raises:
        BatchError: the batch does not fit the model's inputs, or cannot be encoded.
    """
    if isinstance(batch, Images):
        batch = batch if bad is None else bad.images(batch)
        packed = batch.packed()
        return EncodedBatch(
            body=packed, sha256=sha256_hex(packed), samples=len(batch), media_type=TAR
        )
    arrays = named_arrays(batch, inputs, index=index)
    if bad is not None:
        arrays = bad.arrays(arrays)
    # safetensors writes the raw buffer of a strided array and ignores its strides.
    dense = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        body = safetensors.numpy.save(dense)
    except (KeyError, ValueError, safetensors.SafetensorError) as error:
        kinds = {name: str(array.dtype) for name, array in dense.items()}
        raise BatchError(
            f"batch {index} cannot be encoded ({kinds}): {error}", batch=index, code="batch-dtype"
        ) from error
    samples = min((len(array) for array in dense.values()), default=0)
    return EncodedBatch(body=body, sha256=sha256_hex(body), samples=samples)


def split_labels(item: object, inputs: Sequence[str]) -> tuple[object, object | None]:
    """Return a stream item as the inputs of a batch and its labels, None where it has none.

    Labels are the last item of a tuple that holds one more than the model's inputs (as the pairs of
    a DataLoader do), or the entries of a dict under a usual name such as `labels`, unless the
    model has an input of that name. An array of floating-point numbers with more than one axis is
    not taken as labels.

    Args:
        item: an item of the caller's iterable.
        inputs: the model's input names, in its order.
    """
    if isinstance(item, Mapping):
        extra = [name for name in item if name in _LABEL_NAMES and name not in inputs]
        if not extra:
            return item, None
        kept = {name: value for name, value in item.items() if name not in extra}
        return kept, item[extra[0]]
    if not isinstance(item, tuple | list) or not item or not _looks_like_labels(item[-1]):
        return item, None
    first = item[0]
    nested = len(item) == _PAIR and isinstance(first, Mapping | tuple | list | Images)
    if nested:
        return first, item[-1]
    if len(item) != len(inputs) + 1:
        return item, None
    kept_items = item[:-1]
    return (kept_items[0] if len(kept_items) == 1 else tuple(kept_items)), item[-1]


def _looks_like_labels(value: object) -> bool:
    shape, dtype = getattr(value, "shape", None), str(getattr(value, "dtype", ""))
    if shape is None:
        return not isinstance(value, Images)
    return len(shape) <= 1 or "float" not in dtype


def named_arrays(batch: object, inputs: Sequence[str], *, index: int) -> Arrays:
    """Return a batch as arrays by the model's input names.

    A dict has names. The items of a tuple or list belong to the inputs in their order. Anything
    else is one array, for a model with one input.

    Raises:
        BatchError: the names or the number of arrays do not fit the model.
    """
    if isinstance(batch, Mapping):
        named: Mapping[str, object] = {str(name): value for name, value in batch.items()}
    elif isinstance(batch, tuple | list):
        named = _in_order(batch, inputs, index)
    else:
        named = _only(batch, inputs, index)
    arrays = {name: to_array(value, index=index, name=name) for name, value in named.items()}
    _check_names(arrays, inputs, index)
    return arrays


def to_array(value: object, *, index: int, name: str) -> NDArray[np.generic]:
    """Return a torch tensor, or anything that numpy can read, as an array with a sample axis.

    Raises:
        BatchError: it is not an array of numbers.
    """
    try:
        array = np.asarray(_from_torch(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise BatchError(
            f"batch {index}, input {name!r}: a {type(value).__name__} is not an array: {error}",
            batch=index,
            input_name=name,
        ) from error
    numbers = array.dtype.kind not in "OUSMm"
    if not numbers or array.ndim == 0:
        raise BatchError(
            f"batch {index}, input {name!r}: {type(value).__name__} gives an array of "
            f"{array.dtype} with {array.ndim} axes; expected numbers, with a first axis of samples",
            batch=index,
            input_name=name,
            code="batch-shape" if numbers else "batch-dtype",
        )
    return array


def _from_torch(value: Any) -> Any:
    """Return a torch tensor as a numpy array on the CPU, everything else unchanged.

    A tensor exists only where torch has been loaded, so torch is never imported here. numpy has no
    bfloat16 and torch does not convert it, so its bits are passed as uint16.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return value
    tensor = value.detach().cpu()
    if tensor.dtype is not torch.bfloat16:
        return tensor.resolve_conj().resolve_neg().numpy()
    import ml_dtypes  # noqa: PLC0415 - optional: only bfloat16 needs it

    return tensor.contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)


def _in_order(batch: Sequence[object], inputs: Sequence[str], index: int) -> Mapping[str, object]:
    if len(batch) != len(inputs):
        raise BatchError(
            f"batch {index} is a {type(batch).__name__} of {len(batch)}, the model takes "
            f"{len(inputs)} ({', '.join(inputs)}); if the last item is a label, pass "
            "select=lambda item: item[0]",
            batch=index,
            code="batch-input",
        )
    return dict(zip(inputs, batch, strict=True))


def _only(batch: object, inputs: Sequence[str], index: int) -> Mapping[str, object]:
    if len(inputs) != 1:
        raise BatchError(
            f"batch {index} is one array, the model takes {len(inputs)}: "
            f"pass a dict with {', '.join(inputs)}",
            batch=index,
            code="batch-input",
        )
    return {inputs[0]: batch}


def _check_names(arrays: Arrays, inputs: Sequence[str], index: int) -> None:
    for name in (*sorted(set(arrays) - set(inputs)), *(n for n in inputs if n not in arrays)):
        fault = "is missing" if name in inputs else "is not an input of the model"
        raise BatchError(
            f"batch {index}: {name!r} {fault}; the model takes {', '.join(inputs)}",
            batch=index,
            input_name=name,
            code="batch-input",
        )
