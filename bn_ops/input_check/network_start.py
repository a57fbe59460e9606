"""The part of a network before its first BatchNorm layers, run on a few samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.batches import Select
from bn_ops.input_check.sample_moments import SampleMoments

__all__ = ["Arrays", "NetworkStart"]

Arrays = Mapping[str, NDArray[np.generic]]
"""The arrays of one batch by name; the first axis counts samples."""


class NetworkStart(Protocol):
    """Runs a network up to its first BatchNorm layers. Never changes the network."""

    def batches(
        self, items: Iterable[Any], *, select: Select | None, samples: int
    ) -> tuple[Arrays, ...]:
        """Return the first samples of a stream as named arrays, checked by the engine."""
        ...

    def measure(self, batches: Sequence[Arrays]) -> SampleMoments:
        """Return the moments of each sample at the first BatchNorm layers."""
        ...
