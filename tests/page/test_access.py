"""The page for everyone: keyboard, screen reader, phone, dark mode."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from service.recalibrations.schemas import RecalibrationOut
from tests.page.conftest import OpenPage
from tests.support.page_walk import AXE, Walk, freeze_run
from tests.support.server_process import ServerProcess

# The tests share a browser and a server.
pytestmark = pytest.mark.xdist_group("page")
needs_axe = pytest.mark.skipif(
    not AXE.is_file(), reason="NO AXE: accessibility is not checked; run `make check-page` first"
)
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_any_view(
    open_page: OpenPage, model: Path, photos: Path, scheme: str
) -> None:
    walk = open_page(color_scheme=scheme)
    page = walk.page
    found = {"new": walk.violations()}
    walk.prepare(model, photos)
    page.get_by_text("More options").click()
    page.get_by_text(re.compile(r"^Show \d+ layers")).click()
    found["prepared"] = walk.violations()
    page.get_by_role("radio", name="0 to 255 levels as they are").check()
    walk.see("The input cannot be right")
    found["fault"] = walk.violations()
    page.route("**/batches/1", lambda route: route.abort("connectionreset"))
    walk.start(f"Access {scheme}")
    expect(page.get_by_role("alert")).to_contain_text("Trying again")
    page.get_by_text("41 files").click()
    found["sending"] = walk.violations()
    page.unroute("**/batches/1")
    walk.await_result()
    expect(page.locator(".predictions > li").first).to_be_visible()
    expect(page.locator("iframe[title=Report]")).to_be_visible()
    found["result"] = walk.violations()
    page.get_by_role("button", name="Delete this recalibration").click()
    found["dialog"] = walk.violations()
    walk.button("Keep it").click()
    page.get_by_role("link", name="Recalibrations").click()
    expect(page.locator(".rows > li").first).to_be_visible()
    found["list"] = walk.violations()
    page.get_by_label("Search by name").fill("no such thing")
    walk.see("Nothing matches")
    found["nothing found"] = walk.violations()
    walk.open("#/recalibrations/rc_00000000000000000000000000000000")
    walk.see("does not exist")
    found["missing"] = walk.violations()
    assert {view: faults for view, faults in found.items() if faults} == {}


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_the_other_states(
    open_page: OpenPage, tmp_path: Path, scheme: str
) -> None:
    settings = {"tokens": "0" * 64}
    with ServerProcess(tmp_path / "data", settings=settings) as server:
        walk = open_page(server.url, color_scheme=scheme)
        walk.page.get_by_role("link", name="Recalibrations").click()
        expect(walk.page.get_by_role("dialog", name="Sign in")).to_be_visible()
        assert walk.violations() == []


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_during_a_run(
    open_page: OpenPage, deep_model: Path, long_stream: Path, tmp_path: Path, scheme: str
) -> None:
    with ServerProcess(tmp_path / "data") as server:
        walk = open_page(server.url, color_scheme=scheme)
        page = walk.page
        walk.prepare(deep_model, long_stream)
        freeze_run(server, walk.start("Frozen"))
        page.get_by_text("Show the layers").click()
        found = {"measuring": walk.violations()}
        server.kill()
        walk.see("The server does not answer")
        found["no answer"] = walk.violations()
        server.start()
        walk.await_result()
        page.get_by_label("Find a layer").fill("stage1")
        found["search"] = walk.violations()
        assert {view: faults for view, faults in found.items() if faults} == {}


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_after_a_failure(open_page: OpenPage, scheme: str) -> None:
    walk = open_page(color_scheme=scheme)
    (failed,) = RecalibrationOut.model_json_schema()["examples"]
    walk.page.route("**/v1/recalibrations/rc_*", lambda route: route.fulfill(json=failed))
    walk.open(f"#/recalibrations/{failed['id']}")
    walk.see("The model is unchanged.")
    walk.see("The input of layer features.4 holds NaN.")
    assert walk.violations() == []


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_where_data_is_missing(
    open_page: OpenPage, folded_model: Path, photos: Path, scheme: str
) -> None:
    walk = open_page(color_scheme=scheme)
    page = walk.page
    walk.choose_model(folded_model)
    walk.see("Its BatchNorm layers are folded or missing")
    found = {"source": walk.violations()}
    walk.choose_folder(photos)
    expect(page.get_by_text("were checked.")).to_be_visible()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a folder").last.click()
    chooser.value.set_files(photos)
    page.route("**/batches/1", lambda route: route.abort("connectionreset"))
    walk.start(f"Missing {scheme}")
    expect(page.get_by_role("alert")).to_contain_text("Trying again")
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    walk.see("The upload is not complete")
    found["resume"] = walk.violations()
    assert {view: faults for view, faults in found.items() if faults} == {}


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_the_reference(open_page: OpenPage, scheme: str) -> None:
    walk = open_page(color_scheme=scheme)
    walk.page.get_by_role("link", name="API").click()
    expect(walk.page.locator(".opblock").first).to_be_visible()
    assert walk.violations() == []


def test_by_keyboard_alone(walk: Walk, model: Path, photos: Path) -> None:
    page = walk.page

    def reach(name: str) -> None:
        """Press Tab until the control of that name has the focus."""
        for _ in range(60):
            page.keyboard.press("Tab")
            focused = page.evaluate(
                "() => { const e = document.activeElement;"
                " return e.labels?.[0]?.innerText || e.ariaLabel || e.innerText || ''; }"
            )
            if focused.strip().startswith(name):
                outline = page.evaluate(
                    "() => getComputedStyle(document.activeElement).outlineStyle"
                )
                assert outline != "none", f"the focus on {name!r} cannot be seen"
                return
        pytest.fail(f"{name!r} cannot be reached with Tab")

    reach("Skip to content")
    page.keyboard.press("Enter")
    with page.expect_file_chooser() as chooser:
        reach("Choose a model")
        page.keyboard.press("Enter")
    chooser.value.set_files(model)
    expect(page.get_by_text("BatchNorm layers", exact=True)).to_be_visible()
    with page.expect_file_chooser() as chooser:
        reach("Choose a folder")
        page.keyboard.press("Space")
    chooser.value.set_files(photos)
    expect(page.get_by_text("were checked.")).to_be_visible()
    box = page.get_by_label("Continue anyway")
    if box.is_visible():
        reach("Continue anyway")
        page.keyboard.press("Space")
    reach("Name")
    page.keyboard.type("By keyboard")
    reach("Recalibrate")
    page.keyboard.press("Enter")
    walk.await_result()
    with page.expect_download() as download:
        reach("Model")
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "By-keyboard.onnx"
    reach("Compare other samples")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Drop a few samples")).to_be_visible()


# The focused control: its name, and where it is in the page.
_FOCUSED = """() => {
  const e = document.activeElement;
  const box = (e.closest('label') ?? e).getBoundingClientRect();
  const name = e.labels?.[0]?.innerText || e.ariaLabel || e.innerText || e.tagName;
  return [name.trim(), box.top + scrollY, box.bottom + scrollY, box.left];
}"""


def test_tab_goes_through_the_page_as_it_is_read(walk: Walk, model: Path, photos: Path) -> None:
    page = walk.page
    walk.prepare(model, photos)
    page.get_by_text("More options").click()
    page.get_by_role("button", name="Skip to content").focus()
    controls: list[tuple[str, float, float, float]] = []
    for _ in range(80):
        page.keyboard.press("Tab")
        name, top, bottom, left = page.evaluate(_FOCUSED)
        controls.append((name, top, bottom, left))
        if name == "Recalibrate":
            break
    assert controls[-1][0] == "Recalibrate"
    assert len(controls) >= 12
    for one, other in pairwise(controls):
        below = other[2] > one[1]
        beside = other[1] < one[2] and other[3] >= one[3]
        assert below or beside, f"{other[0]!r} is focused after {one[0]!r}, but is above it"


def test_focus_stays_in_the_sign_in_dialog(open_page: OpenPage, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", settings={"tokens": "0" * 64}) as server:
        page = open_page(server.url).page
        page.get_by_role("link", name="Recalibrations").click()
        expect(page.get_by_label("Token")).to_be_focused()
        outside = "() => !document.activeElement.closest('dialog') && document.hasFocus()"
        for key in ("Tab", "Tab", "Shift+Tab", "Shift+Tab"):
            page.keyboard.press(key)
            name = page.evaluate("() => document.activeElement.tagName")
            assert name == "BODY" or not page.evaluate(outside)  # BODY: the browser's own controls


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_distant_domain_is_not_called_right(
    open_page: OpenPage, model: Path, photos: Path, scheme: str
) -> None:
    walk = open_page(color_scheme=scheme)

    def distant(route: Route) -> None:
        found = route.fetch().json()
        found["check"] |= {"plausible": True, "findings": [], "distance": 0.86}
        found["ranking"] = [one | {"distance": 0.86} for one in found["ranking"]]
        route.fulfill(json=found)

    walk.page.route("**/preview?*", distant)
    walk.prepare(model, photos)
    walk.see("Choose the preprocessing of the model’s training")
    expect(walk.page.get_by_text("The input looks right")).to_have_count(0)
    if AXE.is_file():
        assert walk.violations() == []


def test_focus_follows_the_view(walk: Walk) -> None:
    walk.page.get_by_role("link", name="Recalibrations").click()
    expect(walk.page.locator("main")).to_be_focused()
    expect(walk.page).to_have_title("Recalibrations · bnrecal")


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_is_wider_than_a_phone(
    open_page: OpenPage, model: Path, photos: Path, width: int
) -> None:
    walk = open_page(**(PHONE | {"viewport": {"width": width, "height": 844}}))
    page = walk.page

    def overflow() -> int:
        found = page.evaluate(
            "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return int(found)

    assert overflow() == 0
    walk.prepare(model, photos)
    page.get_by_text(re.compile(r"^Show \d+ layers")).click()
    assert overflow() == 0
    walk.start("A name of some length, as people like to give to their recalibrations " * 2)
    walk.await_result()
    expect(page.locator(".predictions > li").first).to_be_visible()
    assert overflow() == 0
    for target in page.get_by_role("button").all():
        box = target.bounding_box()
        assert box is not None
        assert box["height"] >= 40  # a finger hits it
    page.get_by_role("link", name="Recalibrations").click()
    expect(page.locator(".rows > li").first).to_be_visible()
    assert overflow() == 0
