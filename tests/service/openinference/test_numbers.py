from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.errors import BatchMalformedError
from service.openinference.datatypes import NUMPY, from_numpy, safetensors_tag, to_bytes
from service.openinference.request import parse, safetensors_header

INTEGERS = [name for name in NUMPY if "INT" in name]


@pytest.mark.parametrize("datatype", [*INTEGERS, "FP32", "FP64", "BOOL"])
@pytest.mark.parametrize("flat", [True, False])
def test_json_values_are_exact(datatype: str, *, flat: bool) -> None:
    random = np.random.default_rng(0)
    if datatype in INTEGERS:
        bounds = np.iinfo(NUMPY[datatype])
        array = random.integers(bounds.min, bounds.max, (4, 3), NUMPY[datatype], endpoint=True)
        array[0, 0], array[0, 1] = bounds.min, bounds.max
    else:
        array = (random.normal(size=(4, 3)) * 1e3).astype(NUMPY[datatype])
    data = array.ravel().tolist() if flat else array.tolist()
    assert to_bytes("x", datatype, (4, 3), data) == array.tobytes()


@pytest.mark.parametrize("datatype", INTEGERS)
def test_integer_overflow_is_rejected(datatype: str) -> None:
    bounds = np.iinfo(NUMPY[datatype])
    for value in (int(bounds.max) + 1, int(bounds.min) - 1, 0.5, 1.0, True, None, "1"):
        with pytest.raises(BatchMalformedError, match="'x'"):
            to_bytes("x", datatype, (1,), [value])


@pytest.mark.parametrize(("given", "byte"), [(True, 1), (False, 0), (1, 1), (0, 0)])
def test_boolean_values(given: Any, byte: int) -> None:
    assert to_bytes("x", "BOOL", (1,), [given]) == bytes([byte])


@pytest.mark.parametrize("given", [2, -1, 0.0, "true"])
def test_invalid_boolean_is_rejected(given: Any) -> None:
    with pytest.raises(BatchMalformedError, match="not a boolean"):
        to_bytes("x", "BOOL", (1,), [given])


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_16_bit_floats_must_be_binary(datatype: str) -> None:
    with pytest.raises(BatchMalformedError, match="binary"):
        to_bytes("x", datatype, (1,), [1.0])
    text = (
        f'{{"inputs": [{{"name": "x", "datatype": "{datatype}", "shape": [2, 2],'
        ' "parameters": {"binary_data_size": 8}}]}'
    )
    request = parse(text.encode(), image_input=None)
    assert request.binary_length == 8
    assert f'"dtype": "{safetensors_tag(datatype)}"'.encode() in safetensors_header(request)


def test_datatype_round_trip() -> None:
    assert [from_numpy(dtype) for dtype in NUMPY.values()] == list(NUMPY)
    assert from_numpy("str") == "BYTES"
