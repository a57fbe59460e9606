"""Fold and verify a model; layers whose fold fails are found by bisection and left unfolded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import onnx

from bn_ops.core.reduction import thread_count
from bn_ops.errors import ParityError
from bn_ops.folding.result import Folded, Unfolded
from bn_ops.folding.run import fold
from bn_ops.verification.reference import DEFAULT_SEED, DEFAULT_THREADS, Reference

if TYPE_CHECKING:
    from bn_ops.diagnostics.report import Parity

__all__ = ["Fold", "fold_verified"]

Fold = Callable[[onnx.ModelProto, Mapping[str, str]], Folded]
"""Folds a model except for the named layers, each with the reason to report."""

Verify = Callable[[Folded], "Parity"]
"""Compares a folded model with the unfolded one."""


def fold_verified(
    unfolded_model: onnx.ModelProto,
    batches: Iterable[Any],
    *,
    unfolded: Unfolded = "keep",
    tolerance: float | None = None,
    threads: int | None = DEFAULT_THREADS,
    seed: int = DEFAULT_SEED,
) -> tuple[Folded, Parity]:
    """Fold a model and verify that it computes the same outputs.

    If the folded model fails, the layers responsible are found by bisection and left unfolded, with
    that reason. The given model is never changed.

    Args:
        unfolded_model: the model with its BatchNormalization nodes.
        batches: calibration samples; kept in memory during the call.
        unfolded: as for `bn_ops.fold`.
        tolerance: as for `bn_ops.verify`.
        threads: threads within an operator; None means every core.
        seed: seed of the random samples.

    Returns:
        The folded model and its parity, which has passed.

    Raises:
        ParityError: the models differ even with every layer left unfolded, so folding is not the
            cause: the model is not deterministic, or cannot be written back unchanged.
    """
    # Most of folding is Python, most of the reference runs outside of it.
    with ThreadPoolExecutor(1, "fold") as pool:
        whole = pool.submit(fold, unfolded_model, unfolded=unfolded)
        if thread_count(threads) == 1:
            wait([whole])
        reference = Reference(unfolded_model, batches, threads=threads, seed=seed)

    def fold_but(model: onnx.ModelProto, skip: Mapping[str, str]) -> Folded:
        folded = fold(model, unfolded=unfolded, skip=skip) if skip else whole.result()
        # Without a float64 reference the exact weights only take memory, twice the model's.
        return folded if reference.in_float64 else replace(folded, exact=MappingProxyType({}))

    return fold_while_verified(
        unfolded_model, fold_but, lambda folded: reference.verify(folded, tolerance=tolerance)
    )


def fold_while_verified(
    model: onnx.ModelProto, fold_but: Fold, verify: Verify
) -> tuple[Folded, Parity]:
    """Fold as many layers as pass; see `fold_verified`."""
    folded = fold_but(model, {})
    parity = verify(folded)
    if parity.passed:
        return folded, parity
    names = [layer.name for layer in folded.layers if layer.status == "folded"]
    return _Bisection(model, fold_but, verify, tuple(dict.fromkeys(names)), parity).run()


class _Bisection:
    """Adds halves of the layers while the result passes; single layers that fail are excluded."""

    def __init__(
        self,
        model: onnx.ModelProto,
        fold_but: Fold,
        verify: Verify,
        names: tuple[str, ...],
        failed: Parity,
    ) -> None:
        self._model = model
        self._fold_but = fold_but
        self._verify = verify
        self._names = names
        self._failed = failed
        self._good: frozenset[str] = frozenset()
        self._failures: dict[str, Parity] = {}

    def run(self) -> tuple[Folded, Parity]:
        self._check_unfolded()
        # The whole set has already failed, so its halves are tried first.
        self._split(self._names)
        folded = self._fold(self._good)
        parity = self._verify(folded)
        if not parity.passed:
            raise _parity_error(parity)
        return folded, parity

    def _check_unfolded(self) -> None:
        parity = self._verify(self._fold(frozenset()))
        if not parity.passed:
            raise _parity_error(parity)

    def _admit(self, names: Sequence[str]) -> None:
        parity = self._verify(self._fold(self._good | frozenset(names)))
        if parity.passed:
            self._good |= frozenset(names)
        elif len(names) == 1:
            self._failures[names[0]] = parity
        else:
            self._split(names)

    def _split(self, names: Sequence[str]) -> None:
        if len(names) == 1:
            self._failures[names[0]] = self._failed
            return
        half = len(names) // 2
        self._admit(names[:half])
        self._admit(names[half:])

    def _fold(self, chosen: frozenset[str]) -> Folded:
        skip = {name: self._reason(name) for name in self._names if name not in chosen}
        return self._fold_but(self._model, skip)

    def _reason(self, name: str) -> str:
        _, failure = _worst_failure(self._failures.get(name, self._failed))
        return f"folding it changed the model's outputs {failure}, so it was left unfolded"


def _worst_failure(parity: Parity) -> tuple[str, str]:
    """Return the name and failure of the failed output with the largest error."""
    failed = [output for output in parity.outputs if output.failure is not None]
    worst = max(failed, key=lambda output: output.max_relative_error)
    return worst.name, worst.failure or ""


def _parity_error(parity: Parity) -> ParityError:
    name, failure = _worst_failure(parity)
    return ParityError(
        f"output {name!r} differs {failure} although no layer was folded: the model is not "
        "deterministic, or cannot be written back unchanged"
    )
