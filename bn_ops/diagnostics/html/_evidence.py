"""The sections about how far the result can be trusted: the stream, the predictions, the fold."""

from __future__ import annotations

from bn_ops.diagnostics.html._fields import (
    Fields,
    fields,
    items,
    number,
    short,
    strings,
    text,
    whole,
)
from bn_ops.diagnostics.html._markup import Markup, tag
from bn_ops.diagnostics.html._parts import section, table

__all__ = ["parity_section", "predictions_section", "stream_section"]

_PARITY_HEAD = ("Output", "*Largest", "*Mean", "*Rounding before", "*Allowed", "*In float64")


def stream_section(report: Fields) -> Markup | None:
    """Show whether the stream looked correlated, and how many samples would do."""
    correlation = fields(fields(report, "stream"), "correlation")
    sentences = [_order(correlation), _enough(report), *_residuals(report)]
    said = [tag("p", sentence) for sentence in sentences if sentence]
    return section("Evidence", None, *said) if said else None


def _order(correlation: Fields) -> str | None:
    if not correlation:
        return None
    verdict = "looks correlated" if correlation.get("suspicious") is True else "looks independent"
    return (
        f"The stream {verdict}: over {whole(correlation.get('blocks'))} blocks of "
        f"{whole(correlation.get('block_samples'))} samples the standard error is "
        f"{short(correlation.get('error_ratio'))} times that over single samples, which makes "
        f"the stream worth {whole(correlation.get('effective_samples'))} independent samples."
    )


def _enough(report: Fields) -> str | None:
    needed = [
        fields(layer, "confidence").get("samples_needed") for layer in items(report, "layers")
    ]
    known = [count for count in needed if isinstance(count, int)]
    if not known:
        return None
    return (
        f"About {max(known):,} samples would bring every layer's mean and scale within 5 % of σ, "
        f"bias included; {whole(fields(report, 'stream').get('samples'))} were read."
    )


def _residuals(report: Fields) -> list[str]:
    return [
        f"{text(layer, 'name')} is used several times in one pass; it is {short(mean)} σ in the "
        f"mean and {short(layer.get('residual_var'))} in the variance from its own fixed point."
        for layer in items(report, "layers")
        if (mean := number(layer.get("residual_mean"))) is not None
    ]


def predictions_section(report: Fields) -> Markup | None:
    """Show how a classification head's answers changed."""
    found = fields(report, "prediction_shift")
    if not found:
        return None
    agreement = number(found.get("agreement"))
    share = "–" if agreement is None else f"{100 * agreement:.1f} %"
    classes = [short(found.get(f"effective_classes_{when}")) for when in ("before", "after")]
    rows = [
        [
            text(found, "output"),
            whole(found.get("samples")),
            share,
            short(found.get("entropy_change")),
            " → ".join(classes),
        ]
    ]
    head = ["Output", "*Samples", "*Same class", "*Entropy change", "*Classes in effect"]
    note = (
        "Before and after, on samples of the stream. Entropy in nats. Without labels none of these "
        "tells whether the answers became better; a fall in the number of classes is a bad sign."
    )
    return section("Predictions", note, table(head, rows))


def parity_section(report: Fields) -> Markup | None:
    """Show how far the folded model is from the unfolded one, per output."""
    parity = fields(report, "parity")
    if not parity:
        return None
    rows = [
        [
            text(a, "name"),
            short(a.get("max_relative_error")),
            short(a.get("mean_relative_error")),
            short(a.get("rounding")),
            short(a.get("allowed")),
            short(a.get("exact_error")),
        ]
        for a in items(parity, "outputs")
    ]
    compared = f", reference {text(parity, 'reference')}" if parity.get("reference") else ""
    note = (
        f"The folded model against the unfolded one on {whole(parity.get('samples'))} samples"
        f"{compared}; errors relative to each output's scale. "
        f"Limit: {short(parity.get('tolerance'))}. "
        "Rounding before: how far rounding alone moves the unfolded model; where that is more than "
        "the limit, more is allowed. In float64: the error before the folded weights were rounded."
    )
    notes = [tag("p", line, class_="note") for line in strings(parity, "notes")]
    return section("Parity by output", note, table(_PARITY_HEAD, rows), *notes)
