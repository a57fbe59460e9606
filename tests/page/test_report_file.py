"""The report as a file in Chromium: its policy holds, its search works, nothing is cut off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from bn_ops.diagnostics.html import render_html
from tests.support.page_walk import AXE
from tests.support.reports import full_report, many_layers

NAMES = [f"features.block{block}.layer{layer}.bn" for block in range(4) for layer in range(6)]


@pytest.fixture
def report(tmp_path: Path) -> Path:
    first = replace(full_report(), warnings=("check " + "a_very_long_name" * 20,))
    layers = (*first.layers[:1], *many_layers(NAMES))
    path = tmp_path / "report.html"
    path.write_text(render_html(replace(first, layers=layers)), encoding="utf-8")
    return path


@pytest.fixture
def faults() -> list[str]:
    return []


@pytest.fixture(params=[390, 768, 1440])
def page(
    browser: Browser, report: Path, faults: list[str], request: pytest.FixtureRequest
) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    page = context.new_page()
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(report.as_uri())
    yield page
    context.close()


def test_search_opens_the_stages_that_have_hits(page: Page, faults: list[str]) -> None:
    page.get_by_role("heading", name="Layers", exact=True).click()
    box = page.get_by_label("Find a layer")
    expect(box).to_be_visible()
    box.fill("BLOCK2.layer3")
    expect(page.get_by_role("status")).to_have_text("1 of 25 layers")
    expect(page.locator("table.layers tbody tr:visible")).to_have_count(1)
    box.fill("")
    expect(page.locator("table.layers tbody tr:visible")).to_have_count(0)
    assert faults == []


def test_nothing_is_cut_off(page: Page, faults: list[str]) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    cut = page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth"
        " + 1).map(one => one.innerText)"
    )
    assert cut == []
    assert faults == []


def test_the_first_screen_answers(browser: Browser, report: Path) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(report.as_uri())
    for text in ("Check with labels first", "Your metric", "What to do next"):
        box = page.get_by_text(text, exact=True).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < 900
    chart = page.get_by_role("img").bounding_box()
    assert chart is not None
    assert chart["y"] + chart["height"] < 900
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_by_axe(browser: Browser, report: Path, scheme: str) -> None:
    if not AXE.is_file():
        pytest.skip("NO AXE: run `make page` to install it")
    # The policy of the report allows no other script, also not one of a test.
    context = browser.new_context(
        color_scheme="dark" if scheme == "dark" else "light", bypass_csp=True
    )
    page = context.new_page()
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run().then(result => result.violations)")
    context.close()
    assert [
        (one["id"], [node["html"] for node in one["nodes"]])
        for one in found
        if one["impact"] in {"serious", "critical"}
    ] == []
