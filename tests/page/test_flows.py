"""Every flow of the page in Chromium, against a real server with real workers."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from playwright.sync_api import Route, expect

from service.admin.command import main as admin
from tests.page.conftest import LAYERS, OpenPage
from tests.support.page_walk import Walk, freeze_run
from tests.support.server_process import ServerProcess

# The tests share a browser and a server.
pytestmark = pytest.mark.xdist_group("page")


def test_from_a_model_and_a_folder_to_a_downloaded_model(
    walk: Walk, model: Path, photos: Path, tmp_path: Path
) -> None:
    """The page by mouse alone, as users without a terminal work."""
    page = walk.page
    expect(walk.button("Recalibrate")).to_be_disabled()
    walk.see("Choose a model first.")
    walk.prepare(model, photos)
    walk.see("network.onnx")
    walk.see("N × 3 × 32 × 32")
    walk.see("41 images")
    walk.see("camera/notes.txt")
    walk.see("HEIC is not supported: export it as JPEG")
    expect(page.get_by_text("camera/broken.jpg")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("as the network sees it"))).to_have_count(8)
    walk.start("Camera of the north gate")
    walk.see("Camera of the north gate")
    walk.await_result()

    expect(page.locator(".verdict h2")).to_have_text(
        re.compile("Deploy|Check with labels|Do not deploy")
    )
    expect(page.get_by_role("heading", name="Before").first).to_be_visible()
    expect(page.locator(".predictions > li")).to_have_count(8)
    report = page.frame_locator("iframe[title=Report]")
    expect(report.get_by_text("how far each layer")).to_be_visible()
    expect(report.get_by_text("What to do next")).to_be_hidden()  # the page says it itself
    expect(report.get_by_text("camera/broken.jpg")).to_be_attached()
    with page.expect_download() as download:
        page.get_by_role("button", name="Model ONNX, BatchNorm folded").click()
    assert download.value.suggested_filename == "Camera-of-the-north-gate.onnx"
    saved = tmp_path / "result.onnx"
    download.value.save_as(saved)
    onnx.checker.check_model(onnx.load(saved))
    assert not [node for node in onnx.load(saved).graph.node if node.op_type.startswith("Batch")]
    for label, suffix in (("Statistics", ".safetensors"), ("Report HTML", ".html")):
        with page.expect_download() as download:
            page.get_by_role("button", name=label).click()
        assert download.value.suggested_filename.endswith(suffix)


def test_report_in_the_page_is_styled_and_runs_no_script(
    walk: Walk, model: Path, arrays: Path
) -> None:
    walk.prepare(model, arrays)
    walk.start("Report")
    walk.await_result()
    frame = walk.page.frame_locator("iframe[title=Report]")
    body = frame.locator("body")
    expect(body).to_be_visible()
    sheets = body.evaluate("element => element.ownerDocument.adoptedStyleSheets.length")
    assert sheets == 2
    expect(frame.locator("script")).to_have_count(0)
    family = body.evaluate("element => getComputedStyle(element).fontFamily")
    assert "sans" in family or "system" in family
    frame_element = walk.page.locator("iframe[title=Report]")
    assert frame_element.get_attribute("sandbox") == "allow-same-origin"
    height = frame_element.evaluate("frame => frame.offsetHeight")
    inner = body.evaluate("element => element.ownerDocument.documentElement.scrollHeight")
    assert height >= inner  # no second scroll bar


def test_preprocessing_is_chosen_by_what_the_network_sees(
    walk: Walk, model: Path, photos: Path
) -> None:
    page = walk.page
    walk.prepare(model, photos)
    with page.expect_response("**/preview?*") as answered:
        page.get_by_role("radio", name="0 to 255 levels as they are").check()
    found = answered.value.json()["preprocess"]
    assert found["scale"] == 1
    assert found["crop"] == [32, 32]
    page.get_by_role("button", name=re.compile("^Use ")).click()
    expect(page.get_by_role("radio", checked=True)).to_have_accessible_name(re.compile("closest"))
    expect(page.get_by_role("button", name=re.compile("^Use "))).to_have_count(0)
    page.get_by_role("radio", name="Another one").check()
    page.get_by_label("Preprocessing as JSON").fill("{")
    walk.button("Preview").click()
    walk.see("The preprocessing is not valid JSON.")
    page.get_by_label("Preprocessing as JSON").fill('{"resize": 40, "crop": 40}')
    walk.button("Preview").click()
    walk.see("There is no preview")
    page.get_by_label("Preprocessing as JSON").fill('{"resize": [32, 32], "std": 0.5}')
    with page.expect_response("**/preview?*") as answered:
        walk.button("Preview").click()
    assert answered.value.json()["preprocess"]["std"] == [0.5]


def test_archives_and_arrays(walk: Walk, model: Path, photos: Path, tmp_path: Path) -> None:
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for photo in sorted(photos.glob("*.jpg")):
            if photo.name != "broken.jpg":
                packed.write(photo, photo.name)
    walk.prepare(model, archive)
    walk.see("1 archive")
    walk.start("Archive")
    walk.await_result()
    walk.see("30 samples")


def test_a_large_array_is_sent_in_parts(walk: Walk, model: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.npy"
    np.save(large, np.random.default_rng(0).normal(size=(800, 3, 32, 32)).astype(np.float32))
    walk.prepare(model, large)
    with walk.page.expect_request(re.compile("/batches/1$")):
        walk.start("Large array")
    walk.await_result()
    walk.see("800 samples")


def save(folder: Path, name: str, **options: Any) -> None:
    """Save a picture in the format that its name says."""
    pixels = np.random.default_rng(len(name)).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name, **options)


def test_bmp_gif_and_tiff(walk: Walk, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    save(folder, "a.bmp")
    save(folder, "b.gif")
    save(folder, "c.tif", compression="tiff_lzw")
    save(folder, "d.tiff")
    several = [Image.new("RGB", (40, 48), color) for color in ("red", "blue")]
    save(folder, "moving.gif", save_all=True, append_images=several)
    save(folder, "pages.tif", save_all=True, append_images=several)
    for name in ("a.bmp", "b.gif", "d.tiff"):
        content = (folder / name).read_bytes()
        (folder / f"cut-{name}").write_bytes(content[: len(content) // 2])
    walk.prepare(model, folder)
    walk.see("9 images")
    walk.see("5 files skipped")
    walk.see("is animated; send each as a separate image")
    expect(walk.page.get_by_role("img", name="d.tiff as the network sees it")).to_be_visible()
    expect(walk.page.get_by_text("No preview in this browser")).to_have_count(2)
    walk.start("Scans")
    walk.await_result()
    walk.see("4 samples")
    report = walk.page.frame_locator("iframe[title=Report]")
    report.get_by_role("heading", name="Samples left out").click()
    for name, reason in (
        ("scans/moving.gif", "is animated"),
        ("scans/pages.tif", "has several pages"),
        ("scans/cut-a.bmp", "cannot be decoded"),
        ("scans/cut-b.gif", "cannot be decoded"),
        ("scans/cut-d.tiff", "cannot be decoded"),
    ):
        expect(report.locator("tr", has_text=name)).to_contain_text(reason)


def test_layers_appear_as_they_are_measured(
    open_page: OpenPage, deep_model: Path, long_stream: Path, tmp_path: Path
) -> None:
    with ServerProcess(tmp_path / "data") as server:
        walk = open_page(server.url)
        page = walk.page
        walk.prepare(deep_model, long_stream)
        count = freeze_run(server, walk.start("Live"))
        assert count < LAYERS
        chart = page.get_by_role("img", name=re.compile(f"^Drift of {count} of {LAYERS} layers"))
        expect(chart).to_be_visible()
        expect(chart.locator("rect")).to_have_count(count)
        walk.see(f"{count} of {LAYERS} layers measured")
        page.get_by_text("Show the layers").click()
        rows = page.get_by_role("list", name="Measured layers").get_by_role("listitem")
        expect(rows).to_have_count(count)
        expect(rows.first).to_contain_text(re.compile(r"stage0\.0.*\d σ"))
        page.reload()
        expect(chart.locator("rect")).to_have_count(count)
        # The run begins again, and so do the layers.
        server.kill()
        walk.see("The server does not answer")
        server.start()
        walk.await_result()


def test_choice_of_samples_is_a_phase_of_its_own(
    open_page: OpenPage, deep_model: Path, long_stream: Path, tmp_path: Path
) -> None:
    def choosing(route: Route) -> None:
        """Answer as during the choice of samples, which is over too soon to be seen."""
        found = route.fetch().json()
        found["options"]["max_samples"] = 50
        found["progress"]["phase"] = "sampling"
        found["updated"] = "2999-01-01T00:00:00Z"  # later than the events of the real run
        route.fulfill(json=found)

    with ServerProcess(tmp_path / "data") as server:
        walk = open_page(server.url)
        walk.prepare(deep_model, long_stream)
        freeze_run(server, walk.start("Chosen"))
        phases = walk.page.locator("ol.phases li")
        expect(phases.first).to_have_text("Reading the data")
        walk.page.route(re.compile(r"/v1/recalibrations/rc_[0-9a-f]+$"), choosing)
        walk.page.reload()
        expect(walk.page.get_by_role("heading", name="Choosing samples")).to_be_visible()
        expect(phases.first).to_have_text("Choosing samples")
        expect(phases.first).to_have_attribute("aria-current", "step")


def test_report_in_the_page_is_searched(walk: Walk, deep_model: Path, arrays: Path) -> None:
    page = walk.page
    walk.prepare(deep_model, arrays)
    walk.start("Search")
    walk.await_result()
    report = page.frame_locator("iframe[title=Report]")
    rows = report.locator("table.layers tbody tr:visible")
    expect(rows).to_have_count(0)
    box = page.get_by_label("Find a layer")
    box.fill("STAGE2.1")
    expect(page.get_by_text(f"5 of {LAYERS} layers")).to_be_visible()
    expect(rows).to_have_count(5)
    expect(rows.first).to_be_in_viewport()
    expect(box).to_be_in_viewport()
    box.fill("no such layer")
    expect(page.get_by_text(f"0 of {LAYERS} layers")).to_be_visible()
    box.fill("")
    expect(rows).to_have_count(0)


def choose_source(walk: Walk, folder: Path) -> None:
    with walk.page.expect_file_chooser() as chooser:
        walk.page.get_by_role("button", name="Choose a folder").last.click()
    chooser.value.set_files(folder)


def test_model_without_batchnorm_gets_its_layers_back(
    walk: Walk, folded_model: Path, photos: Path
) -> None:
    """With a reload while the source samples are sent."""
    page = walk.page
    walk.choose_model(folded_model)
    walk.see("Its BatchNorm layers are folded or missing")
    walk.choose_folder(photos)
    expect(page.get_by_text("were checked.")).to_be_visible()
    walk.see("Choose data that the model was trained on.")
    expect(walk.button("Recalibrate")).to_be_disabled()
    choose_source(walk, photos)
    page.route("**/source-batches/1", lambda route: route.abort("connectionreset"))
    walk.start("Folded")
    expect(page.get_by_role("alert")).to_contain_text("Trying again")
    page.unroute("**/source-batches/1")
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    walk.see("The upload is not complete")
    walk.choose_folder(photos)
    walk.see("41 files chosen.")
    choose_source(walk, photos)
    walk.await_result()
    walk.see("40 samples")
    report = page.frame_locator("iframe[title=Report]")
    expect(report.get_by_text("folded.onnx").first).to_be_attached()


def test_refused_model_names_the_cause(walk: Walk, tmp_path: Path) -> None:
    wrong = tmp_path / "weights.onnx"
    wrong.write_bytes(b"\x80\x04not a model")
    walk.choose_model(wrong)
    alert = walk.page.get_by_role("alert")
    expect(alert).to_contain_text("weights.onnx was not accepted")
    expect(alert).to_contain_text("ONNX")
    expect(walk.button("Choose a model")).to_be_visible()


def test_failed_upload_is_repeated_until_it_succeeds(walk: Walk, model: Path, photos: Path) -> None:
    failures = 2

    def fail(route: Route) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            route.abort("connectionreset")
        else:
            route.continue_()

    walk.prepare(model, photos)
    walk.page.route("**/batches/0", fail)
    walk.start("Bad line")
    expect(walk.page.get_by_role("alert")).to_contain_text("Trying again; nothing is lost.")
    walk.await_result()
    assert failures == 0
    walk.see("40 samples")


def test_reload_in_the_middle_of_an_upload(walk: Walk, model: Path, photos: Path) -> None:
    """What was stored is not sent again, and the run has every sample once."""
    sent: list[str] = []
    walk.prepare(model, photos)
    walk.page.route("**/batches/1", lambda route: route.abort("connectionreset"))
    walk.start("Interrupted")
    expect(walk.page.get_by_role("alert")).to_contain_text("Trying again")
    walk.page.unroute("**/batches/1")
    walk.page.on("dialog", lambda dialog: dialog.accept())
    walk.page.on("request", lambda one: sent.append(f"{one.method} {one.url.rpartition('/')[2]}"))
    walk.page.reload()
    walk.see("The upload is not complete")
    walk.see("samples are stored")
    walk.choose_folder(photos)
    walk.await_result()
    walk.see("40 samples")
    assert "PUT 1" in sent


def test_other_files_do_not_continue_an_upload(
    walk: Walk, model: Path, photos: Path, arrays: Path
) -> None:
    walk.prepare(model, photos)
    walk.page.route("**/batches/1", lambda route: route.abort("connectionreset"))
    walk.start("Other files")
    expect(walk.page.get_by_role("alert")).to_contain_text("Trying again")
    walk.page.on("dialog", lambda dialog: dialog.accept())
    walk.page.reload()
    walk.choose_files(arrays)
    walk.see("These are not the files of the interrupted upload.")


def test_upload_is_paused_and_goes_on(walk: Walk, model: Path, photos: Path) -> None:
    walk.prepare(model, photos)
    walk.page.route("**/batches/1", lambda route: route.abort("connectionreset"))
    walk.start("Paused")
    expect(walk.page.get_by_role("alert")).to_contain_text("Trying again")
    walk.button("Pause").click()
    walk.see("The upload is paused")
    walk.page.unroute("**/batches/1")
    walk.button("Go on").click()
    walk.await_result()


def test_run_that_fails_says_why_and_what_to_do(walk: Walk, model: Path, photos: Path) -> None:
    walk.prepare(model, photos)
    walk.page.get_by_role("radio", name="0 to 255 levels as they are").check()
    walk.see("The input cannot be right")
    expect(walk.button("Recalibrate")).to_be_disabled()
    # Without the page's own check: the run finds the same.
    walk.page.route(
        "**/v1/recalibrations",
        lambda route: route.continue_(
            post_data=json.dumps(
                {**json.loads(route.request.post_data or "{}"), "allow_mismatch": False}
            )
        ),
    )
    walk.start("Wrong scale")
    walk.see("The model is unchanged.")
    expect(walk.page.get_by_role("link", name="Try again with other settings")).to_be_visible()
    # It is an option of the library and the command.
    expect(walk.page.get_by_text("allow_mismatch")).to_have_count(0)


def test_list_is_searched_and_entries_are_deleted(walk: Walk, model: Path, arrays: Path) -> None:
    walk.choose_model(model)
    for name in ("Lane one", "Lane two"):
        walk.page.get_by_role("link", name="New").click()
        walk.choose_files(arrays)
        walk.start(name)
        walk.await_result()
    page = walk.page
    page.get_by_role("link", name="Recalibrations").click()
    rows = page.locator(".rows > li")
    page.get_by_label("Search by name").fill("lane")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("Lane two")  # the newest first
    page.get_by_label("Search by name").fill("lane o")
    expect(rows).to_have_count(1)
    page.get_by_role("button", name="Delete Lane one").click()
    walk.button("Keep it").click()
    expect(rows).to_have_count(1)
    page.get_by_role("button", name="Delete Lane one").click()
    walk.button("Delete").click()
    walk.see("Nothing matches")
    page.get_by_label("Search by name").fill("lane")
    page.get_by_role("link", name="Lane two").click()
    walk.await_result()
    page.go_back()
    expect(page.get_by_role("heading", name="Recalibrations")).to_be_visible()


def test_deleted_recalibration_has_a_way_out(walk: Walk) -> None:
    walk.open("#/recalibrations/rc_00000000000000000000000000000000")
    walk.see("This recalibration does not exist")
    walk.page.get_by_role("link", name="Show all recalibrations").click()
    expect(walk.page.get_by_role("heading", name="Recalibrations")).to_be_visible()


def test_server_restart_during_an_upload_and_a_run(
    open_page: OpenPage, model: Path, photos: Path, tmp_path: Path
) -> None:
    with ServerProcess(tmp_path / "data") as server:
        walk = open_page(server.url)
        walk.prepare(model, photos)
        walk.page.route("**/batches/1", lambda route: route.abort("connectionreset"))
        walk.start("Restart")
        expect(walk.page.get_by_role("alert")).to_contain_text("Trying again")
        server.kill()
        walk.page.unroute("**/batches/1")
        walk.see("The server does not answer")
        server.start()
        walk.await_result()
        walk.see("40 samples")


def create_token(data: Path, name: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert admin(["--data-dir", str(data), "--json", "tokens", "create", name]) == 0
    return str(json.loads(capsys.readouterr().out.splitlines()[-1])["token"])


def test_revoked_token_is_replaced_and_the_work_goes_on(
    open_page: OpenPage,
    model: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "data"
    first = create_token(data, "ann", capsys)
    with ServerProcess(data) as server:
        walk = open_page(server.url)
        page = walk.page
        page.get_by_role("link", name="Recalibrations").click()
        walk.sign_in("wrong")
        expect(page.get_by_role("alert")).to_contain_text("does not accept your token")
        walk.sign_in(first)
        walk.see("There are no recalibrations yet")
        page.get_by_role("link", name="New").click()
        walk.prepare(model, photos)
        walk.allow_mismatch()
        assert admin(["--data-dir", str(data), "tokens", "revoke", "ann"]) == 0
        second = create_token(data, "ann", capsys)
        # A revoked token is accepted for up to a second: the upload must reach the rejection.
        page.route("**/batches/1", lambda route: route.abort("connectionreset"))
        walk.button("Recalibrate").click()
        dialog = page.get_by_role("dialog", name="Sign in")
        expect(dialog).to_be_visible()
        page.unroute("**/batches/1")
        walk.sign_in(second)
        walk.await_result()
        walk.see("40 samples")
        with page.expect_download() as download:
            page.get_by_role("button", name="Statistics").click()
        assert download.value.path().stat().st_size
        assert page.evaluate("() => [localStorage.length, document.cookie]") == [0, ""]
        walk.button("Sign out").click()
        expect(page.get_by_role("heading", name="Recalibrate a model")).to_be_visible()
        assert page.evaluate("() => sessionStorage.length") == 0


def test_token_is_never_in_an_address(open_page: OpenPage, tmp_path: Path) -> None:
    token = "a-very-secret-token-of-the-operator"
    settings = {"tokens": hashlib.sha256(token.encode()).hexdigest()}
    with ServerProcess(tmp_path / "data", settings=settings) as server:
        walk = open_page(server.url)
        addresses: list[str] = []
        walk.page.on("request", lambda request: addresses.append(request.url))
        walk.page.get_by_role("link", name="Recalibrations").click()
        walk.sign_in(token)
        walk.see("There are no recalibrations yet")
        assert addresses
        assert not any(token in address for address in addresses)


def test_reference_lists_routes_and_tries_calls(open_page: OpenPage) -> None:
    walk = open_page()
    page = walk.page
    page.get_by_role("link", name="API").click()
    expect(page.locator(".opblock").first).to_be_visible()
    block = page.locator(".opblock", has_text="/healthz").first
    block.click()
    block.get_by_role("button", name="Execute").click()
    expect(block.locator(".responses-table.live-responses-table")).to_contain_text("200")
    expect(block.locator(".live-responses-table")).to_contain_text('"status": "ok"')


@pytest.mark.parametrize("name", ["New", "Recalibrations"])
def test_page_is_interactive_within_a_second(walk: Walk, name: str) -> None:
    """The fastest of some loads: other work on the machine only adds time."""

    def load() -> float:
        walk.page.reload()
        expect(walk.page.get_by_role("link", name=name)).to_be_visible()
        return float(
            walk.page.evaluate(
                "() => performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
            )
        )

    assert any(load() < 1000 for _ in range(5))
