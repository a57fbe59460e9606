"""Readers of batch bodies: the outcome does not depend on how the bytes are split."""

from __future__ import annotations

import contextlib
import json
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from bn_ops.core.signature import TensorInfo
from bn_ops.errors import BnOpsError
from service.errors import BatchMalformedError, ServiceError
from service.formats.body import BatchBody
from service.formats.safetensors import parse
from tests.support.service_http import npy, with_header

ANY = (TensorInfo(name="x", dtype="float32", shape=None),)
LIMIT = 1 << 20


def outcome(kind: str, chunks: list[bytes], inputs: tuple[TensorInfo, ...] = ANY) -> str:
    """Return the number of samples, or code and message of the error."""
    body = BatchBody(kind, inputs, batch=0, limit_bytes=LIMIT)
    try:
        for chunk in chunks:
            body.feed(chunk)
        body.finish()
    except (ServiceError, BnOpsError) as error:
        return f"{error.code}: {error.message}"
    return f"{body.samples} samples"


def split(content: bytes, places: list[int]) -> list[bytes]:
    bounds = sorted({0, len(content), *(place % (len(content) + 1) for place in places)})
    return [content[a:b] for a, b in pairwise(bounds)]


floats = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
)
places = st.lists(st.integers(0, 1 << 16), max_size=8)


@given(array=floats, places=places)
def test_split_of_complete_file_has_no_effect(
    array: np.ndarray[Any, Any], places: list[int]
) -> None:
    for kind, content in (("safetensors", save({"x": array})), ("npy", npy(array))):
        whole = outcome(kind, [content])
        assert outcome(kind, split(content, places)) == whole
        assert outcome(kind, [bytes([each]) for each in content]) == whole


@given(array=floats)
def test_outcome_agrees_with_numpy(array: np.ndarray[Any, Any]) -> None:
    if array.size == 0:
        expected = "batch-shape"
    elif np.isfinite(array).all():
        expected = f"{array.shape[0]} samples"
    else:
        expected = "batch-not-finite"
    for kind, content in (("safetensors", save({"x": array})), ("npy", npy(array))):
        assert outcome(kind, [content]).startswith(expected)


@given(
    array=floats,
    places=places,
    mutations=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4),
    kept=st.integers(0, 400),
)
def test_split_of_corrupt_file_has_no_effect(
    array: np.ndarray[Any, Any],
    places: list[int],
    mutations: list[tuple[int, int]],
    kept: int,
) -> None:
    for kind, content in (("safetensors", save({"x": array})), ("npy", npy(array))):
        damaged = bytearray(content)
        for place, value in mutations:
            damaged[place % len(damaged)] = value
        cropped = bytes(damaged[:kept])
        assert outcome(kind, split(cropped, places)) == outcome(kind, [cropped])


@given(header=st.binary(max_size=200))
def test_random_headers_raise_typed_error(header: bytes) -> None:
    for prefix in (b"", b"{", b'{"x":'):
        with contextlib.suppress(BatchMalformedError):
            parse(prefix + header)


NAMES = st.sampled_from(["x", "y", "__metadata__", ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["F32", "I8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I8", "F8_E4M3"]) | JSON,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 40), min_size=2, max_size=2) | JSON,
    }
)


@given(table=st.dictionaries(NAMES, ENTRIES | JSON, max_size=3))
def test_accepted_files_open_in_safetensors(table: dict[str, Any]) -> None:
    header = json.dumps(table).encode()
    try:
        layout = parse(header)
    except ServiceError:
        return
    data = bytes(sum(segment.length for segment in layout.segments))
    try:
        found = {name: value["shape"] for name, value in deserialize(with_header(header, data))}  # type: ignore[no-untyped-call]
    except SafetensorError:
        # Our reader ignores metadata; safetensors requires strings in it.
        found = None
    if found is None:
        assert "__metadata__" in table
        return
    assert found == {name: list(one.shape) for name, one in layout.headers.items()}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("chunk", [1, 3, 7, 1 << 20])
def test_single_nonfinite_value_is_found(dtype: str, bad: float, chunk: int) -> None:
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    inputs = (TensorInfo(name="x", dtype=dtype, shape=None),)
    good = np.array([0.0, -0.0, 1e-30, 3e38 if dtype != "float16" else 6e4, -1.0]).astype(kind)
    for place in range(-1, good.size):
        array = good.copy()
        if place >= 0:
            array[place] = bad
        content = save({"x": array})
        chunks = [content[at : at + chunk] for at in range(0, len(content), chunk)]
        expected = "5 samples" if place < 0 else "batch-not-finite"
        assert outcome("safetensors", chunks, inputs).startswith(expected)


def entry(begin: int, end: int, *, dtype: str = "F32", shape: object = (1,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


MALFORMED = [
    # overlapping, with a gap, reversed, not starting at zero
    {"x": entry(0, 4), "y": entry(2, 6)},
    {"x": entry(0, 4), "y": entry(8, 12)},
    {"x": entry(4, 0)},
    {"x": entry(4, 8)},
    # offsets that do not fit the shape
    {"x": entry(0, 8)},
    {"x": entry(0, 4, shape=[2])},
    # invalid sizes
    {"x": entry(0, 4, shape=[True])},
    {"x": entry(0, 4, shape=[1.0])},
    {"x": entry(0, 4, shape=[-1])},
    {"x": entry(0, 4, shape=[1 << 70, 0])},
    {"x": entry(0, 4, shape="1")},
    {"x": entry(0, 4, shape=[1] * 33)},
    {"x": entry(0, 4, shape=[1 << 60] * 400)},
    # unknown members and types
    {"x": entry(0, 4) | {"more": 1}},
    {"x": entry(0, 1, dtype="F8_E4M3")},
    {"x": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}},
    {"x": [1, 2, 3]},
    # invalid JSON, or JSON with other text
    b'{"x":1,"x":2}',
    b'{"x":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    b'{"x": NaN}',
    b'{"\\ud800": 1}',
    b"[1]",
    b' {"x": 1}',
    b"{" * 5000,
    b'{"x":' * 5000,
    b'{"x": 1' + b"0" * 5000 + b"}",
    b'{"\xff": 1}',
]


@pytest.mark.parametrize("table", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_safetensors_headers(table: object) -> None:
    for chunk in (1, 1 << 20):
        content = with_header(table, bytes(16))
        chunks = [content[at : at + chunk] for at in range(0, len(content), chunk)]
        assert outcome("safetensors", chunks).startswith("batch-malformed")


def npy_with(header: bytes, version: bytes = b"\x01\x00") -> bytes:
    width = 2 if version[0] == 1 else 4
    return b"\x93NUMPY" + version + len(header).to_bytes(width, "little") + header + bytes(16)


MALFORMED_NPY = [
    npy_with(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
    npy_with(b"{'descr': '<V2', 'fortran_order': False, 'shape': (1,)}"),
    npy_with(b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}"),
    npy_with(b"{'descr': '<f1', 'fortran_order': False, 'shape': (1,)}"),
    npy_with(b"{'descr': '<b2', 'fortran_order': False, 'shape': (1,)}"),
    npy_with(b"{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}"),
    npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"),
    npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': [1]}"),
    npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}"),
    npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'shape': (1,)}"),
    npy_with(b"{'descr': '<f4', 'fortran_order': False}"),
    npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}"),
    npy_with(b"__import__('os').system('true')"),
    npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (9**9**9,)}"),
    npy_with(b"{**{}}"),
    npy_with(b"(" * 9000),
    npy_with(b"-" * 9000 + b"1"),
    npy_with(b"{'\\d': 1}"),
    npy_with(b"\xff"),
    npy_with(b"\x00"),
    npy_with(b" " * 10_001),
    npy_with(b"{}", version=b"\x04\x00"),
    b"\x93NUMPX\x01\x00",
    b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
]


@pytest.mark.parametrize("content", MALFORMED_NPY, ids=range(len(MALFORMED_NPY)))
def test_malformed_npy_headers(content: bytes) -> None:
    assert outcome("npy", [content]).startswith("batch-malformed")
    assert outcome("npy", [bytes([each]) for each in content]).startswith("batch-malformed")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_npy_byte_orders_and_layouts(order: str, layout: Any) -> None:
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=f"{order}f4", order=layout)
    assert outcome("npy", [npy(array)]) == "2 samples"
    array[1, 2] = np.nan
    assert outcome("npy", [npy(array)]).startswith("batch-not-finite")


def test_oversized_header_is_rejected_before_data() -> None:
    shape = [LIMIT, 4]
    table = {"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, LIMIT * 16]}}
    assert outcome("safetensors", [with_header(table, b"")]).startswith("batch-malformed")
