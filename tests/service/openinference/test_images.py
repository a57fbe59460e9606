"""Images of a request in binary form: validation, storage and reading."""

from __future__ import annotations

import base64
import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bn_ops.errors import BatchInputError, BnOpsError
from service.errors import BatchMalformedError, PreprocessMissingError, ServiceError
from service.formats.image_sequence import ImageSequenceScan, read_image_sequence
from service.openinference.request import from_json, require_place, require_shape
from tests.support.service_oip import framed


def scan(data: bytes, images: int, cuts: list[int] | None = None) -> None:
    """Scan data that is split at these positions."""
    found = ImageSequenceScan("x", images, len(data))
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts or []), len(data)]
    for start, stop in itertools.pairwise(places):
        found.feed(data[start:stop])
    found.finish()


@given(
    st.lists(st.binary(min_size=1, max_size=1500), min_size=1, max_size=6),
    st.lists(st.integers(0, 20_000), max_size=12),
)
def test_sequence_round_trip(images: list[bytes], cuts: list[int]) -> None:
    data = framed(*images)
    scan(data, len(images), cuts)
    assert [content for _, content in read_image_sequence(io.BytesIO(data))] == images


@pytest.mark.parametrize(
    "data", [b"\1", b"\2\0\0\0i", b"\xff\xff\xff\xff" + bytes(50), framed(b"first") + b"\0\0"]
)
def test_truncated_sequence_is_rejected(data: bytes) -> None:
    with pytest.raises(BatchMalformedError, match="incomplete"):
        list(read_image_sequence(io.BytesIO(data)))


TWO = framed(b"first", b"second")
MALFORMED: dict[str, tuple[bytes, int, str]] = {
    "fewer than announced": (TWO, 3, "holds 2 images, its shape says 3"),
    "more than announced": (TWO, 1, "continues after the 1 images of its shape"),
    "an element longer than the rest": (
        framed(b"first") + b"\7\0\0\0second",
        2,
        "the image at index 1 has a length of 7 bytes, 6 are left",
    ),
    "the largest length": (b"\xff\xff\xff\xff" + bytes(50), 1, "4294967295 bytes, 50 are left"),
    "an empty element": (framed(b"", b"second"), 2, "the image at index 0 is empty"),
    "a truncated length": (TWO + b"\1\0", 3, "the image at index 2 is incomplete"),
    "a byte after the last image": (TWO + b"\0", 2, "the image at index 2 is incomplete"),
    "an element after the last": (framed(b"first", b"second", b""), 2, "continues after the 2"),
    "text without lengths": (b"\xff\xd8\xff\xe0" + bytes(600), 1, "has a length of"),
}


@pytest.mark.parametrize("what", MALFORMED)
@given(cuts=st.lists(st.integers(0, 100), max_size=8))
def test_invalid_lengths_are_rejected(what: str, cuts: list[int]) -> None:
    data, images, text = MALFORMED[what]
    with pytest.raises(BatchMalformedError, match=text) as caught:
        scan(data, images, cuts)
    assert caught.value.details["input"] == "x"


@given(st.binary(max_size=60), st.integers(1, 4), st.lists(st.integers(0, 60), max_size=6))
def test_result_is_independent_of_splits(data: bytes, images: int, cuts: list[int]) -> None:
    def end(cuts: list[int]) -> str:
        try:
            scan(data, images, cuts)
        except (ServiceError, BnOpsError) as error:
            return str(error)
        return "accepted"

    assert end(cuts) == end([])


@pytest.mark.parametrize("shape", [(1,), (100_000,), (1, 1), (7, 1)])
def test_valid_shapes(shape: tuple[int, ...]) -> None:
    require_shape("x", shape)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((0,), "at least 1"),
        ((0, 1), "at least 1"),
        ((10**9,), "1000000000 images; a request has at least 1 and at most 100000"),
        ((100_001,), "at most 100000"),
        ((2, 2), r"\[n\] or \[n, 1\]"),
        ((2, 0), r"\[n\] or \[n, 1\]"),
        ((2, 1, 1), r"\[n\] or \[n, 1\]"),
        ((1, 3, 224, 224), r"\[n\] or \[n, 1\]"),
    ],
)
def test_invalid_shape_is_rejected(shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(BatchMalformedError, match=text):
        require_shape("x", shape)


def test_images_need_an_image_input() -> None:
    require_place("x", "x")
    with pytest.raises(PreprocessMissingError, match="'x' has the datatype BYTES"):
        require_place("x", None)
    with pytest.raises(BatchInputError, match=r"'y' is not an input of the model.*\['x'\]"):
        require_place("y", "x")


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5))
def test_base64_gives_binary_form(images: list[bytes]) -> None:
    texts = [base64.b64encode(one).decode() for one in images]
    count = len(images)
    assert from_json("x", (count,), texts) == framed(*images)
    assert from_json("x", (count, 1), texts) == framed(*images)
    assert from_json("x", (count, 1), [[one] for one in texts]) == framed(*images)


@pytest.mark.parametrize(
    "data",
    [
        None,
        "AAAA",
        {"b64": "AAAA"},
        ["AAAA"],  # one of two
        ["AAAA", "AAAA", "AAAA"],
        ["AAAA", ""],
        ["AAAA", None],
        ["AAAA", 7],
        ["AAAA", {"b64": "AAAA"}],
        ["AAAA", ["AAAA"]],  # a row, although the shape has one axis
        ["AAAA", "AAA"],
        ["AAAA", "AA==AAAA"],
        ["AAAA", "AA\n=="],
        ["AAAA", "-_-_"],
        ["AAAA", "ÿØÿà"],
        ["AAAA", "\ud800"],
        ["AAAA", "data:image/png;base64,AAAA"],
    ],
)
def test_invalid_base64_is_rejected(data: object) -> None:
    with pytest.raises(BatchMalformedError, match="'x'"):
        from_json("x", (2,), data)


def test_rows_have_one_string() -> None:
    for row in ([], ["AAAA", "AAAA"], [["AAAA"]]):
        with pytest.raises(BatchMalformedError, match="index 1"):
            from_json("x", (2, 1), [["AAAA"], row])
