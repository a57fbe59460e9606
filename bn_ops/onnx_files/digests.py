"""Digests of everything in a model that a run must not change: all but the statistics."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Self

from bn_ops.diagnostics.report import FrozenReport
from bn_ops.onnx_files.large_models import bare_copy, model_digest, tensor_digest

if TYPE_CHECKING:
    import onnx

__all__ = ["FrozenDigests", "combined"]

STRUCTURE = "(graph structure)"


def combined(digests: Mapping[str, str]) -> str:
    """Return one sha256 over a set of digests, independent of their order."""
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


class FrozenDigests:
    """sha256 of each tensor that must not change, and of the graph without its tensors.

    Hashing a large model takes as long as some of its batches. Therefore tensors that the run's
    copy has in common with the source are hashed from the source, which is never written to, in a
    thread during the run; at the end they are compared with the source byte by byte, which is as
    strict as hashing them again and twenty times as fast. Use as a context manager around the run.

    Args:
        source: the caller's model.
        copy: the run's copy of it.
        changeable: names of the initializers that hold the statistics of the recalibrated layers.
    """

    def __init__(
        self, source: onnx.ModelProto, copy: onnx.ModelProto, changeable: frozenset[str]
    ) -> None:
        self._model = copy
        self._changeable = changeable
        given = {tensor.name: tensor for tensor in source.graph.initializer}
        # `==` compares messages field by field, tensors' bytes included.
        self._shared = {t.name: given[t.name] for t in self._frozen() if t == given.get(t.name)}
        self._own = {t.name: tensor_digest(t) for t in self._frozen() if t.name not in self._shared}
        self._own[STRUCTURE] = self._structure()
        self._thread = ThreadPoolExecutor(1, "digests")
        self._source = self._thread.submit(model_digest, source)
        self._given = self._thread.submit(
            lambda: {name: tensor_digest(tensor) for name, tensor in self._shared.items()}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def source(self) -> str:
        """Return the sha256 of the caller's model."""
        return self._source.result()

    def report(self) -> FrozenReport:
        """Return each tensor's digest before the run, and the combined digests before and after."""
        before = {**self._given.result(), **self._own}
        after = {t.name: self._digest_now(t, before) for t in self._frozen()}
        after[STRUCTURE] = self._structure()
        tensors = {name: before[name] for name in sorted(before.keys() - {STRUCTURE})}
        return FrozenReport(
            tensors={**tensors, STRUCTURE: before[STRUCTURE]},
            sha256_before=combined(before),
            sha256_after=combined(after),
        )

    def _digest_now(self, tensor: onnx.TensorProto, before: Mapping[str, str]) -> str:
        if tensor == self._shared.get(tensor.name):
            return before[tensor.name]
        return tensor_digest(tensor)

    def _frozen(self) -> list[onnx.TensorProto]:
        return [t for t in self._model.graph.initializer if t.name not in self._changeable]

    def _structure(self) -> str:
        """Return the digest of the model without its tensors."""
        return model_digest(bare_copy(self._model))
