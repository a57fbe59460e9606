"""Arrow IPC streams: each column is an input, each row a sample.

Only for a worker, and only if pyarrow is installed.

=====================  =====================================================
column                 array
=====================  =====================================================
numbers, booleans      (N,)
FixedSizeList, nested  (N, length, …), its values numbers
FixedShapeTensor       (N, *shape), without a permutation
=====================  =====================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import BatchMalformedError, BatchUnpackedTooLargeError
from service.formats.dtypes import KNOWN
from service.formats.layout import MAX_RANK
from service.formats.members import shown

Arrays = dict[str, NDArray[Any]]
# Optional in the format; without it, a truncated stream cannot be detected.
END = b"\xff\xff\xff\xff\0\0\0\0"


def read_arrow(file: IO[bytes], *, limit_bytes: int) -> Iterator[Arrays]:
    """Yield the arrays of each record batch that has rows.

    Args:
        file: seekable.
        limit_bytes: largest total size of the unpacked record batches.

    Raises:
        BatchMalformedError: not such a stream; unsupported column types, nulls or duplicated names.
        BatchUnpackedTooLargeError: the unpacked stream exceeds the limit.
    """
    _check_end(file)
    try:
        with pa.ipc.open_stream(file) as stream:
            _check_schema(stream.schema)
            held = 0
            for batch in stream:
                held += batch.nbytes
                if held > limit_bytes:
                    raise BatchUnpackedTooLargeError(
                        f"the stream unpacks to more than {limit_bytes} bytes: "
                        "send several smaller batches",
                        limit=limit_bytes,
                    )
                # Offsets and lengths are untrusted; reading them unchecked is undefined behavior.
                batch.validate(full=True)
                if batch.num_rows:
                    yield {name: _column(name, batch.column(name)) for name in batch.schema.names}
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise BatchMalformedError(
            f"the body is not a readable Arrow IPC stream ({type(error).__name__}: "
            f"{str(error)[:100]})"
        ) from error


def _check_end(file: IO[bytes]) -> None:
    size = file.seek(0, 2)
    file.seek(max(0, size - len(END)))
    if file.read() != END:
        raise BatchMalformedError(
            "the Arrow stream has no end-of-stream marker: it is truncated, or a file instead of a "
            "stream (pyarrow.ipc.new_stream)"
        )
    file.seek(0)


def _check_schema(schema: Any) -> None:
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise BatchMalformedError(f"the column {shown(name)} is duplicated in the stream")
        kind = schema.field(name).type
        if not _is_supported(kind):
            raise BatchMalformedError(
                f"the column {shown(name)} is {str(kind)[:80]}; supported are numbers, booleans, "
                "FixedSizeList of these and FixedShapeTensor",
                member=shown(name),
            )


def _is_supported(kind: Any, depth: int = 0) -> bool:
    if isinstance(kind, pa.FixedShapeTensorType):
        order = kind.permutation
        return _is_number(kind.value_type) and order in (None, list(range(len(kind.shape))))
    if pa.types.is_fixed_size_list(kind) and depth < MAX_RANK:
        return _is_supported(kind.value_type, depth + 1)
    return _is_number(kind)


def _is_number(kind: Any) -> bool:
    return (
        pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
    ) and str(np.dtype(kind.to_pandas_dtype())) in KNOWN


def _column(name: str, column: Any) -> NDArray[Any]:
    """Return a column as an array of shape (N, …) that owns its memory."""
    shape = [len(column)]
    if isinstance(column, pa.ExtensionArray):
        _refuse_nulls(name, column)
        shape += column.type.shape
        column = column.storage.flatten()
    while pa.types.is_fixed_size_list(column.type):
        _refuse_nulls(name, column)
        shape.append(column.type.list_size)
        column = column.flatten()
    _refuse_nulls(name, column)
    return np.array(column.to_numpy(zero_copy_only=False)).reshape(shape)


def _refuse_nulls(name: str, column: Any) -> None:
    if column.null_count:
        raise BatchMalformedError(
            f"the column {shown(name)} has nulls; omit these samples", member=shown(name)
        )
