"""The element types of the protocol, and their names in numpy and safetensors.

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
"""The type whose elements are encoded images in this server."""
# The protocol allows these as binary data only.
BINARY_ONLY = frozenset({"FP16", "BF16"})
_OIP = {dtype: name for name, dtype in NUMPY.items()}
_TAGS = {dtype: tag for tag, dtype in SAFETENSORS.items()}


def from_numpy(dtype: str) -> str:
    """Return the protocol's name of a numpy element type."""
    return _OIP.get(dtype, IMAGES)


def safetensors_tag(datatype: str) -> str:
    """Return the safetensors name of an element type of the protocol."""
    return _TAGS[NUMPY[datatype]]


def require_known(name: str, datatype: object, *, images: bool) -> str:
    """Return a supported datatype.

    Args:
        name: the input's name, for messages.
        datatype: the value in the request.
        images: whether the recalibration takes images, for messages.

    Raises:
        BatchMalformedError: the datatype is unknown; the message lists the supported ones.
    """
    if isinstance(datatype, str) and (datatype in NUMPY or datatype == IMAGES):
        return datatype
    accepted = [*NUMPY, IMAGES] if images else list(NUMPY)
    raise unfit(
        name,
        f"has the datatype {str(datatype)[:40]!r}; supported are {accepted}",
        accepted=accepted,
    )
