"""The sections about layers: drift, guards, folding."""

from __future__ import annotations

from collections.abc import Sequence

from bn_ops.diagnostics.html._fields import (
    Fields,
    factor,
    fields,
    items,
    number,
    short,
    strings,
    text,
    whole,
)
from bn_ops.diagnostics.html._markup import Markup, join, tag
from bn_ops.diagnostics.html._parts import badge, bar, section, table

__all__ = ["drift_section", "folding_section", "guards_section"]

_CHANNELS_LISTED = 8
_DRIFT_HEAD = (
    "Layer",
    "",
    "*Channels",
    "Mean moved by",
    "Variance changed by",
    "*Distance",
    "*± mean",
    "*± scale",
)
_DRIFT_NOTE = (
    " largest over a layer's channels. Means in units of the source's σ; variances as a factor, "
    "up or down. Distance: root mean square over channels of the 2-Wasserstein distance, in σ. "
    "± is the 95 % error of the new mean and of the new scale, in σ, for 99 % of the channels. "
    "Layers stand in the order of execution."
)


def drift_section(report: Fields) -> Markup:
    """Show how far each layer's statistics moved."""
    layers = items(report, "layers")
    drifts = [fields(layer, "drift") for layer in layers]
    shift_end = max((number(d.get("mean_shift_max")) or 0.0 for d in drifts), default=0.0)
    ratio_end = max((number(d.get("log_var_ratio_max")) or 0.0 for d in drifts), default=0.0)
    rows = [_drift_row(layer, shift_end, ratio_end) for layer in layers]
    key = [tag("span", class_="key near"), " median and ", tag("span", class_="key far")]
    return section("Drift by layer", join([*key, _DRIFT_NOTE]), table(_DRIFT_HEAD, rows))


def _drift_row(layer: Fields, shift_end: float, ratio_end: float) -> Sequence[str]:
    drift = fields(layer, "drift")
    first = [text(layer, "name"), badge(text(layer, "status")), whole(layer.get("channels"))]
    if not drift:
        return [*first, text(layer, "reason"), "", "–", "–", "–"]
    shift = number(drift.get("mean_shift_median")), number(drift.get("mean_shift_max"))
    ratio = number(drift.get("log_var_ratio_median")), number(drift.get("log_var_ratio_max"))
    return [
        *first,
        bar(*shift, shift_end, f"{short(shift[0])}, at most {short(shift[1])} σ"),
        bar(*ratio, ratio_end, f"{factor(ratio[0])}, at most {factor(ratio[1])}"),
        short(drift.get("wasserstein")),
        short(fields(layer, "confidence").get("mean_error")),
        short(fields(layer, "confidence").get("scale_error")),
    ]


def guards_section(report: Fields) -> Markup:
    """Show where a measured variance was not used, and the largest gain."""
    layers = [layer for layer in items(report, "layers") if layer.get("drift")]
    if not layers:
        return join([])
    noted = [a for a in layers if a.get("dead_channels") or a.get("silenced_channels")]
    rows = [
        [text(a, "name"), _channels(a, "dead_channels"), _channels(a, "silenced_channels")]
        for a in noted
    ]
    used = (
        "Channels that keep the source's variance:"
        if noted
        else "No channel was dead or fell silent: every new variance comes from the data."
    )
    head = ["Layer", "Dead in both domains", "Silent in the new domain"]
    grid = table(head, rows) if rows else None
    return section("Guards", None, tag("p", _largest_gain(layers), used), grid)


def _largest_gain(layers: Sequence[Fields]) -> str:
    known = [(number(a.get("amplification")), text(a, "name")) for a in layers]
    gains = [(gain, name) for gain, name in known if gain is not None]
    if not gains:
        return ""
    gain, name = max(gains)
    return f"The largest gain of a channel is {gain:.3g} times the old one, in {name}. "


def _channels(layer: Fields, key: str) -> str:
    found = strings(layer, key)
    more = f" … ({len(found):,} in all)" if len(found) > _CHANNELS_LISTED else ""
    return (", ".join(found[:_CHANNELS_LISTED]) + more) or "–"


def folding_section(report: Fields) -> Markup:
    """Show what became of each layer; those that stayed come first."""
    fold = items(report, "fold")
    if not fold:
        return join([])
    ordered = sorted(fold, key=lambda layer: layer.get("status") == "folded")
    rows = [
        [text(a, "name"), badge(text(a, "status")), text(a, "rule") or text(a, "reason")]
        for a in ordered
    ]
    kept = sum(layer.get("status") != "folded" for layer in fold)
    note = (
        f"{kept:,} of {len(fold):,} stayed as BatchNormalization; they come first, with the reason."
        if kept
        else "Every layer is absorbed into its neighbours; the file has no BatchNormalization left."
    )
    return section("Folding", note, table(["Layer", "", "Rule, or why it stayed"], rows))
