"""The protocol's element types beside ours.

Source: Open Inference Protocol, "Tensor Data Types"; BF16 and its binary form are Triton's.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from service.formats.dtypes import BFLOAT16, SAFETENSORS
from service.openinference.faults import unfit

NUMPY: Mapping[str, str] = MappingProxyType(
    {
        "BOOL": "bool",
        "UINT8": "uint8",
        "UINT16": "uint16",
        "UINT32": "uint32",
        "UINT64": "uint64",
        "INT8": "int8",
        "INT16": "int16",
        "INT32": "int32",
        "INT64": "int64",
        "FP16": "float16",
        "BF16": BFLOAT16,
        "FP32": "float32",
        "FP64": "float64",
    }
)
IMAGES = "BYTES"
"""The type whose elements are encoded images here."""
# JSON has no number of 16 bits: the protocol lets these travel as binary data only.
BINARY_ONLY = frozenset({"FP16", "BF16"})
_OIP = {dtype: name for name, dtype in NUMPY.items()}
_TAGS = {dtype: tag for tag, dtype in SAFETENSORS.items()}


def from_numpy(dtype: str) -> str:
    """Return the protocol's name of one of numpy's element types."""
    return _OIP.get(dtype, IMAGES)


def safetensors_tag(datatype: str) -> str:
    """Return the name that safetensors has for one of the protocol's element types."""
    return _TAGS[NUMPY[datatype]]


def refuse_unknown(name: str, datatype: object, *, images: bool) -> str:
    """Return a datatype that is taken.

    Args:
        name: the input's name, for messages.
        datatype: what the request says.
        images: whether the recalibration takes images, for messages.

    Raises:
        BatchMalformedError: it is none; the message says what is taken.
    """
    if isinstance(datatype, str) and (datatype in NUMPY or datatype == IMAGES):
        return datatype
    accepted = [*NUMPY, IMAGES] if images else list(NUMPY)
    raise unfit(
        name, f"has the datatype {str(datatype)[:40]!r}; taken are {accepted}", accepted=accepted
    )
