"""Every parser that meets a stranger's bytes, as a function of bytes that may only refuse."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from bn_ops.errors import BnOpsError
from bn_ops.estimators import estimator_from_json
from bn_ops.signature import TensorInfo
from service.errors import ServiceError
from service.formats.body import BatchBody
from service.http import accept, digests
from service.http.pages import read_cursor
from service.worker.spec import Spec

_INPUTS = (TensorInfo(name="x", dtype="float32", shape=("N", 3)),)
_PIECES = (1, 7, 64, 1 << 20)


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def _batch(kind: str) -> Callable[[bytes], None]:
    """Read a body whole and in pieces: both must come to the same end."""

    def parse(data: bytes) -> None:
        assert len({_outcome(kind, data, size) for size in _PIECES}) == 1

    return parse


def _outcome(kind: str, data: bytes, size: int) -> str:
    body = BatchBody(kind, _INPUTS, batch=0, limit_bytes=1 << 20)
    try:
        for start in range(0, len(data), size):
            body.feed(data[start : start + size])
        body.finish()
    except (ServiceError, BnOpsError) as error:
        return type(error).__name__
    return f"{body.samples} samples"


def _estimator(data: bytes) -> None:
    value: Any = json.loads(data)
    if isinstance(value, dict):
        estimator_from_json(value)


PARSERS: Mapping[str, Callable[[bytes], object]] = {
    "safetensors": _batch("safetensors"),
    "npy": _batch("npy"),
    "digest": lambda data: digests.read(_text(data)),
    "accept": lambda data: accept.prefers_html(_text(data)),
    "cursor": lambda data: read_cursor(_text(data), start=0),
    "estimator": _estimator,
    "spec": Spec.from_line,
}
# Seeds from which mutations start; anything else would die at the first byte.
SEEDS: Mapping[str, tuple[bytes, ...]] = {
    "safetensors": (
        b'\x3c\0\0\0\0\0\0\0{"x":{"dtype":"F32","shape":[1,3],"data_offsets":[0,12]}}  '
        + bytes(12),
    ),
    "npy": (
        b"\x93NUMPY\x01\x00\x3b\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3)}  "
        + bytes(12),
    ),
    "digest": (b"sha-256=:" + b"A" * 43 + b"=:, md5=:AA==:;q=1",),
    "accept": (b"text/html;q=0.9, application/json;q=nan, */*;q=1e400",),
    "cursor": (b"12", b"\xb2"),
    "estimator": (b'{"name": "prior", "samples": 16, "mixture": true}', b'{"name": "momentum"}'),
    "spec": (b'{"kind": "probe", "parent": 1, "output": "/", "limits": {}}',),
}
# The worker's line comes from the server alone: there it is enough not to hang or run anything.
_REFUSALS: Mapping[str, tuple[type[Exception], ...]] = {
    "estimator": (ValueError, RecursionError),
    "spec": (ValueError, TypeError, KeyError, RecursionError, AttributeError),
}


def try_one(name: str, data: bytes) -> None:
    """Parse; whatever is no refusal is raised, and is a fault."""
    refusals = (ServiceError, BnOpsError, *_REFUSALS.get(name, ()))
    with contextlib.suppress(*refusals):
        PARSERS[name](data)
