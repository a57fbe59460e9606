"""The page as a whole: summary, warnings, parity, time and digests around the layer sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bn_ops.diagnostics.html._activations import activations_section, evaluation_section
from bn_ops.diagnostics.html._evidence import (
    parity_section,
    predictions_section,
    stream_section,
)
from bn_ops.diagnostics.html._fields import (
    Fields,
    cut,
    fields,
    items,
    number,
    short,
    strings,
    text,
    whole,
)
from bn_ops.diagnostics.html._layers import drift_section, folding_section, guards_section
from bn_ops.diagnostics.html._markup import Markup, join, tag
from bn_ops.diagnostics.html._parts import bar, card, section, table
from bn_ops.diagnostics.html._style import REPORT_CONTENT_SECURITY_POLICY, REPORT_STYLE

__all__ = ["render_html"]

_TITLE = "BatchNorm recalibration report"


def render_html(report: Mapping[str, object]) -> str:
    """Render the JSON form of a report as an HTML document.

    Args:
        report: what `Report.to_json()` returns, version 1. Parts that are absent or null are left
            out, so a report without fold and parity renders too.

    Returns:
        The whole document; it can be encoded as UTF-8 whatever the names hold.
    """
    body = join(
        [
            tag("h1", _TITLE),
            tag("p", _options(report), class_="note"),
            _summary(report),
            _warnings(report),
            evaluation_section(report),
            drift_section(report),
            activations_section(report),
            guards_section(report),
            folding_section(report),
            parity_section(report),
            predictions_section(report),
            stream_section(report),
            _timings(report),
            _frozen(report),
        ]
    )
    # A meta element cannot forbid framing; the header of the response can.
    policy = REPORT_CONTENT_SECURITY_POLICY.replace("; frame-ancestors 'none'", "")
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_TITLE}</title><style>{REPORT_STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


def _options(report: Fields) -> str:
    estimator = fields(report, "estimator")
    given = [f"{cut(key)} {text(estimator, key)}" for key in estimator if key != "name"]
    patterns = strings(report, "layers_selected")
    parts = [
        f"bnrecal {text(report, 'bnrecal')}",
        f"method {text(report, 'method')}",
        f"estimator {text(estimator, 'name')}" + (f" ({', '.join(given)})" if given else ""),
        f"engine {text(report, 'engine')}",
        f"layers {', '.join(patterns)}" if patterns else "all layers",
    ]
    return " · ".join(parts)


def _summary(report: Fields) -> Markup:
    stream, frozen = fields(report, "stream"), fields(report, "frozen")
    layers = items(report, "layers")
    done = [layer for layer in layers if layer.get("status") == "recalibrated"]
    seconds = [number(value) or 0.0 for value in fields(report, "timings").values()]
    held = frozen.get("unchanged") is True
    tensors = len(fields(frozen, "tensors"))
    return tag(
        "dl",
        card("Recalibrated", f"{len(done)} of {len(layers)} layers", _most_moved(done)),
        card("Samples", whole(stream.get("samples")), _in_batches(stream.get("batches"))),
        _fold_card(report),
        _parity_card(report),
        card(
            "Other tensors",
            "unchanged" if held else "changed",
            f"{tensors:,}, each compared by sha256",
            good=held,
        ),
        card("Time", f"{sum(seconds):.2f} s", "all phases together"),
        class_="cards",
    )


def _in_batches(count: object) -> str:
    return "in 1 batch" if count == 1 else f"in {whole(count)} batches"


def _most_moved(done: Sequence[Fields]) -> str:
    if not done:
        return "none"
    first = max(done, key=lambda layer: number(fields(layer, "drift").get("wasserstein")) or 0.0)
    return f"most moved: {text(first, 'name')}"


def _fold_card(report: Fields) -> Markup | None:
    fold = items(report, "fold")
    if not fold:
        return None
    folded = sum(layer.get("status") == "folded" for layer in fold)
    return card("Folded", f"{folded} of {len(fold)} layers", "absorbed into their neighbours")


def _parity_card(report: Fields) -> Markup | None:
    parity = fields(report, "parity")
    if not parity:
        return None
    passed = parity.get("passed") is True
    limits = [number(output.get("allowed")) or 0.0 for output in items(parity, "outputs")]
    limit = max([number(parity.get("tolerance")) or 0.0, *limits])
    below = f"largest error {short(parity.get('max_relative_error'))}, allowed {short(limit)}"
    return card("Parity", "passed" if passed else "failed", below, good=passed)


def _warnings(report: Fields) -> Markup | None:
    points = [tag("li", sentence) for sentence in strings(report, "warnings")]
    return section("Warnings", None, tag("ul", *points, class_="warnings")) if points else None


def _timings(report: Fields) -> Markup | None:
    timings = fields(report, "timings")
    seconds = {str(phase): number(value) or 0.0 for phase, value in timings.items()}
    if not seconds:
        return None
    end = max(seconds.values())
    rows = [
        [cut(phase), bar(value, None, end, f"{value:.3f} s")] for phase, value in seconds.items()
    ]
    return section("Time by phase", None, table(["Phase", "Time"], rows))


def _frozen(report: Fields) -> Markup | None:
    frozen = fields(report, "frozen")
    if not frozen:
        return None
    held = frozen.get("unchanged") is True
    sums = [
        ["model that came in", tag("code", text(report, "source_sha256") or "not a file")],
        ["other tensors, before", tag("code", text(frozen, "sha256_before"))],
        ["other tensors, after", tag("code", text(frozen, "sha256_after"))],
    ]
    tensors = fields(frozen, "tensors")
    rows = [[cut(name), tag("code", text(tensors, name))] for name in tensors]
    listing = tag(
        "details",
        tag("summary", f"{len(rows):,} tensors, each with its digest"),
        table(["Tensor", "sha256"], rows),
    )
    note = (
        "Everything but the running statistics, before folding. "
        f"The two digests are {'equal' if held else 'NOT equal'}."
    )
    return section("What did not change", note, table(["", "sha256"], sums), listing)
