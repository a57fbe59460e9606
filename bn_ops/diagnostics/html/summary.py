"""The first screen of the page: the verdict, three numbers, and one-line findings."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from bn_ops.diagnostics.html.numbers import (
    largest,
    number,
    parts_per_million,
    percent,
    plural,
    share,
    sigma,
    whole,
)
from bn_ops.diagnostics.report import Candidate, Choice, LayerReport, Report, VerdictCode

__all__ = [
    "Card",
    "Headline",
    "cards",
    "choice_line",
    "command",
    "enough_data",
    "fold_line",
    "headline",
    "layers_line",
    "misfit",
    "predictions_line",
    "proof_line",
]

_WORDS = {
    VerdictCode.DEPLOY: ("good", "Deploy"),
    VerdictCode.CHECK_WITH_LABELS: ("warn", "Check with labels first"),
    VerdictCode.DO_NOT_DEPLOY: ("bad", "Do not deploy"),
}

_CHOICES = {
    Candidate.SOURCE: "the source statistics in every layer",
    Candidate.SMALL: "a small share of the new data in every layer",
    Candidate.EARLY: "the new data in the first third of the layers, a tenth of it behind them",
    Candidate.SHRINK: "in each channel as much of the new data as it supports",
    Candidate.REPLACE: "the new data in every layer",
}

# A change of the gain of a channel beyond which the page names the layer.
_HIGH_AMPLIFICATION = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The verdict in large letters.

    Attributes:
        tone: `good`, `warn`, `bad` or `none`.
        title: two or three words.
        sentence: the verdict as one sentence.
        next_steps: what to do next; at least one.
    """

    tone: str
    title: str
    sentence: str
    next_steps: tuple[str, ...]


def headline(report: Report) -> Headline:
    """Return the verdict of a report, or why there is none."""
    found = report.verdict
    if found is None:
        return Headline(
            tone="none",
            title="No verdict",
            sentence="The predictions before and after were not compared.",
            next_steps=(
                "Compare the models with compare=True, or use bn_ops.adapt, which always does.",
            ),
        )
    tone, title = _WORDS.get(found.code, ("none", str(found.code)))
    return Headline(
        tone=tone,
        title=title,
        sentence=found.sentence,
        next_steps=found.next_steps or (_default_step(report),),
    )


def _default_step(report: Report) -> str:
    assert report.verdict is not None
    if report.verdict.code is VerdictCode.DEPLOY:
        what = "recalibrated and folded model" if report.fold else "recalibrated model"
        return f"Deploy the {what} in place of the source model, and keep this report with it."
    return "Keep the source model."


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One of the three numbers: what it is, its value, and one line below it."""

    title: str
    value: str
    below: str


def cards(report: Report) -> tuple[Card, ...]:
    """Return the three numbers of the first screen."""
    return (_effect(report), _drift(report), _samples(report))


def _effect(report: Report) -> Card:
    if report.metric is not None:
        metric = report.metric
        return Card(
            title="Your metric",
            value=f"{number(metric.before, digits=3)} → {number(metric.after, digits=3)}",
            below=f"on {plural(metric.samples, 'labeled sample')}; higher is better",
        )
    if report.evaluation is not None:
        found = report.evaluation
        return Card(
            title="Error on labeled samples",
            value=f"{percent(found.error_before)} → {percent(found.error_after)}",
            below=f"{plural(found.newly_right, 'label')} became right, "
            f"{whole(found.newly_wrong)} wrong",
        )
    if report.prediction_shift is not None:
        shift = report.prediction_shift
        changed = round((1 - shift.agreement) * shift.samples)
        return Card(
            title="Predictions that changed",
            value=share(1 - shift.agreement),
            below=f"{whole(changed)} of {plural(shift.samples, 'sample')}",
        )
    done = sum(layer.status == "recalibrated" for layer in report.layers)
    return Card(
        title="Layers recalibrated",
        value=f"{whole(done)} of {whole(len(report.layers))}",
        below="predictions were not compared",
    )


def _drift(report: Report) -> Card:
    layers = [layer for layer in report.layers if layer.drift is not None]
    if not layers:
        return Card(title="Drift of the statistics", value="–", below="no layer was measured")
    most = max(layers, key=_moved)
    if _moved(most) == 0 and (kept := _distance_of_the_data(report)) is not None:
        return kept
    return Card(
        title="Drift of the statistics",
        value=sigma(median(map(_moved, layers))),
        below=f"median layer; at most {sigma(_moved(most))}, in {most.name}",
    )


def _distance_of_the_data(report: Report) -> Card | None:
    """Return how far the layers' inputs are from statistics that were kept."""
    distances = {layer.name: distance for layer in report.layers if (distance := misfit(layer))}
    if not distances:
        return None
    most = max(distances, key=distances.__getitem__)
    return Card(
        title="Distance of the data",
        value=sigma(median(distances.values())),
        below=f"median layer; at most {sigma(distances[most])}, in {most}; nothing was changed",
    )


def misfit(layer: LayerReport) -> float | None:
    """Return how far a layer's input was from its source statistics, in σ; None if unknown."""
    if layer.activations is None:
        return None
    before = layer.activations.before
    return math.hypot(before.normalized_shift, before.normalized_spread - 1)


def _moved(layer: LayerReport) -> float:
    return 0.0 if layer.drift is None else largest([layer.drift.wasserstein])


def _samples(report: Report) -> Card:
    needed = _needed(report)
    have = report.stream.samples
    if needed is None:
        below = f"in {plural(report.stream.batches, 'batch', 'batches')}"
    elif needed <= have:
        below = f"enough: about {whole(needed)} are needed"
    else:
        below = f"too few: about {whole(needed)} are needed"
    return Card(title="Samples", value=whole(have), below=below)


def _needed(report: Report) -> int | None:
    needs = [layer.confidence.samples_needed for layer in report.layers if layer.confidence]
    return max(needs, default=None)


def enough_data(report: Report) -> str:
    """Return whether the stream was long enough, as one sentence."""
    stream = report.stream
    needed = _needed(report)
    have = plural(stream.samples, "sample")
    if needed is None:
        return f"Unknown: {have} read, too few to estimate how precise the statistics are."
    limit = "for an error of at most 0.05 σ in the mean and 5 % in the scale of every layer"
    answer = "Yes" if needed <= stream.samples else "No"
    if stream.correlation is not None and stream.correlation.suspicious:
        effective = stream.correlation.effective_samples
        answer = "Yes" if needed <= effective else "No"
        have += f", worth about {whole(effective)} independent ones,"
    if stream.subsample is not None:
        have += f" of {whole(stream.subsample.seen)}"
    return f"{answer}: {have} were read, and about {whole(needed)} are needed {limit}."


def predictions_line(report: Report) -> str:
    """Return how the predictions changed, as one sentence."""
    shift = report.prediction_shift
    if shift is None:
        return "No output with classes was compared."
    changed = round((1 - shift.agreement) * shift.samples)
    return (
        f"{whole(changed)} of {plural(shift.samples, 'prediction')} changed; "
        f"{number(shift.effective_classes_before, digits=1)} → "
        f"{number(shift.effective_classes_after, digits=1)} of {whole(shift.classes)} classes are "
        "in use."
    )


def choice_line(choice: Choice) -> str:
    """Return which statistics `Auto` chose, as one sentence."""
    meaning = _CHOICES.get(choice.candidate)  # None for a report of a newer version
    return f"Auto chose {choice.candidate}" + (f": {meaning}." if meaning else ".")


def layers_line(report: Report) -> str:
    """Return what happened to the layers, as one sentence."""
    counts = Counter(layer.status for layer in report.layers)
    rest = [
        f"{whole(count)} {status}" for status, count in counts.items() if status != "recalibrated"
    ]
    done = f"{whole(counts['recalibrated'])} of {plural(len(report.layers), 'layer')} recalibrated"
    return ", ".join([done, *rest]) + "."


def fold_line(report: Report) -> str:
    """Return the result of folding and verification, as one sentence."""
    folded, parity = report.fold or (), report.parity
    done = sum(layer.status == "folded" for layer in folded)
    first = f"{whole(done)} of {plural(len(folded), 'layer')} folded into their neighbors"
    if parity is None:
        return f"{first}."
    allowed = max(parity.tolerance, largest(output.allowed for output in parity.outputs))
    judged = "passed" if parity.passed else "failed"
    return (
        f"{first}; verification {judged}: the outputs differ by at most "
        f"{parts_per_million(parity.max_relative_error)} of their scale, "
        f"{parts_per_million(allowed)} allowed."
    )


def proof_line(report: Report) -> str:
    """Return whether the rest of the model is unchanged, as one sentence."""
    count = plural(len(report.frozen.tensors), "other tensor")
    state = "unchanged" if report.frozen.unchanged else "CHANGED"
    return f"{count} of the model {state}, by sha256."


def command(report: Report) -> str:
    """Return a command or a call that repeats the run, from its options where it is not known."""
    known = report.origin
    if known.command:
        return known.command
    if report.engine == "torch":
        return _call(report)
    words = ["bnrecal", "recalibrate", known.model_name or "MODEL", known.data_name or "DATA"]
    words += ["--method", report.method] if report.method != "exact" else []
    words += ["--estimator", _estimator(report)]
    if report.layers_selected is not None:
        words += ["--layers", *report.layers_selected]
    return shlex.join(words)


def _call(report: Report) -> str:
    options = [f"method={report.method!r}"] if report.method != "exact" else []
    options.append(f"estimator={_estimator(report)!r}")
    if report.layers_selected is not None:
        options.append(f"layers={list(report.layers_selected)!r}")
    name = "bn_ops.adapt" if report.parity else "bn_ops.recalibrate"
    return f"{name}(model, batches, {', '.join(options)})"


def _estimator(report: Report) -> str:
    """Return the string form, which `bn_ops.estimator_from_string` reads."""
    return ":".join(_estimator_words(report))


def _estimator_words(report: Report) -> Iterator[str]:
    for key, value in report.estimator.items():
        if value is True:
            yield key
        elif value is not False:
            yield str(value)
