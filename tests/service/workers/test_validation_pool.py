"""Formats that only workers read: a real worker validates a batch before its acknowledgment."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

from bn_ops import image_batches, preprocess_from_json
from service.app import create_app
from service.errors import RefusedError, WorkerDeadlineError
from service.settings import Settings
from service.workers.process_pool import ProcessExecutor
from service.workers.protocol import BatchToValidate
from tests.support import hostile_archives as hostile
from tests.support.picture import encoded, picture, vast
from tests.support.service_http import Api, safetensors
from tests.support.service_loop import serving
from tests.support.service_process import images, network

NPZ = {"Content-Type": "application/x-npz"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        data_dir=tmp_path_factory.mktemp("data"), worker_threads=1, batch_limit_bytes=32 << 20
    )


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[Api]:
    with serving(create_app(settings)) as http:
        yield Api(http)


def stored(settings: Settings, name: str) -> list[Path]:
    return list((settings.data_dir / "recalibrations" / name / "batches").glob("*"))


def validators() -> list[psutil.Process]:
    return psutil.Process().children()


def test_npz_and_safetensors_agree(api: Api) -> None:
    results = []
    for kind in ("npz", "safetensors"):
        name = api.open(network())
        for index in range(2):
            x = images(index, samples=3 + index)
            if kind == "npz":
                response = api.put(name, index, hostile.npz(packed=index == 1, x=x), NPZ)
                assert (response.status_code, response.json()["samples"]) == (201, 3 + index)
            else:
                api.put(name, index, safetensors(x=x))
        api.start(name, 2)
        assert api.wait(name)["state"] == "succeeded"
        results.append([api.get(name, what).content for what in ("/model", "/statistics")])
    assert results[0] == results[1]


def test_arrow_and_safetensors_agree(api: Api) -> None:
    results = []
    for kind in ("arrow", "safetensors"):
        name = api.open(network())
        x = images(5, samples=6)
        if kind == "arrow":
            batch = pa.record_batch([pa.FixedShapeTensorArray.from_numpy_ndarray(x)], names=["x"])
            sink = io.BytesIO()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            headers = {"Content-Type": "application/vnd.apache.arrow.stream"}
            response = api.put(name, 0, sink.getvalue(), headers)
            assert (response.status_code, response.json()["samples"]) == (201, 6)
        else:
            api.put(name, 0, safetensors(x=x))
        api.start(name, 1)
        assert api.wait(name)["state"] == "succeeded"
        results.append([api.get(name, what).content for what in ("/model", "/statistics")])
    assert results[0] == results[1]


NAN = images(0, samples=2)
NAN[1, 0, 0, 0] = np.nan
REFUSED = {
    "garbage": (b"PK\x03\x04 garbage", 422, "batch-malformed"),
    "nan": (hostile.npz(x=NAN), 422, "batch-not-finite"),
    "wrong type": (hostile.npz(x=images(0).astype(np.float64)), 422, "batch-dtype"),
    "wrong shape": (hostile.npz(x=images(0, size=9)), 422, "batch-shape"),
    "wrong name": (hostile.npz(y=images(0)), 422, "batch-input"),
    "bomb": (
        hostile.npz(packed=True, x=np.zeros((4096, 1, 64, 64), np.float32)),
        413,
        "batch-unpacked-too-large",
    ),
    "pickle": (
        hostile.npz(x=np.array([{}], dtype=object)),
        422,
        "batch-malformed",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_invalid_npz_is_rejected(api: Api, settings: Settings, what: str) -> None:
    content, status, code = REFUSED[what]
    name = api.open(network())
    response = api.put(name, 7, content, NPZ)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert api.get(name).json()["batches"]["received"] == 0
    assert stored(settings, name) == []
    # The same worker validates the next batch.
    assert api.put(name, 7, hostile.npz(x=images(1)), NPZ).status_code == 201


PREPROCESS = {"resize": 8, "crop": 8, "color": "gray"}
PNG = encoded(picture(40, 30))
ARCHIVE = hostile.tarred({f"{n}.png": PNG for n in range(3)})
IMAGES: dict[str, tuple[str, bytes, int, str | int]] = {
    "PNG": ("image/png", PNG, 201, 1),
    "JPEG": ("image/jpeg", encoded(picture(), "JPEG"), 201, 1),
    "WebP": ("image/webp", encoded(picture(), "WEBP"), 201, 1),
    "BMP": ("image/bmp", encoded(picture(), "BMP"), 201, 1),
    "GIF": ("image/gif", encoded(picture(), "GIF"), 201, 1),
    "TIFF": ("image/tiff", encoded(picture(), "TIFF", compression="tiff_lzw"), 201, 1),
    "truncated BMP": ("image/bmp", encoded(picture(), "BMP")[:-300], 422, "image-invalid"),
    "truncated GIF": ("image/gif", encoded(picture(), "GIF")[:-300], 422, "image-invalid"),
    "truncated TIFF": ("image/tiff", encoded(picture(), "TIFF")[:-300], 422, "image-invalid"),
    "BMP that says it is a TIFF": ("image/tiff", encoded(picture(), "BMP"), 422, "image-invalid"),
    "all formats in a tar": (
        "application/x-tar",
        hostile.tarred({f"1.{kind}": encoded(picture(), kind) for kind in ("bmp", "gif", "tiff")}),
        201,
        3,
    ),
    "tar": ("application/x-tar", ARCHIVE, 201, 3),
    "zip": ("application/zip", hostile.zipped({"a.png": PNG, "b.txt": b""}), 201, 1),
    "truncated JPEG": ("image/jpeg", encoded(picture(), "JPEG")[:400], 422, "image-invalid"),
    "PNG of too many pixels": ("image/png", vast(), 422, "image-invalid"),
    "image of one line": (
        "image/png",
        encoded(np.zeros((1, 2_000_000, 3), np.uint8)),
        422,
        "image-invalid",
    ),
    "truncated tar": ("application/x-tar", ARCHIVE[:-9000], 422, "batch-malformed"),
    "symlink in a zip": (
        "application/zip",
        hostile.zip_link("a.png", "/etc/passwd"),
        422,
        "batch-malformed",
    ),
}


@pytest.mark.parametrize("what", IMAGES)
def test_images_are_validated_at_upload(
    api: Api, settings: Settings, image_run: str, what: str
) -> None:
    kind, content, status, expected = IMAGES[what]
    index = list(IMAGES).index(what)
    before = api.get(image_run).json()["batches"]["received"]
    response = api.put(image_run, index, content, {"Content-Type": kind})
    answer = response.json()
    assert response.status_code == status, answer
    assert answer["samples" if status == 201 else "code"] == expected
    grown = api.get(image_run).json()["batches"]["received"] - before
    assert grown == (1 if status == 201 else 0)
    assert len(stored(settings, image_run)) == before + grown


@pytest.fixture(scope="module")
def image_run(api: Api) -> str:
    return api.open(network(), preprocess=PREPROCESS)


def test_image_run_matches_preprocessed_arrays(api: Api) -> None:
    sources = [encoded(picture(30 + n, 20, n)) for n in range(5)]
    (arrays,) = image_batches(sources, preprocess_from_json(PREPROCESS))
    names = [api.open(network(), preprocess=PREPROCESS), api.open(network())]
    members = {f"{n}.png": content for n, content in enumerate(sources)}
    api.put(names[0], 0, hostile.tarred(members), {"Content-Type": "application/x-tar"})
    api.put(names[1], 0, safetensors(x=arrays))
    for name in names:
        api.start(name, 1)
        assert api.wait(name)["state"] == "succeeded"
    results = [[api.get(n, what).content for what in ("/model", "/statistics")] for n in names]
    assert results[0] == results[1]


def test_images_need_preprocess_option(api: Api) -> None:
    name = api.open(network())
    response = api.put(name, 0, PNG, {"Content-Type": "image/png"})
    assert (response.status_code, response.json()["code"]) == (422, "preprocess-missing")


def test_preprocess_option_is_validated(api: Api, image_run: str) -> None:
    stored = api.get(image_run).json()["options"]["preprocess"]
    assert preprocess_from_json(stored) == preprocess_from_json(PREPROCESS)
    assert stored["resize"] == {"size": 8, "interpolation": "bilinear", "antialias": True}
    model = api.upload_model(network()).json()["id"]
    for wrong in ({"crop": 9, "color": "gray"}, {"crop": 8}, {"kropp": 8}):
        asked = {"model": model, "preprocess": wrong}
        response = api.http.post("/v1/recalibrations", json=asked)
        assert (response.status_code, response.json()["code"]) == (422, "option-invalid")


def test_digest_mismatch_is_rejected(api: Api, settings: Settings) -> None:
    name = api.open(network())
    headers = NPZ | {"Content-Digest": f"sha-256=:{'A' * 43}=:"}
    response = api.put(name, 0, hostile.npz(x=images(0)), headers)
    assert response.json()["code"] == "digest-mismatch"
    assert stored(settings, name) == []


def test_number_of_workers_is_limited(api: Api, settings: Settings) -> None:
    names = [api.open(network()) for _ in range(3)]

    def send(place: int) -> int:
        content = hostile.npz(x=images(place))
        return api.put(names[place % 3], place // 3, content, NPZ).status_code

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(send, range(12))) == {201}
    assert 1 <= len(validators()) <= settings.validation_workers


def test_dead_worker_is_replaced(api: Api) -> None:
    name = api.open(network())
    assert api.put(name, 0, hostile.npz(x=images(0)), NPZ).status_code == 201
    for process in validators():
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
    assert api.put(name, 1, hostile.npz(x=images(1)), NPZ).status_code == 201


def _check(file: Path, kind: str = "npz") -> BatchToValidate:
    shape = ["N", 1, 8, 8]
    inputs = [{"name": "x", "dtype": "float32", "shape": shape}]
    return BatchToValidate(
        recalibration_id="rc", inputs=inputs, options={}, file=file, format=kind, batch=3
    )


def test_validation_timeout_kills_worker(tmp_path: Path) -> None:
    # A FIFO that is held open never ends: the read blocks until the timeout.
    file = tmp_path / "fifo"
    os.mkfifo(file)
    held = os.open(file, os.O_RDWR)

    async def work() -> None:
        executor = ProcessExecutor(Settings(validation_timeout_seconds=1.5, data_dir=tmp_path))
        with pytest.raises(WorkerDeadlineError, match=r"1\.5 seconds"):
            await executor.validate(_check(file, "npy"))
        await executor.close()

    before = {one.pid for one in validators()}
    try:
        asyncio.run(work())
    finally:
        os.close(held)
    assert {one.pid for one in validators()} <= before


def test_close_ends_workers(tmp_path: Path) -> None:
    file = tmp_path / "batch.npz"
    file.write_bytes(hostile.npz(x=images(0)))
    before = {one.pid for one in validators()}

    async def work() -> None:
        executor = ProcessExecutor(Settings(data_dir=tmp_path))
        assert await executor.validate(_check(file)) == 8
        file.write_bytes(hostile.npz(x=NAN))
        with pytest.raises(RefusedError, match="batch 3") as caught:
            await executor.validate(_check(file))
        assert caught.value.refusal == "batch-not-finite"
        assert len({one.pid for one in validators()} - before) == 1
        await executor.close()

    asyncio.run(work())
    assert {one.pid for one in validators()} <= before
    assert [path.name for path in tmp_path.iterdir()] == ["batch.npz"]
