"""Reading archives of images, without a worker process."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bn_ops import Preprocess
from bn_ops.core.signature import TensorInfo
from bn_ops.errors import BnOpsError, ImageError
from service.errors import BatchMalformedError, BatchUnpackedTooLargeError, ServiceError
from service.workers.child.read_batches import BatchReader
from service.workers.child.validate import count
from tests.support import hostile_archives as hostile
from tests.support.picture import encoded, picture

READER = BatchReader(
    inputs=(TensorInfo(name="x", dtype="float32", shape=("N", 3, None, None)),),
    limit_bytes=1 << 20,
    preprocess=Preprocess(),
)
PNG = encoded(picture(8, 8))
Write = Callable[..., bytes]
BOTH = pytest.mark.parametrize(
    ("kind", "write"), [("zip", hostile.zipped), ("tar", hostile.tarred)]
)


def read(content: bytes, kind: str) -> list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    return [arrays["x"] for arrays in READER.read(io.BytesIO(content), kind, batch=3)]


@BOTH
def test_images_are_read_in_archive_order(kind: str, write: Write) -> None:
    pictures = [picture(8, 8, seed) for seed in range(4)]
    names = ["b/2.png", "a/1.jpg", "c.PNG", "a/0.webp"]
    found = read(write({n: encoded(p) for n, p in zip(names, pictures, strict=True)}), kind)
    expected = np.stack([one.transpose(2, 0, 1) / 255 for one in pictures])
    # One rounding to float32.
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-7)


@BOTH
def test_other_files_are_skipped(kind: str, write: Write) -> None:
    shard = {
        "000.cls": b"3",
        "000.jpg": PNG,
        "000.json": b"{}",
        "__MACOSX/._000.jpg": b"not an image",
        ".hidden.png": b"not an image",
        "001.jpg": PNG,
        "readme": b"",
    }
    assert sum(one.shape[0] for one in read(write(shard), kind)) == 2


@BOTH
def test_folders_are_skipped(kind: str, write: Write) -> None:
    content = write({"a/": b"", "a/0.png": PNG}) if kind == "zip" else _tar_with_folder()
    assert len(read(content, kind)) == 1


def _tar_with_folder() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folder = tarfile.TarInfo("./a")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        entry = tarfile.TarInfo("./a/0.png")
        entry.size = len(PNG)
        archive.addfile(entry, io.BytesIO(PNG))
    return buffer.getvalue()


def test_long_names_and_pax_headers() -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            entry = tarfile.TarInfo("folder/" * 30 + "ä.png")
            entry.size = len(PNG)
            archive.addfile(entry, io.BytesIO(PNG))
        assert len(read(buffer.getvalue(), "tar")) == 1


@BOTH
def test_error_names_image_and_batch(kind: str, write: Write) -> None:
    content = write({"good.png": PNG, "bad.png": PNG[:60]})
    with pytest.raises(ImageError, match=r"batch 3, image 'bad\.png'") as caught:
        read(content, kind)
    assert caught.value.details() == {"batch": 3, "image": "bad.png"}


def _twice() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for _ in range(2):
            entry = tarfile.TarInfo("a.png")
            entry.size = len(PNG)
            archive.addfile(entry, io.BytesIO(PNG))
    return buffer.getvalue()


def _damaged_header() -> bytes:
    """Damage the header of the second member, which tarfile treats as the end of the archive."""
    content = bytearray(hostile.tarred({"a.png": PNG, "b.png": PNG}))
    content[content.find(b"b.png") + 100] ^= 0xFF
    return bytes(content)


def _wrong_size() -> bytes:
    buffer = io.BytesIO()
    entry = tarfile.TarInfo("a.png")
    entry.size = 500_000
    buffer.write(entry.tobuf())
    buffer.write(PNG)
    return buffer.getvalue()


def _gzipped() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    return buffer.getvalue()


TAR = hostile.tarred({"a.png": PNG})
MALFORMED = {
    "empty": ("tar", b""),
    "zeros": ("tar", bytes(10_240)),
    "garbage": ("tar", b"garbage" * 300),
    "gzip": ("tar", _gzipped()),
    "truncated member": ("tar", TAR[:600]),
    "missing end marker": ("tar", TAR[: 512 + -(-len(PNG) // 512) * 512]),
    "damaged header": ("tar", _damaged_header()),
    "wrong size": ("tar", _wrong_size()),
    "a symbolic link": ("tar", hostile.tar_entry("a.png", tarfile.SYMTYPE, "/etc/passwd")),
    "a hard link": ("tar", hostile.tar_entry("a.png", tarfile.LNKTYPE, "b.png")),
    "a device": ("tar", hostile.tar_entry("a.png", tarfile.CHRTYPE)),
    "a fifo": ("tar", hostile.tar_entry("a.png", tarfile.FIFOTYPE)),
    "a sparse file": ("tar", hostile.tar_entry("a.png", tarfile.GNUTYPE_SPARSE)),
    "duplicate name": ("tar", _twice()),
    "parent folder in a name": ("tar", hostile.tarred({"../a.png": PNG})),
    "absolute name": ("tar", hostile.tarred({"/a.png": PNG})),
    "nested archive": ("tar", hostile.tarred({"a.png": PNG, "b.tar": TAR})),
    "without an image": ("tar", hostile.tarred({"a.txt": b"text"})),
    "a zip without an image": ("zip", hostile.npz(x=picture(4, 4))),
    "symlink in a zip": ("zip", hostile.zip_link("a.png", "/etc/passwd")),
    "tar sent as zip": ("zip", TAR),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_invalid_archive_is_rejected(what: str) -> None:
    kind, content = MALFORMED[what]
    with pytest.raises(BatchMalformedError):
        read(content, kind)


@BOTH
def test_unpacked_size_is_limited(kind: str, write: Write) -> None:
    with pytest.raises(BatchUnpackedTooLargeError, match="1048576 bytes"):
        read(write({f"{n}.bin": bytes(200_000) for n in range(6)}), kind)


@pytest.mark.parametrize(("kind", "content"), [("jpeg", PNG), ("png", encoded(picture(), "JPEG"))])
def test_image_of_wrong_type_is_rejected(kind: str, content: bytes) -> None:
    with pytest.raises(ImageError):
        read(content, kind)


@pytest.mark.parametrize(
    ("kind", "content"), [("tar", TAR), ("zip", hostile.zipped({"a.png": PNG}))]
)
@given(noise=st.binary(min_size=1, max_size=30), place=st.integers(0, 1500))
def test_random_damage(kind: str, content: bytes, noise: bytes, place: int) -> None:
    changed = bytearray(content)
    changed[place : place + len(noise)] = noise
    # Any other exception fails the test.
    with contextlib.suppress(ServiceError, BnOpsError):
        assert count(io.BytesIO(bytes(changed)), kind, READER, batch=0) == 1
