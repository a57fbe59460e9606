"""The parsers of untrusted bytes, as functions that accept or reject their input."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bn_ops.core.estimators import estimator_from_json
from bn_ops.core.signature import TensorInfo
from bn_ops.errors import BnOpsError
from service.errors import ServiceError
from service.formats import tars, zips
from service.formats.body import BatchBody
from service.formats.image_sequence import ImageSequenceScan, read_image_sequence
from service.formats.npy import read_npz
from service.oneshot.form import FormReader
from service.openinference.request import parse, safetensors_header
from service.settings import Settings
from service.web import content_digest as digests
from service.web.media_types import prefers_html
from service.web.parameters import read_cursor
from service.workers.messages import WorkerTask
from tests.support.service_oip import framed

_INPUTS = (TensorInfo(name="x", dtype="float32", shape=("N", 3)),)
_LIMIT = 1 << 20
_SETTINGS = Settings(data_dir=Path("unused"))
_PIECES = (1, 7, 64, 1 << 20)


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def _batch(kind: str) -> Callable[[bytes], None]:
    """Parse a body in pieces of several sizes; all must give the same outcome."""

    def parse(data: bytes) -> None:
        assert len({_outcome(kind, data, size) for size in _PIECES}) == 1

    return parse


def _outcome(kind: str, data: bytes, size: int) -> str:
    body = BatchBody(kind, _INPUTS, batch=0, limit_bytes=_LIMIT)
    try:
        for start in range(0, len(data), size):
            body.feed(data[start : start + size])
        body.finish()
    except (ServiceError, BnOpsError) as error:
        return type(error).__name__
    return f"{body.samples} samples"


def _zip(data: bytes) -> None:
    for member in zips.members(io.BytesIO(data), limit_bytes=_LIMIT):
        member.read()


def _tar(data: bytes) -> None:
    for member in tars.members(io.BytesIO(data), limit_bytes=_LIMIT):
        member.read()


def _infer(data: bytes) -> None:
    request = parse(data, image_input="x")
    if request.images is None:
        safetensors_header(request)


def _images(data: bytes) -> None:
    """Check images whole and in pieces: the result is the same, and valid ones can be read."""
    (result,) = {_scan(data, size) for size in _PIECES}
    if result is None:
        found = read_image_sequence(io.BytesIO(data))
        assert b"".join(framed(content) for _, content in found) == data


def _scan(data: bytes, size: int) -> str | None:
    scan = ImageSequenceScan("x", 2, len(data))
    try:
        for start in range(0, len(data), size):
            scan.feed(data[start : start + size])
        scan.finish()
    except ServiceError as error:
        return str(error)
    return None


class _NullDraft:
    """A draft that discards its data."""

    path = Path("/dev/null")

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert len(data) <= _LIMIT

    def commit(self, key: str) -> None:
        raise AssertionError(key)

    def discard(self) -> None:
        pass


def _form(data: bytes) -> None:
    """Parse a form in pieces of several sizes; all must give the same outcome."""
    assert len({_form_outcome(data, size) for size in _PIECES}) == 1


def _form_outcome(data: bytes, size: int) -> str:
    form = FormReader("multipart/form-data; boundary=b", _SETTINGS, _NullDraft)
    try:
        for start in range(0, len(data), size):
            form.feed(bytearray(data[start : start + size]))
        form.finish()
    except ServiceError as error:
        return type(error).__name__
    return f"{len(form.data)} files, {form.data[0].size} bytes"


def _estimator(data: bytes) -> None:
    value: Any = json.loads(data)
    if isinstance(value, dict):
        estimator_from_json(value)


PARSERS: Mapping[str, Callable[[bytes], object]] = {
    "safetensors": _batch("safetensors"),
    "npy": _batch("npy"),
    "digest": lambda data: digests.read(_text(data)),
    "accept": lambda data: prefers_html(_text(data)),
    "cursor": lambda data: read_cursor(_text(data), start=0),
    "estimator": _estimator,
    "spec": WorkerTask.from_line,
    "zip": _zip,
    "npz": lambda data: read_npz(io.BytesIO(data), ("x",), limit_bytes=_LIMIT),
    "tar": _tar,
    "form": _form,
    "infer": _infer,
    "images": _images,
}


def _zipped(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def _tarred(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()[:2048]


_NPY = (
    b"\x93NUMPY\x01\x00\x3b\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3)}  "
    + bytes(12)
)
# Seeds for mutations; random bytes alone would be rejected at the first byte.
SEEDS: Mapping[str, tuple[bytes, ...]] = {
    "safetensors": (
        b'\x3c\0\0\0\0\0\0\0{"x":{"dtype":"F32","shape":[1,3],"data_offsets":[0,12]}}  '
        + bytes(12),
    ),
    "npy": (_NPY,),
    "digest": (b"sha-256=:" + b"A" * 43 + b"=:, md5=:AA==:;q=1",),
    "accept": (b"text/html;q=0.9, application/json;q=nan, */*;q=1e400",),
    "cursor": (b"12", b"\xb2"),
    "estimator": (b'{"name": "prior", "samples": 16, "mixture": true}', b'{"name": "momentum"}'),
    "spec": (b'{"kind": "probe", "parent": 1, "output": "/", "limits": {}}',),
    "zip": (_zipped("a/b.png", b"picture"), _zipped("", b"no name")),
    "npz": (_zipped("x.npy", _NPY),),
    "tar": (_tarred("a/b.png", b"picture"), _tarred("\N{EURO SIGN}" * 60, b"long name")),
    "form": (
        (
            b"--b\r\nContent-Disposition: form-data; name=model; filename=m\r\n\r\nx\r\n"
            b'--b\r\nContent-Disposition: form-data; name="options"\r\n\r\n{}\r\n'
            b"--b\r\nContent-Disposition: form-data; name=data; filename=d\r\nContent-Type: a/b\r\n"
            b"\r\nxyz\r\n--b--\r\n"
        ),
    ),
    "infer": (
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3.5]}]}',
        (
            b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3],'
            b' "parameters": {"binary_data_size": 12}}], "parameters": {}}'
        ),
        (
            b'{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [2, 1],'
            b' "data": [["AA=="], "AAAA"]}]}'
        ),
        (
            b'{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [2],'
            b' "parameters": {"binary_data_size": 12}}]}'
        ),
    ),
    "images": (
        framed(b"first") + framed(b"second"),
        framed(bytes(512)) + b"\xff\xff\xff\xff" + bytes(9),
    ),
}
# Only the server writes the worker's line: there it is enough not to hang or execute anything.
_EXPECTED_ERRORS: Mapping[str, tuple[type[Exception], ...]] = {
    "estimator": (ValueError, RecursionError),
    "spec": (ValueError, TypeError, KeyError, RecursionError, AttributeError),
}


def run_parser(name: str, data: bytes) -> None:
    """Run a parser and suppress its expected errors; any other error is a fault."""
    expected = (ServiceError, BnOpsError, *_EXPECTED_ERRORS.get(name, ()))
    with contextlib.suppress(*expected):
        PARSERS[name](data)
