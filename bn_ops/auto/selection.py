"""The choice of a candidate in a run: measure each one on the probe, and apply the rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from bn_ops.auto.candidates import are_unset, candidate_updates
from bn_ops.auto.criterion import Gain, Scores, score
from bn_ops.auto.decision import (
    MIN_SAMPLES,
    MIN_SAMPLES_TO_REFUSE,
    Decision,
    choose,
    worth_a_small_share,
)
from bn_ops.core.engine import Engine
from bn_ops.core.frontier import LayerUpdate
from bn_ops.core.statistics import LayerName
from bn_ops.diagnostics.class_outputs import ClassOutput
from bn_ops.diagnostics.forward_pass import ForwardPass, observe
from bn_ops.diagnostics.labeled import LabeledSamples
from bn_ops.diagnostics.probe import Probe
from bn_ops.diagnostics.report import Candidate, CandidateScore, Choice, LabeledScore

__all__ = ["Selection", "Selector"]

ModelT = TypeVar("ModelT")
BatchT = TypeVar("BatchT")

_Updates = Mapping[LayerName, LayerUpdate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What the rule decided.

    Attributes:
        candidate: the candidate to take: the rule's, or the best one on labeled samples.
        decision: the rule's decision, with its evidence.
        updates: the update of every layer under the candidate.
        output: the output that the criterion read; None where none holds classes.
        probe_samples: number of samples of the probe.
        labeled: the candidates on the labeled samples; empty without any.
        observed: the probe under the candidate's statistics; None where it was not observed.
    """

    candidate: Candidate
    decision: Decision
    updates: _Updates
    output: ClassOutput | None
    probe_samples: int
    labeled: tuple[LabeledScore, ...] = ()
    observed: ForwardPass | None = None

    @property
    def choice(self) -> Choice:
        """The values for the report."""
        seen, output = self.decision.variety, self.output
        return Choice(
            candidate=self.candidate,
            scores=tuple(
                _candidate_score(candidate, found, self.decision.distinct[candidate])
                for candidate, found in self.decision.gains.items()
            ),
            samples=self.probe_samples,
            output=None if output is None else output.name,
            classes=None if output is None else output.probabilities.shape[2],
            distinct_classes=None if seen is None else seen.distinct_classes,
            varied=seen is not None and seen.varied,
            broad=seen is not None and seen.broad,
            labeled=self.labeled,
        )


def _candidate_score(candidate: Candidate, found: Gain, distinct: float) -> CandidateScore:
    return CandidateScore(
        candidate=candidate,
        gain=found.value,
        gain_error=found.error if math.isfinite(found.error) else None,
        entropy_rise=found.entropy_rise,
        distinct_classes=distinct,
    )


class Selector(Generic[ModelT, BatchT]):
    """Measures candidates of one run; each at most once.

    Args:
        engine: the engine, after the exact pass; it holds the source statistics before and after
            every call.
        probe: the probe of the stream.
        target: the updates that `Replace` gives over the whole stream, in the order of execution.
        observed: the probe under their statistics; None where the exact pass did not observe it.
        layers: whether the inputs of layers are observed with the predictions.
        progress: called after each candidate with the number of candidates measured.
    """

    def __init__(
        self,
        engine: Engine[ModelT, BatchT],
        probe: Probe[BatchT],
        target: _Updates,
        observed: ForwardPass | None = None,
        *,
        layers: bool = True,
        progress: Callable[[int], None],
    ) -> None:
        self._engine = engine
        self._probe = probe
        self._target = target
        self._layers = layers
        self._progress = progress
        self._updates: dict[Candidate, _Updates] = {}
        self._observed: dict[Candidate, ForwardPass | None] = {Candidate.REPLACE: observed}

    def updates(self, candidate: Candidate) -> _Updates:
        """Return a candidate's update of every layer."""
        if candidate not in self._updates:
            self._updates[candidate], observed = candidate_updates(
                candidate, self._engine, self._probe, self._target, layers=self._layers
            )
            self._observed.setdefault(candidate, observed)
            self._progress(len(self._updates))
        return self._updates[candidate]

    @contextmanager
    def holding(self, candidate: Candidate) -> Iterator[None]:
        """Let the model hold a candidate's statistics; restore the source statistics at the end."""
        updates = self.updates(candidate)
        restore = self._engine.store({name: found.statistics for name, found in updates.items()})
        try:
            yield
        finally:
            restore()

    def select(self, before: ForwardPass, *, samples: int, varied: bool | None) -> Selection:
        """Choose a candidate.

        Args:
            before: the probe under the source statistics.
            samples: number of samples of the whole stream.
            varied: what the caller declares about the stream.
        """
        layers = {i.name: i for i in self._engine.layers if i.name in self._engine.selected}
        unset = are_unset(layers)
        output = before.class_output(self._probe.samples)
        scores: dict[Candidate, Scores] = {}

        def decide() -> Decision:
            return choose(scores, samples=samples, unset=unset, varied=varied)

        if output is not None and not unset and samples >= MIN_SAMPLES:
            declared = varied is True and samples >= MIN_SAMPLES_TO_REFUSE
            scores[Candidate.SOURCE] = score(output.probabilities)
            self._add(scores, Candidate.REPLACE, output)
            if not declared and decide().candidate is not Candidate.REPLACE:
                self._add(scores, Candidate.EARLY, output)
                found = decide()
                if found.candidate is Candidate.SOURCE and worth_a_small_share(
                    scores[Candidate.SOURCE], found.gains
                ):
                    self._add(scores, Candidate.SMALL, output)
        decision = decide()
        return Selection(
            candidate=decision.candidate,
            decision=decision,
            updates=self.updates(decision.candidate),
            output=output,
            probe_samples=self._probe.samples,
            observed=self._observed.get(decision.candidate),
        )

    def select_by_labels(self, found: Selection, labeled: LabeledSamples[BatchT]) -> Selection:
        """Take the best of the source, the rule's candidate, `Shrink` and `Replace` on labels.

        Args:
            found: the rule's selection.
            labeled: the labeled samples, with the source scored under `Candidate.SOURCE`.

        Returns:
            The selection of the best candidate; among equals the first in the order above.
        """
        others = (found.candidate, Candidate.SHRINK, Candidate.REPLACE)
        compared = tuple(dict.fromkeys((Candidate.SOURCE, *others)))
        for candidate in compared[1:]:
            with self.holding(candidate):
                labeled.score(self._engine.forward, candidate)
        scores = tuple(
            LabeledScore(candidate=candidate, score=labeled.value(candidate))
            for candidate in compared
        )
        best = max(scores, key=lambda one: one.score).candidate
        return replace(
            found,
            candidate=best,
            updates=self.updates(best),
            labeled=scores,
            observed=self._observed.get(best),
        )

    def _add(
        self, scores: dict[Candidate, Scores], candidate: Candidate, source: ClassOutput
    ) -> None:
        """Score a candidate; leave it out where its predictions are not finite."""
        self.updates(candidate)
        after = self._observed.get(candidate)
        if after is None:
            with self.holding(candidate):
                after = observe(self._engine.forward, self._probe.batches(), layer_batches=0)
        found = after.class_output(self._probe.samples, source.name)
        if found is not None and found.probabilities.shape == source.probabilities.shape:
            scores[candidate] = score(found.probabilities)
