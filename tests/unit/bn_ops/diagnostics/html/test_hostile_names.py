"""Names and texts of a model cannot become markup, hide, or fill the page."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest

from bn_ops.diagnostics.html import render_html
from tests.support.reports import Page, full_report


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "</style><style>*{display:none}</style>",
        "</td></tr></table><h1>All is well</h1>",
        '"><svg onload=alert(1)>',
        "' autofocus onfocus='alert(1)",
        "<!-- ",
        "]]><![CDATA[",
        "&lt;b&gt;",
        "javascript:alert(1)",
    ],
)
def test_text_of_model_is_escaped(hostile: str) -> None:
    harmless, attacked = render_html(full_report()), render_html(full_report(hostile, hostile))
    assert Page(attacked).elements == Page(harmless).elements
    assert Page(attacked).attributes == Page(harmless).attributes
    assert hostile in "".join(Page(attacked).text)


def _poisoned(value: Any, hostile: str) -> Any:
    """Replace every string of a tree of frozen values, past their own checks."""
    if isinstance(value, str):
        return hostile
    if isinstance(value, tuple):
        return tuple(_poisoned(item, hostile) for item in value)
    if isinstance(value, dict):
        return {key: _poisoned(item, hostile) for key, item in value.items()} | {hostile: 1.0}
    if dataclasses.is_dataclass(value):
        value = copy.copy(value)
        for field in dataclasses.fields(value):
            item = _poisoned(getattr(value, field.name), hostile)
            object.__setattr__(value, field.name, item)
    return value


def test_all_strings_are_escaped() -> None:
    hostile = "<i onclick=x>"
    page = render_html(_poisoned(full_report(), hostile))
    assert hostile not in page
    assert "onclick" not in Page(page).attributes
    assert "".join(Page(page).text).count(hostile) > 20


def test_invisible_characters() -> None:
    page = render_html(full_report("safe\u202egnp.exe\x00\u200b\ud800"))
    assert "safe\\u{202e}gnp.exe\\u{0}\\u{200b}\\u{d800}" in page
    page.encode("utf-8")


def test_long_names_are_truncated() -> None:
    page = render_html(full_report("n" * 1_000_000))
    assert len(page) < 50_000
    assert "(1,000,000 characters)" in page
