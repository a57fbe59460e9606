"""The interface of an engine whose input can be checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from bn_ops.core.engine import Engine
from bn_ops.input_check.result import InputCheck

__all__ = ["CheckedEngine"]

ModelT_co = TypeVar("ModelT_co", covariant=True)
BatchT = TypeVar("BatchT")


class CheckedEngine(Engine[ModelT_co, BatchT], Protocol[ModelT_co, BatchT]):
    """An engine that can compare samples with what the network's first layers store."""

    def check_input(self, samples: Sequence[BatchT]) -> InputCheck:
        """Compare samples with the stored statistics; called while the stream is read.

        Raises:
            BnOpsError: the samples cannot be run up to the first layers.
        """
        ...
