"""Encoded images as inferences: a real worker validates them before the acknowledgment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.app import create_app
from service.settings import Settings
from tests.support import hostile_archives as hostile
from tests.support.picture import encoded, picture, vast
from tests.support.service_http import Api, scratch_files
from tests.support.service_loop import serving
from tests.support.service_oip import (
    as_binary,
    framed,
    images_ahead,
    images_in_json,
    infer,
    infer_binary,
    values,
)
from tests.support.service_process import images, network

PREPROCESS = {"resize": 8, "crop": 8, "color": "gray"}
TAR = {"Content-Type": "application/x-tar"}
SENT = [
    encoded(picture(40, 30, 1)),
    encoded(picture(30, 30, 2), "JPEG"),
    encoded(picture(20, 50, 3), "WEBP", lossless=True),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        worker_threads=1,
        batch_limit_bytes=4 << 20,
        infer_json_limit_bytes=1 << 20,
    )


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[Api]:
    with serving(create_app(settings)) as http:
        yield Api(http)


@pytest.fixture(scope="module")
def name(api: Api) -> str:
    """Return a recalibration for requests that are rejected."""
    return api.open(network(), preprocess=PREPROCESS)


def send(api: Api, name: str, *sent: bytes, **members: Any) -> httpx.Response:
    head = {"inputs": [images_ahead("x", *sent)], **members}
    return infer_binary(api, name, head, framed(*sent))


def stored(settings: Settings, name: str) -> list[Path]:
    return list((settings.data_dir / f"recalibrations/{name}/batches").glob("*"))


def is_empty(api: Api, settings: Settings, name: str) -> bool:
    return (
        api.get(name).json()["batches"]["received"] == 0
        and stored(settings, name) == []
        and [one for one in scratch_files(settings.data_dir) if one.is_file()] == []
    )


def results(api: Api, name: str, batches: int) -> list[bytes]:
    assert api.start(name, batches).status_code == 202
    assert api.wait(name)["state"] == "succeeded"
    return [api.get(name, what).content for what in ("/model", "/statistics")]


def test_images_and_archive_give_same_results(api: Api) -> None:
    pictures = [encoded(picture(30 + n, 20, n)) for n in range(7)]
    groups = [pictures[:3], pictures[3:4], pictures[4:]]
    fed, put = (api.open(network(), preprocess=PREPROCESS) for _ in range(2))
    for index, group in enumerate(groups):
        found = values(send(api, fed, *group))
        assert found == {"batch_index": index, "samples": len(group), "new": True}
        archive = hostile.tarred({f"{n}.png": one for n, one in enumerate(group)})
        assert api.put(put, index, archive, TAR).status_code == 201
    assert results(api, fed, 3) == results(api, put, 3)


def test_images_are_stored_unchanged(api: Api, settings: Settings) -> None:
    name = api.open(network(), preprocess=PREPROCESS)
    assert values(send(api, name, *SENT)) == {"batch_index": 0, "samples": 3, "new": True}
    (file,) = stored(settings, name)
    assert file.suffix == ".images"
    assert file.read_bytes() == framed(*SENT)
    (listed,) = api.get(name, "/batches").json()["items"]
    assert (listed["samples"], listed["bytes"]) == (3, file.stat().st_size)


def test_all_encodings_give_same_batch(api: Api) -> None:
    name = api.open(network(), preprocess=PREPROCESS)
    flat = images_in_json("x", *SENT)
    column = flat | {"shape": [3, 1]}
    nested = column | {"data": [[one] for one in flat["data"]]}
    ahead = images_ahead("x", *SENT) | {"shape": [3, 1]}
    for place, one in enumerate((flat, column, nested)):
        assert values(infer(api, name, one))["batch_index"] == place
    assert values(infer_binary(api, name, {"inputs": [ahead]}, framed(*SENT)))["batch_index"] == 3
    assert len({one["sha256"] for one in api.get(name, "/batches").json()["items"]}) == 1


def test_repeated_id_counts_once(api: Api) -> None:
    name = api.open(network(), preprocess=PREPROCESS)
    first = values(send(api, name, *SENT, id="same"))
    again = values(send(api, name, *SENT, id="same"))
    in_json = values(infer(api, name, images_in_json("x", *SENT), id="same"))
    other = values(send(api, name, *SENT[::-1], id="same"))
    assert [one["new"] for one in (first, again, in_json, other)] == [True, False, False, True]
    assert [one["batch_index"] for one in (first, again, in_json, other)] == [0, 0, 0, 1]
    assert values(send(api, name, *SENT))["new"] is True
    assert api.start(name, 3).status_code == 202
    # After sealing, a replay is answered and a new batch is rejected.
    assert values(send(api, name, *SENT, id="same"))["new"] is False
    assert send(api, name, SENT[0], id="same").json()["code"] == "recalibration-not-open"


def test_arrays_and_images_can_be_mixed(api: Api) -> None:
    name, x = api.open(network(), preprocess=PREPROCESS), images(0)
    found = infer_binary(api, name, {"inputs": [as_binary("x", x)]}, x.tobytes())
    assert values(found)["samples"] == 8
    assert values(send(api, name, *SENT))["batch_index"] == 1


def test_metadata_has_a_bytes_input(api: Api, name: str) -> None:
    metadata = api.http.get(f"/v2/models/{name}").json()
    assert metadata["inputs"] == [{"name": "x", "datatype": "BYTES", "shape": [-1]}]
    config = api.http.get(f"/v2/models/{name}/config").json()
    assert config["input"] == [{"name": "x", "data_type": "TYPE_STRING", "dims": [-1]}]


def test_images_need_preprocess_option(api: Api, settings: Settings) -> None:
    name = api.open(network())
    unreadable = images_in_json("x") | {"shape": [2, 2], "data": ["no", "base64", 7, None]}
    for response in (send(api, name, *SENT), infer(api, name, unreadable)):
        assert (response.status_code, response.json()["code"]) == (422, "preprocess-missing")
    assert is_empty(api, settings, name)


PNG = SENT[0]
X = images_ahead("x", PNG)
REFUSED: dict[str, tuple[dict[str, Any], bytes, str]] = {
    "an element longer than the rest": (X, b"\xff\xff\xff\xff" + PNG, "batch-malformed"),
    "an element shorter than the rest": (X, b"\1\0\0\0" + PNG, "batch-malformed"),
    "an empty element": (X, bytes(4) + PNG, "batch-malformed"),
    "bytes after the data": (X, framed(PNG) + b"\0", "batch-malformed"),
    "truncated data": (X, framed(PNG)[:-1], "batch-malformed"),
    "nothing": (X, b"", "batch-malformed"),
    "a wrong count": (X | {"shape": [2]}, framed(PNG), "batch-malformed"),
    "a huge count": (X | {"shape": [10**9]}, framed(PNG), "batch-malformed"),
    "a count of zero": (X | {"shape": [0]}, framed(PNG), "batch-malformed"),
    "a shape of pixels": (X | {"shape": [1, 3, 8, 8]}, framed(PNG), "batch-malformed"),
    "no announced size": (X | {"parameters": {}}, framed(PNG), "batch-malformed"),
    "a boolean size": (X | {"parameters": {"binary_data_size": True}}, b"", "batch-malformed"),
    "a negative size": (X | {"parameters": {"binary_data_size": -5}}, b"", "batch-malformed"),
    "an unknown input": (X | {"name": "y"}, framed(PNG), "batch-input"),
    "a lone surrogate as the name": (X | {"name": "\ud800"}, framed(PNG), "batch-input"),
    "text": (images_ahead("x", b"text"), framed(b"text"), "image-invalid"),
    "a truncated image": (images_ahead("x", PNG[:99]), framed(PNG[:99]), "image-invalid"),
    "an image of too many pixels": (images_ahead("x", vast()), framed(vast()), "image-invalid"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_malformed_images_leave_nothing(api: Api, settings: Settings, name: str, what: str) -> None:
    head, data, code = REFUSED[what]
    response = infer_binary(api, name, {"inputs": [head]}, data)
    found = response.json()
    assert (response.status_code, found["code"]) == (422, code), found
    assert found["error"] == found["detail"] != ""
    assert is_empty(api, settings, name)


def test_error_names_the_bad_image(api: Api, name: str) -> None:
    found = send(api, name, PNG, PNG[:60], PNG).json()
    assert (found["code"], found["image"]) == ("image-invalid", "1")
    found = infer_binary(api, name, {"inputs": [X | {"shape": [2]}]}, framed(PNG)).json()
    assert "holds 1 images, its shape says 2" in found["detail"]


def test_images_exclude_other_inputs(api: Api, name: str) -> None:
    mask = as_binary("mask", np.zeros((1, 3), np.float32))
    response = infer_binary(api, name, {"inputs": [X, mask]}, framed(PNG) + bytes(12))
    assert (response.status_code, response.json()["code"]) == (422, "batch-input")


def test_oversized_images_are_rejected(api: Api, settings: Settings, name: str) -> None:
    large = X | {"parameters": {"binary_data_size": (4 << 20) + 1}}
    long = bytes(900_000)  # 1.2 MB of base64
    for response in (
        infer_binary(api, name, {"inputs": [large]}, framed(PNG)),
        infer(api, name, images_in_json("x", long)),
    ):
        assert (response.status_code, response.json()["code"]) == (413, "too-large")
    assert is_empty(api, settings, name)
