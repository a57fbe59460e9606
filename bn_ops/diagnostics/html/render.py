"""Render a report with the templates of this package."""

from __future__ import annotations

import base64
import hashlib
import math
import unicodedata
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bn_ops.diagnostics.report import Report

__all__ = ["REPORT_CONTENT_SECURITY_POLICY", "render_html"]

# Longest text shown of one value, in characters. The name of an ONNX node has no limit.
_MAX_TEXT = 300

# exp of more overflows a float; such a ratio comes from a channel that had no variance.
_MAX_LOG = 700.0

# Control and format characters (bidirectional overrides among them), surrogates, private use and
# unassigned code points, line and paragraph separators: with them a name can look like another one.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

_STYLE = files(__package__).joinpath("templates", "report.css").read_text("utf-8")
_STYLE_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

# Nothing may be loaded, run, framed or submitted; the one style sheet is allowed by its digest, so
# that markup which slipped through could not even restyle the page.
_PAGE_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; base-uri 'none'; form-action 'none'"
)

# For the header of the response: a meta element cannot forbid framing.
REPORT_CONTENT_SECURITY_POLICY = f"{_PAGE_POLICY}; frame-ancestors 'none'"


def render_html(report: Report) -> str:
    """Render a report as an HTML document.

    Missing parts are omitted. The document can be encoded as UTF-8 whatever the names of the
    model contain.
    """
    page = _environment().get_template("report.html")
    return page.render(report=report, style=_STYLE, policy=_PAGE_POLICY)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__ or ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(short=_short, whole=_whole, factor=_factor, percent=_percent)
    environment.globals.update(largest=_largest)
    return environment


def _visible(value: object) -> object:
    r"""Return text of bounded length with invisible characters as escapes such as `\u{202e}`.

    Applied to every value of the templates before it is escaped. `Markup` is the output of our own
    macros and is unchanged.
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    text = "".join(
        f"\\u{{{ord(char):x}}}" if unicodedata.category(char) in _INVISIBLE else char
        for char in value[:_MAX_TEXT]
    )
    return text if len(value) <= _MAX_TEXT else f"{text}… ({len(value):,} characters)"


def _short(value: float | None) -> str:
    """Format a number with three significant digits, None and non-finite numbers as a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3g}"


def _factor(log_ratio: float) -> str:
    """Format |ln ratio| as a factor of at least 1."""
    return f"×{math.exp(min(log_ratio, _MAX_LOG)):.3g}"


def _whole(value: int | None) -> str:
    """Format a count with separators, None as a dash."""
    return "–" if value is None else f"{value:,}"


def _percent(share: float) -> str:
    """Format a share with one decimal."""
    return f"{100 * share:.1f} %"


def _largest(values: Iterable[float | None]) -> float:
    """Return the largest finite value, or 0."""
    return max((v for v in values if v is not None and math.isfinite(v)), default=0.0)
