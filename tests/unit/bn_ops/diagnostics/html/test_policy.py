"""The page loads nothing, and its policy allows only its own style sheet and script."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from bn_ops.diagnostics.html import REPORT_CONTENT_SECURITY_POLICY, render_html
from tests.support.reports import Page, full_report


def test_page_loads_nothing() -> None:
    page = render_html(full_report())
    assert not Page(page).elements & {"link", "img", "iframe", "object", "form", "a"}
    assert not Page(page).attributes & {"src", "href", "style", "action", "srcset"}
    assert not [name for name in Page(page).attributes if name.startswith("on")]
    assert "url(" not in page
    assert "@import" not in page
    assert "http" not in re.sub(r'http-equiv="', "", page)


@pytest.mark.parametrize("element", ["style", "script"])
def test_policy_allows_only_our_own(element: str) -> None:
    page = render_html(full_report())
    [content] = re.findall(
        rf"<{element}(?: type=\"module\")?>(.*?)</{element}>", page, flags=re.DOTALL
    )
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    allowed = f"{element}-src 'sha256-{digest}'"
    assert allowed in REPORT_CONTENT_SECURITY_POLICY
    assert allowed in page.partition("</head>")[0]


def test_policy_is_strict() -> None:
    assert REPORT_CONTENT_SECURITY_POLICY.startswith("default-src 'none';")
    assert "unsafe" not in REPORT_CONTENT_SECURITY_POLICY
    assert "frame-ancestors 'self'" in REPORT_CONTENT_SECURITY_POLICY
