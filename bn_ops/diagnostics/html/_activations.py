"""The network before against after: activations by depth, and the error on labelled samples."""

from __future__ import annotations

from collections.abc import Sequence

from bn_ops.diagnostics.html._fields import Fields, fields, items, number, short, text, whole
from bn_ops.diagnostics.html._markup import Markup, join, tag
from bn_ops.diagnostics.html._parts import bar, section, table

__all__ = ["activations_section", "evaluation_section"]

_HEAD = ("Layer", "Off centre by", "Spread", "*Mean", "*Standard deviation")
_NOTE = (
    " with the source's statistics. The first samples of the stream in two runs of the whole "
    "network; layers stand in the order of execution. Off centre and spread: of what a layer hands "
    "on before its scale and shift, the median over channels in units of the layer's σ; 0 and 1 "
    "where its statistics fit the data. Mean and standard deviation: of its input, over channels."
)


def activations_section(report: Fields) -> Markup | None:
    """Show what reaches each layer under either set of statistics."""
    seen = [(layer, found) for layer in items(report, "layers") if (found := _of(layer))]
    if not seen:
        return None
    shift_end = max(_largest(found, "normalized_shift") for _, found in seen)
    spread_end = max(_largest(found, "normalized_spread") for _, found in seen)
    rows = [_row(layer, found, shift_end, spread_end) for layer, found in seen]
    key = [tag("span", class_="key near"), " with the new and ", tag("span", class_="key far")]
    return section("Activations by depth", join([*key, _NOTE]), table(_HEAD, rows))


def _of(layer: Fields) -> Fields:
    return fields(layer, "activations")


def _pair(found: Fields, key: str) -> tuple[float | None, float | None]:
    before, after = fields(found, "before"), fields(found, "after")
    return number(before.get(key)), number(after.get(key))


def _largest(found: Fields, key: str) -> float:
    return max(value or 0.0 for value in _pair(found, key))


def _row(layer: Fields, found: Fields, shift_end: float, spread_end: float) -> Sequence[str]:
    return [
        text(layer, "name"),
        _bars(found, "normalized_shift", shift_end, " σ"),
        _bars(found, "normalized_spread", spread_end, " σ"),
        _change(found, "mean"),
        _change(found, "spread"),
    ]


def _bars(found: Fields, key: str, end: float, unit: str) -> Markup:
    before, after = _pair(found, key)
    return bar(after, before, end, f"{_change(found, key)}{unit}")


def _change(found: Fields, key: str) -> str:
    before, after = _pair(found, key)
    return f"{short(before)} → {short(after)}"


def evaluation_section(report: Fields) -> Markup | None:
    """Show the error on labelled samples before and after."""
    found = fields(report, "evaluation")
    if not found:
        return None
    errors = [number(found.get(key)) for key in ("error_before", "error_after")]
    row = [
        text(found, "output"),
        whole(found.get("samples")),
        whole(found.get("labels")),
        *("–" if error is None else f"{100 * error:.1f} %" for error in errors),
        whole(found.get("newly_right")),
        whole(found.get("newly_wrong")),
        short(found.get("p_value")),
    ]
    head = [
        "Output",
        "*Samples",
        "*Labels",
        "*Error before",
        "*Error after",
        "*Became right",
        "*Became wrong",
        "*By chance",
    ]
    note = (
        "On the labelled samples that were given. By chance: how likely so uneven a balance of "
        "answers that became right and wrong is if neither were likelier (exact sign test)."
    )
    return section("Error on labelled samples", note, table(head, [row]))
