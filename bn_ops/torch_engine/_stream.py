"""The stream of one run: counted, sampled, and never empty."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bn_ops.errors import StreamEmptyError
from bn_ops.signature import Batch
from bn_ops.torch_engine._calibration import named_arrays
from bn_ops.torch_engine._calls import Item

if TYPE_CHECKING:
    import torch

__all__ = ["CountedStream"]

# Samples kept to verify a folded model with.
_CALIBRATION_SAMPLES = 32


@dataclass(slots=True)
class CountedStream:
    """Counts a stream as it passes, keeps its first samples, and refuses an empty one."""

    module: torch.nn.Module
    items: Iterator[Item]
    keep: bool
    batches: int = 0
    samples: int = 0
    kept: list[Batch] = field(default_factory=list)

    def __iter__(self) -> Iterator[Item]:
        for item in self.items:
            room = _CALIBRATION_SAMPLES - self.samples
            if self.keep and room > 0:
                self.kept.append(named_arrays(self.module, item, room))
            self.batches += 1
            self.samples += item.samples
            yield item
        if self.batches == 0:
            raise StreamEmptyError(
                "the stream holds no batch: statistics are never made up from nothing"
            )
