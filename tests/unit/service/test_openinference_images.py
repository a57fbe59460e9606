"""Images of a request in their binary form, and the archive that is made of them."""

from __future__ import annotations

import base64
import io
import itertools
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bn_ops.errors import BatchInputError, BnOpsError
from service.errors import (
    BatchMalformedError,
    PreprocessMissingError,
    ServiceError,
    TooLargeError,
)
from service.formats import pictures, tars
from service.openinference.image_tar import ImageTar, member_header
from service.openinference.images import from_json, require_place, require_shape
from tests.support.service_oip import framed

LIMIT = 64 << 20


def blocks(
    data: bytes, images: int, cuts: list[int] | None = None, limit: int = LIMIT
) -> Iterator[bytearray]:
    """Feed data, cut at these places, and yield what comes."""
    tar = ImageTar("x", images, len(data), limit_bytes=limit)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts or []), len(data)]
    for start, stop in itertools.pairwise(places):
        yield from tar.feed(data[start:stop])
    yield tar.finish()


def archive(data: bytes, images: int, **options: Any) -> bytes:
    return b"".join(blocks(data, images, **options))


def by_tarfile(images: list[bytes]) -> bytes:
    """Write the same archive with the standard library: the oracle."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as written:
        for place, content in enumerate(images):
            entry = tarfile.TarInfo(f"{place:08}.image")
            entry.size = len(content)
            written.addfile(entry, io.BytesIO(content))
        end = written.offset
    return buffer.getvalue()[: end + 1024]  # without the filling up to a record


@given(st.integers(0, 99_999_999), st.integers(0, (8 << 30) - 1))
def test_a_members_header_is_what_tarfile_writes(place: int, size: int) -> None:
    entry = tarfile.TarInfo(f"{place:08}.image")
    entry.size = size
    assert member_header(place, size) == entry.tobuf(tarfile.USTAR_FORMAT)


@given(
    st.lists(st.binary(min_size=1, max_size=1500), min_size=1, max_size=6),
    st.lists(st.integers(0, 20_000), max_size=12),
)
def test_however_the_data_is_cut_it_gives_the_archive_that_tarfile_writes(
    images: list[bytes], cuts: list[int]
) -> None:
    assert archive(framed(*images), len(images), cuts=cuts) == by_tarfile(images)


@pytest.mark.parametrize("size", [1, 511, 512, 513, 1024, 3 << 20])
def test_the_archive_reads_as_images_in_their_order(size: int) -> None:
    sent = [bytes([place]) * size for place in range(3)]
    members = tars.members(io.BytesIO(archive(framed(*sent), 3)), limit_bytes=LIMIT)
    assert [content for _, content in pictures.images(members)] == sent


TWO = framed(b"first", b"second")
MALFORMED: dict[str, tuple[bytes, int, str]] = {
    "fewer than was said": (TWO, 3, "holds 2 images, its shape says 3"),
    "more than was said": (TWO, 1, "goes on after the 1 images of its shape"),
    "an element longer than the rest": (
        framed(b"first") + b"\7\0\0\0second",
        2,
        "the image at place 1 says that it has 7 bytes, 6 are left",
    ),
    "the largest length": (b"\xff\xff\xff\xff" + bytes(50), 1, "4294967295 bytes, 50 are left"),
    "an element without a byte": (framed(b"", b"second"), 2, "the image at place 0 has no byte"),
    "an end inside a length": (TWO + b"\1\0", 3, "the image at place 2 ends inside it"),
    "a byte behind the last": (TWO + b"\0", 2, "the image at place 2 ends inside it"),
    "an element behind the last": (framed(b"first", b"second", b""), 2, "goes on after the 2"),
    "text without lengths": (b"\xff\xd8\xff\xe0" + bytes(600), 1, "says that it has"),
}


@pytest.mark.parametrize("what", MALFORMED)
@given(cuts=st.lists(st.integers(0, 100), max_size=8))
def test_lengths_that_lie_are_refused_wherever_the_data_is_cut(what: str, cuts: list[int]) -> None:
    data, images, text = MALFORMED[what]
    with pytest.raises(BatchMalformedError, match=text) as caught:
        archive(data, images, cuts=cuts)
    assert caught.value.details["input"] == "x"


@given(st.binary(max_size=60), st.integers(1, 4), st.lists(st.integers(0, 60), max_size=6))
def test_any_bytes_come_to_the_same_end_however_they_are_cut(
    data: bytes, images: int, cuts: list[int]
) -> None:
    def end(cuts: list[int]) -> bytes | str:
        try:
            return archive(data, images, cuts=cuts)
        except (ServiceError, BnOpsError) as error:
            return str(error)

    assert end(cuts) == end([])


def test_tiny_images_never_fill_the_memory() -> None:
    """A mebibyte of one-byte images is over a hundred of archive: it comes in blocks."""
    images = 100_000
    sizes = [len(block) for block in blocks(framed(*[b"i"] * images), images, limit=1 << 30)]
    assert sum(sizes) == images * 1024 + 1024
    assert max(sizes) <= (1 << 20) + 2048


def test_an_archive_that_grows_too_large_is_refused_before_it_does() -> None:
    data = framed(bytes(3000), b"i")
    exact = len(archive(data, 2))
    assert len(archive(data, 2, limit=exact)) == exact
    with pytest.raises(TooLargeError, match="fewer images"):
        archive(data, 2, limit=exact - 1)
    with pytest.raises(TooLargeError):
        ImageTar("x", 1, 1 << 40, limit_bytes=1 << 30)  # by what it announces alone


@pytest.mark.parametrize("shape", [(1,), (100_000,), (1, 1), (7, 1)])
def test_one_axis_or_a_column_of_images_is_taken(shape: tuple[int, ...]) -> None:
    require_shape("x", shape)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((0,), "at least 1"),
        ((0, 1), "at least 1"),
        ((10**9,), "1000000000 images; a request holds at least 1 and at most 100000"),
        ((100_001,), "at most 100000"),
        ((2, 2), r"\[n\] or \[n, 1\]"),
        ((2, 0), r"\[n\] or \[n, 1\]"),
        ((2, 1, 1), r"\[n\] or \[n, 1\]"),
        ((1, 3, 224, 224), r"\[n\] or \[n, 1\]"),
    ],
)
def test_any_other_shape_is_refused(shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(BatchMalformedError, match=text):
        require_shape("x", shape)


def test_images_are_refused_where_none_are_taken() -> None:
    require_place("x", "x")
    with pytest.raises(PreprocessMissingError, match="'x' is BYTES"):
        require_place("x", None)
    with pytest.raises(BatchInputError, match=r"'y' is not an input of the model.*\['x'\]"):
        require_place("y", "x")


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5))
def test_base64_text_gives_the_binary_form(images: list[bytes]) -> None:
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
        ["AAAA", ["AAAA"]],  # a row where the shape has none
        ["AAAA", "AAA"],
        ["AAAA", "AA==AAAA"],
        ["AAAA", "AA\n=="],
        ["AAAA", "-_-_"],
        ["AAAA", "ÿØÿà"],
        ["AAAA", "\ud800"],
        ["AAAA", "data:image/png;base64,AAAA"],
    ],
)
def test_what_is_no_base64_text_is_refused(data: object) -> None:
    with pytest.raises(BatchMalformedError, match="'x'"):
        from_json("x", (2,), data)


def test_a_row_of_other_than_one_text_is_refused() -> None:
    for row in ([], ["AAAA", "AAAA"], [["AAAA"]]):
        with pytest.raises(BatchMalformedError, match="place 1"):
            from_json("x", (2, 1), [["AAAA"], row])
