"""Digests of everything in an ONNX model except the statistics that a run may change."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Self

from bn_ops.onnx_files.large_models import bare_copy, model_digest, tensor_digest

if TYPE_CHECKING:
    import onnx

__all__ = ["STRUCTURE", "FrozenDigests"]

STRUCTURE = "(graph structure)"


class FrozenDigests:
    """sha256 of each tensor that must not change, and of the graph without its tensors.

    Implements `bn_ops.core.engine.Digests`. Hashing a large model takes as long as some of its
    batches. So the tensors that the private copy shares with the source are hashed from the source,
    which nothing writes to, in a thread during the run. At the end they are compared with the
    source byte by byte, which proves as much as hashing them again and is twenty times as fast. Use
    as a context manager around the run.

    Args:
        source: the caller's model.
        copy: the private copy that the run works on.
        changeable: names of the initializers with the statistics of the recalibrated layers.
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

    @property
    def source(self) -> str:
        """Return the sha256 of the caller's model."""
        return self._source.result()

    def before(self) -> Mapping[str, str]:
        """Return the digests from before the run: tensors by name, the graph structure last."""
        digests = {**self._given.result(), **self._own}
        tensors = {name: digests[name] for name in sorted(digests.keys() - {STRUCTURE})}
        return {**tensors, STRUCTURE: digests[STRUCTURE]}

    def after(self) -> Mapping[str, str]:
        """Return the digests now."""
        before = {**self._given.result(), **self._own}
        after = {t.name: self._digest_now(t, before) for t in self._frozen()}
        return {**after, STRUCTURE: self._structure()}

    def _digest_now(self, tensor: onnx.TensorProto, before: Mapping[str, str]) -> str:
        if tensor == self._shared.get(tensor.name):
            return before[tensor.name]
        return tensor_digest(tensor)

    def _frozen(self) -> list[onnx.TensorProto]:
        return [t for t in self._model.graph.initializer if t.name not in self._changeable]

    def _structure(self) -> str:
        """Return the digest of the model without its tensors."""
        return model_digest(bare_copy(self._model))
