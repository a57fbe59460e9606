"""Render a report with the templates of this package."""

from __future__ import annotations

import base64
import hashlib
import math
import unicodedata
from datetime import datetime
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bn_ops.diagnostics.html import numbers, summary
from bn_ops.diagnostics.html.chart import HEIGHT, drift_chart
from bn_ops.diagnostics.html.stages import stages
from bn_ops.diagnostics.report import Report

__all__ = ["REPORT_CONTENT_SECURITY_POLICY", "render_html"]

# Longest text shown of one value, in characters. The name of an ONNX node has no limit.
_MAX_TEXT = 300

# Samples that were left out: the page lists the first ones, the JSON form all.
_MAX_SKIPPED = 50

_MIN_PROBABILITY = 0.001

# Control and format characters (bidirectional overrides among them), surrogates, private use and
# unassigned code points, line and paragraph separators: with them a name can look like another one.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def _resource(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE, _SCRIPT = _resource("report.css"), _resource("report.js")

# Nothing may be loaded, framed or submitted. The one style sheet and the one script (the search
# over layers, without which the page is complete) are allowed by their digests, so that markup
# which slipped through could neither run nor restyle the page.
_PAGE_POLICY = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; "
    "base-uri 'none'; form-action 'none'"
)

# For the header of the response: a meta element cannot restrict framing. Only the server's own page
# may show the report in a frame.
REPORT_CONTENT_SECURITY_POLICY = f"{_PAGE_POLICY}; frame-ancestors 'self'"


def render_html(report: Report) -> str:
    """Render a report as an HTML document.

    Missing parts are omitted. The document can be encoded as UTF-8 whatever the names of the
    model contain.
    """
    page = _environment().get_template("report.html")
    return page.render(
        report=report,
        stages=stages(report.layers),
        height=HEIGHT,
        max_skipped=_MAX_SKIPPED,
        style=_STYLE,
        script=_SCRIPT,
        policy=_PAGE_POLICY,
    )


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
    environment.filters.update(
        duration=numbers.duration,
        factor=numbers.factor,
        moment=_moment,
        number=numbers.number,
        percent=numbers.percent,
        plural=numbers.plural,
        ppm=numbers.parts_per_million,
        probability=_probability,
        sentence=_sentence,
        sigma=numbers.sigma,
        whole=numbers.whole,
    )
    environment.globals.update(
        cards=summary.cards,
        choice_line=summary.choice_line,
        command=summary.command,
        drift_chart=drift_chart,
        enough_data=summary.enough_data,
        fold_line=summary.fold_line,
        headline=summary.headline,
        largest=numbers.largest,
        layers_line=summary.layers_line,
        predictions_line=summary.predictions_line,
        proof_line=summary.proof_line,
    )
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


def _moment(text: str) -> str:
    """Format a time in RFC 3339 form; other text as it is."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{found.day} {found:%B %Y, %H:%M} {found.tzname() or ''}".rstrip()


def _probability(value: float | None) -> str:
    if value is not None and math.isfinite(value) and value < _MIN_PROBABILITY:
        return f"< {_MIN_PROBABILITY}"
    return numbers.number(value, digits=3)


def _sentence(text: str) -> str:
    """Return a clause as a sentence."""
    whole = text[:1].upper() + text[1:]
    return whole if whole.endswith(".") else f"{whole}."
