"""A server, Chromium, and models and photographs for the tests of the page."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

import bn_ops
from tests.support.networks import GraphBuilder, residual_network
from tests.support.page_walk import Walk
from tests.support.server_process import ServerProcess

CHROMIUM = shutil.which("chromium")
# Its background requests would look for hosts that a test machine does not reach.
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SIZE = 32


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return Chromium. Until it is closed, this thread has a running event loop."""
    if CHROMIUM is None:
        pytest.skip("NO BROWSER: the page is not tested; install Chromium (Debian: chromium)")
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Return a server without tokens, which the tests share."""
    with ServerProcess(tmp_path_factory.mktemp("page") / "data") as server:
        yield server


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a small network for images."""
    network = residual_network()
    shape = network.graph.input[0].type.tensor_type.shape
    shape.dim[2].dim_value = shape.dim[3].dim_value = SIZE
    path = tmp_path_factory.mktemp("model") / "network.onnx"
    onnx.save(network, path)
    return path


def photo(rng: np.random.Generator) -> bytes:
    pixels = np.kron(rng.integers(0, 256, (5, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 40 photographs, one of them broken, and files that are no images."""
    rng = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("photos") / "camera"
    (folder / "more").mkdir(parents=True)
    for number in range(40):
        (folder / ("more" if number % 4 == 0 else "") / f"{number:02}.jpg").write_bytes(photo(rng))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff not a photograph")
    (folder / "notes.txt").write_text("taken in the rain")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    return folder


LAYERS = 20


@pytest.fixture(scope="session")
def deep_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a network of `LAYERS` BatchNorm layers, one after another."""
    g = GraphBuilder()
    y = "x"
    for layer in range(LAYERS):
        y = g.op(
            "Relu", g.bn(g.conv(y, 3 if layer == 0 else 8, 8), 8, f"stage{layer // 5}.{layer}")
        )
    pooled = g.op("Flatten", g.op("GlobalAveragePool", y))
    y = g.op("Gemm", pooled, g.weight(10, 8), g.weight(10), transB=1)
    path = tmp_path_factory.mktemp("deep") / "deep.onnx"
    onnx.save(g.model([("x", ["N", 3, SIZE, SIZE])], [y]), path)
    return path


@pytest.fixture(scope="session")
def folded_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of the network for images after its BatchNorm was folded."""
    path = tmp_path_factory.mktemp("folded") / "folded.onnx"
    onnx.save(bn_ops.fold(onnx.load(model)).model, path)
    return path


@pytest.fixture(scope="session")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("arrays") / "samples.npy"
    np.save(path, np.random.default_rng(5).normal(size=(60, 3, SIZE, SIZE)).astype(np.float32))
    return path


@pytest.fixture(scope="session")
def long_stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of samples that a run needs some seconds for."""
    path = tmp_path_factory.mktemp("stream") / "stream.npy"
    np.save(path, np.random.default_rng(0).normal(size=(3000, 3, SIZE, SIZE)).astype(np.float32))
    return path


OpenPage = Callable[..., Walk]


@pytest.fixture
def open_page(browser: Browser, server: ServerProcess) -> Iterator[OpenPage]:
    """Open the page in a fresh context; a test fails if the page has reported an error."""
    opened: list[Walk] = []

    def start(url: str | None = None, **context: object) -> Walk:
        found = browser.new_context(accept_downloads=True, **context)  # type: ignore[arg-type]
        page: Page = found.new_page()
        walk = Walk(page, url or server.url)
        opened.append(walk)
        walk.open()
        return walk

    yield start
    for walk in opened:
        walk.page.context.close()
    for walk in opened:
        walk.require_no_faults()


@pytest.fixture
def walk(open_page: OpenPage) -> Walk:
    return open_page()
