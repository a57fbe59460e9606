"""Untrusted batch bodies for a model with the input `x`, float32, (N, 3, 4, 4)."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.support.hostile_models import HTML
from tests.support.service_http import SAFETENSORS, npy, safetensors, with_header

NPY, NPZ = "application/x-npy", "application/x-npz"
CODES = frozenset(
    {
        *("batch-malformed", "batch-input", "batch-dtype", "batch-shape", "batch-not-finite"),
        *("batch-invalid", "batch-unpacked-too-large", "too-large", "media-type-unsupported"),
        "resource-limit",
    }
)
GOOD = np.ones((1, 3, 4, 4), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostileBatch:
    """A body with a content type, which must be rejected."""

    name: str
    kind: str
    content: bytes
    encoding: str | None = None


def _entry(shape: list[Any], begin: int = 0, end: int | None = None, dtype: str = "F32") -> Any:
    stop = GOOD.nbytes if end is None else end
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, stop]}


def _tensors(data: bytes = GOOD.tobytes(), **entries: Any) -> bytes:
    return with_header(entries, data)


def _value(value: float, place: int) -> bytes:
    array = GOOD.copy()
    array.flat[place] = value
    return safetensors(x=array)


def _npy_header(text: str, data: bytes = b"", version: int = 1) -> bytes:
    header = text.encode("utf-8", "surrogateescape")
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


def _shape(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"
    return _npy_header(text, GOOD.tobytes())


def _npz(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def _linked() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo("x.npy")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    return buffer.getvalue()


def _safetensors() -> Iterator[tuple[str, bytes]]:
    shape = list(GOOD.shape)
    right = json.dumps(_entry(shape))
    yield "nothing", b""
    yield "header of 2**63 bytes", struct.pack("<Q", 1 << 63) + b"{}"
    yield "header of a gigabyte", struct.pack("<Q", 1 << 30) + b"{}"
    yield "header that ends early", struct.pack("<Q", 200) + b"{"
    yield "header that is not JSON", with_header(b"{x}", b"")
    yield "header of brackets", with_header(b'{"x":' + b"[" * 100_000, b"")
    yield "header of a number", with_header(b"1e999", b"")
    yield "header with NaN", with_header(b'{"x": NaN}', b"")
    yield "header that is not UTF-8", with_header(b'{"\xff\xfe": 1}', b"")
    yield "header with a lone surrogate", with_header(b'{"\\ud800": ' + right.encode() + b"}", b"")
    yield "key twice", with_header(f'{{"x": {right}, "x": {right}}}'.encode(), GOOD.tobytes())
    yield "inner key twice", with_header(b'{"x": {"dtype":"F32","dtype":"F64"}}', GOOD.tobytes())
    yield "offsets that overlap", _tensors(x=_entry(shape), y=_entry(shape, 0, GOOD.nbytes))
    yield "offsets with a gap", _tensors(x=_entry(shape, 8, GOOD.nbytes + 8))
    yield "offsets that are negative", _tensors(x=_entry(shape, -8, GOOD.nbytes - 8))
    yield "offsets of 2**70", _tensors(x=_entry(shape, 1 << 70, (1 << 70) + GOOD.nbytes))
    yield "size that is negative", _tensors(x=_entry([-1, 3, 4, 4]))
    yield "size that is a float", _tensors(x=_entry([1.0, 3, 4, 4]))
    yield "size that is true", _tensors(x=_entry([True, 3, 4, 4]))
    yield "sizes whose product overflows", _tensors(x=_entry([1 << 62, 3, 4, 4]))
    yield "shape of 2**50 samples", _tensors(x=_entry([1 << 50, 3, 4, 4], 0, 192 << 50))
    yield "no sample", _tensors(b"", x=_entry([0, 3, 4, 4], 0, 0))
    yield "ten thousand axes", _tensors(x=_entry([1] * 10_000, 0, 4))
    yield "unknown element type", _tensors(x=_entry(shape, dtype="F128"))
    yield "type that is a list", _tensors(x={**_entry(shape), "dtype": ["F32"]})
    yield "unknown member", _tensors(x={**_entry(shape), "code": "import os"})
    yield "name of HTML", _tensors(**{HTML: _entry(shape)})
    yield "name of control characters", _tensors(**{"\x00\x1b[2J\r\n": _entry(shape)})
    yield "name that is a path", _tensors(**{"../../x": _entry(shape)})
    yield "data that ends early", safetensors(x=GOOD)[:-1]
    yield "trailing data", safetensors(x=GOOD) + b"\0"
    yield "first value NaN", _value(float("nan"), 0)
    yield "last value infinite", _value(float("-inf"), -1)
    yield "a pickle", pickle.dumps([1])
    yield "a page", b"<!doctype html><script>alert(1)</script>"


def _numpy() -> Iterator[tuple[str, bytes]]:
    yield "npy of objects", npy(np.ones((1, 3, 4, 4), np.float32))[:-192] + b"x"
    yield "npy with a pickle", _shape("(1,)", "'|O'") + pickle.dumps([1])
    yield "npy with code for a shape", _shape("__import__('os').system('touch /tmp/x')")
    yield "npy with code for a type", _shape("(1, 3, 4, 4)", "exit()")
    yield "npy with a structured type", _shape("(1, 3, 4, 4)", "[('a', '<f4')]")
    yield "npy of brackets", _npy_header("{'shape': " + "(" * 5000)
    yield "npy of signs", _npy_header("{'shape': " + "-" * 9000 + "1}")
    yield "npy of negative size", _shape("(-1, 3, 4, 4)")
    yield "npy of true", _shape("(True, 3, 4, 4)")
    yield "npy of 2**62", _shape(f"({1 << 62}, 3, 4, 4)")
    yield "npy with a header of 4 GiB", b"\x93NUMPY\x02\x00" + b"\xff" * 4
    yield "npy of version 9", b"\x93NUMPY\x09\x00" + bytes(100)
    yield "npy with a NUL", _npy_header("{'descr\0': 1}")
    yield "npy with NaN", npy(np.full((1, 3, 4, 4), np.nan, np.float32))


def _archives() -> Iterator[tuple[str, bytes]]:
    yield "npz with a path outside", _npz(("../../x.npy", npy(GOOD)))
    yield "npz at an absolute path", _npz(("/x.npy", npy(GOOD)))
    yield "npz of a link", _linked()
    yield "npz bomb", _npz(("x.npy", _shape("(2000000, 3, 4, 4)") + bytes(1 << 24)))
    yield "npz with a pickle", _npz(("x.npy", _shape("(1,)", "'|O'") + pickle.dumps([1])))
    yield "npz of another file", _npz(("x.sh", b"#!/bin/sh"))
    yield "npz that is not a zip file", b"PK\x03\x04" + bytes(60)
    yield "npz with NaN", _npz(("x.npy", npy(np.full((1, 3, 4, 4), np.nan, np.float32))))


def _cases() -> Iterator[HostileBatch]:
    for kind, cases in ((SAFETENSORS, _safetensors()), (NPY, _numpy()), (NPZ, _archives())):
        for name, content in cases:
            yield HostileBatch(name=name, kind=kind, content=content)
    good = safetensors(x=GOOD)
    for kind in ("application/x-python-pickle", "text/html", "", "application/zip\x00"):
        yield HostileBatch(name=f"type {kind!r}", kind=kind, content=good)
    yield HostileBatch(name="gzip", kind=SAFETENSORS, content=good, encoding="gzip")


BATCHES = tuple(_cases())
