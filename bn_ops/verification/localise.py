"""Folding with proof: what does not hold is found, left unfolded, and reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import onnx

from bn_ops.errors import ParityError
from bn_ops.folding.result import Folded, Leftovers
from bn_ops.folding.run import fold
from bn_ops.verification.reference import Reference
from bn_ops.verification.run import DEFAULT_SEED, DEFAULT_THREADS

if TYPE_CHECKING:
    from bn_ops.diagnostics.report import Parity

__all__ = ["Fold", "fold_verified"]

Fold = Callable[[onnx.ModelProto, Mapping[str, str]], Folded]
"""Folds a model but for the named layers, which carry the reason to report."""

Judge = Callable[[Folded], "Parity"]
"""Holds a folded model against the unfolded one."""


def fold_verified(
    unfolded_model: onnx.ModelProto,
    batches: Iterable[Any],
    *,
    leftovers: Leftovers = "keep",
    tolerance: float | None = None,
    threads: int | None = DEFAULT_THREADS,
    seed: int = DEFAULT_SEED,
) -> tuple[Folded, Parity]:
    """Fold a model and prove that it computes what it did.

    When the folded model fails, the layers at fault are found by bisection and left unfolded, with
    a reason that says so. The given model is never changed.

    Args:
        unfolded_model: the model with its BatchNormalization nodes.
        batches: calibration samples; kept in memory while this runs.
        leftovers: as for `bn_ops.fold`.
        tolerance: as for `bn_ops.verify`.
        threads: threads within an operator; None means every core.
        seed: of the random samples.

    Returns:
        The folded model and its parity, which has passed.

    Raises:
        ParityError: even with every layer left unfolded the models differ, so the cause is not a
            fold: the model does not compute the same twice, or cannot be written back unchanged.
    """
    reference = Reference(unfolded_model, batches, threads=threads, seed=seed)

    def fold_but(model: onnx.ModelProto, leave: Mapping[str, str]) -> Folded:
        folded = fold(model, leftovers=leftovers, leave=leave)
        # Where nothing is proven in float64 the proof only takes room, twice the model's.
        return folded if reference.in_float64 else replace(folded, exact=MappingProxyType({}))

    return fold_until_it_holds(
        unfolded_model, fold_but, lambda folded: reference.judge(folded, tolerance=tolerance)
    )


def fold_until_it_holds(
    model: onnx.ModelProto, fold_but: Fold, judge: Judge
) -> tuple[Folded, Parity]:
    """Fold as many layers as pass; see `fold_verified`."""
    folded = fold_but(model, {})
    parity = judge(folded)
    if parity.passed:
        return folded, parity
    names = [layer.name for layer in folded.layers if layer.status == "folded"]
    return _Bisection(model, fold_but, judge, tuple(dict.fromkeys(names)), parity).run()


class _Bisection:
    """Admits halves of the layers while the result passes; what is left alone is at fault."""

    def __init__(
        self,
        model: onnx.ModelProto,
        fold_but: Fold,
        judge: Judge,
        names: tuple[str, ...],
        failed: Parity,
    ) -> None:
        self._model = model
        self._fold_but = fold_but
        self._judge = judge
        self._names = names
        self._failed = failed
        self._good: frozenset[str] = frozenset()
        self._faults: dict[str, Parity] = {}

    def run(self) -> tuple[Folded, Parity]:
        self._check_unfolded()
        # The whole set has failed already, so its halves are what to try first.
        self._split(self._names)
        folded = self._fold(self._good)
        parity = self._judge(folded)
        if not parity.passed:
            raise _parity_error(parity)
        return folded, parity

    def _check_unfolded(self) -> None:
        parity = self._judge(self._fold(frozenset()))
        if not parity.passed:
            raise _parity_error(parity)

    def _admit(self, names: Sequence[str]) -> None:
        parity = self._judge(self._fold(self._good | frozenset(names)))
        if parity.passed:
            self._good |= frozenset(names)
        elif len(names) == 1:
            self._faults[names[0]] = parity
        else:
            self._split(names)

    def _split(self, names: Sequence[str]) -> None:
        if len(names) == 1:
            self._faults[names[0]] = self._failed
            return
        half = len(names) // 2
        self._admit(names[:half])
        self._admit(names[half:])

    def _fold(self, chosen: frozenset[str]) -> Folded:
        leave = {name: self._reason(name) for name in self._names if name not in chosen}
        return self._fold_but(self._model, leave)

    def _reason(self, name: str) -> str:
        _, fault = _first_fault(self._faults.get(name, self._failed))
        return f"folding it changed the model's outputs {fault}, so it was left as it was"


def _first_fault(parity: Parity) -> tuple[str, str]:
    """Return the output that differs most of those at fault, and what is wrong with it."""
    failed = [output for output in parity.outputs if output.failure is not None]
    worst = max(failed, key=lambda output: output.max_relative_error)
    return worst.name, worst.failure or ""


def _parity_error(parity: Parity) -> ParityError:
    name, fault = _first_fault(parity)
    return ParityError(
        f"output {name!r} differs {fault} although no layer was folded: the model does not "
        "compute the same twice, or cannot be written back unchanged"
    )
