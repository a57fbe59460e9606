"""The stream of one run: counted, watched, its first samples kept, and never empty."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from bn_ops.core.batches import as_array
from bn_ops.core.signature import Batch
from bn_ops.diagnostics.autocorrelation import SampleSeries, feature_step, sample_features
from bn_ops.diagnostics.before_after import COMPARED_SAMPLES
from bn_ops.errors import StreamEmptyError
from bn_ops.torch_modules.arguments import Item
from bn_ops.torch_modules.calibration import named_arrays

__all__ = ["CountedStream", "first_samples", "watchable"]


@dataclass(slots=True)
class CountedStream:
    """Counts a stream as it passes, keeps its first samples, and refuses an empty one.

    Attributes:
        module: whose stream it is.
        items: the stream, read once.
        own_call: the caller runs the module in a way of their own, so a batch can only be kept
            whole and its arguments have no names.
        batches, samples: how many have passed.
        kept: copies of the first samples.
        series: features of every sample, in order.
    """

    module: torch.nn.Module
    items: Iterator[Item]
    own_call: bool
    batches: int = 0
    samples: int = 0
    kept: list[Item] = field(default_factory=list)
    series: SampleSeries = field(default_factory=SampleSeries)

    def __iter__(self) -> Iterator[Item]:
        for item in self.items:
            seen = watchable(item)
            if seen:
                self.series.add(sample_features(seen))
            room = COMPARED_SAMPLES - self.samples
            if room > 0:
                self.kept.append(item if self.own_call else first_samples(item, room))
            self.batches += 1
            self.samples += item.samples
            yield item
        if self.batches == 0:
            raise StreamEmptyError(
                "the stream holds no batch: statistics are never made up from nothing"
            )

    def calibration(self) -> tuple[Batch, ...]:
        """Return the kept samples under the names of the module's arguments, where known."""
        if self.own_call:
            return ()
        return tuple(named_arrays(self.module, item) for item in self.kept)


def first_samples(item: Item, room: int) -> Item:
    """Copy up to `room` samples of a batch."""

    def cut(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        counts = leaf.ndim and leaf.shape[0] == item.samples
        return (leaf[:room] if counts else leaf).detach().clone()

    samples = min(room, item.samples)
    return replace(item, value=pytree.tree_map(cut, item.value), samples=samples)


def watchable(item: Item) -> Batch:
    """Return the arrays of a batch that have one row per sample, thinned out where they lie."""
    leaves = [
        leaf
        for leaf in pytree.tree_leaves(item.value)
        if hasattr(leaf, "shape") and tuple(leaf.shape[:1]) == (item.samples,)
    ]
    return {str(number): _thin(leaf) for number, leaf in enumerate(leaves)}


def _thin(leaf: Any) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return as_array(leaf)
    rows = leaf.detach().reshape(leaf.shape[0], -1)
    return as_array(rows[:, :: feature_step(rows.shape[1])])
