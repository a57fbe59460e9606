"""Split the batches of a torch stream into samples, and join samples to batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from bn_ops.torch_modules.arguments import Item

__all__ = ["as_bytes", "join_samples", "one_sample", "sample_leaves"]


def sample_leaves(item: Item) -> list[torch.Tensor]:
    """Return the tensors of a batch that have one row per sample."""
    return [leaf for leaf in pytree.tree_leaves(item.value) if _per_sample(leaf, item)]


def as_bytes(leaf: torch.Tensor) -> NDArray[np.uint8]:
    """Return the bytes of each row of a tensor, shape (rows, bytes), on the CPU."""
    rows = leaf.detach().cpu().contiguous().reshape(leaf.shape[0], -1)
    return np.asarray(rows.view(torch.uint8).numpy())


def one_sample(item: Item, index: int) -> Item:
    """Copy one sample of a batch; other leaves than its tensors per sample are shared."""

    def cut(leaf: Any) -> Any:
        if not _per_sample(leaf, item):
            return leaf
        return leaf[index : index + 1].detach().clone()

    return replace(item, value=pytree.tree_map(cut, item.value), samples=1)


def join_samples(samples: Sequence[Item], size: int) -> list[Item]:
    """Join consecutive samples of `one_sample` to batches.

    Args:
        samples: the samples, in order.
        size: the largest number of samples of a batch.

    Returns:
        The batches. Neighbors with other shapes, or with other leaves that are shared by the
        samples of a batch, are in different ones.
    """
    groups: list[list[Item]] = []
    for sample in samples:
        if groups and len(groups[-1]) < size and _alike(groups[-1][0], sample):
            groups[-1].append(sample)
        else:
            groups.append([sample])
    return [_joined(group) for group in groups]


def _per_sample(leaf: Any, item: Item) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and leaf.shape[0] == item.samples


def _alike(left: Item, right: Item) -> bool:
    (a, tree), (b, other) = pytree.tree_flatten(left.value), pytree.tree_flatten(right.value)
    return tree == other and all(_leaves_alike(x, y) for x, y in zip(a, b, strict=True))


def _leaves_alike(left: Any, right: Any) -> bool:
    if not (isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor)):
        return left is right or (isinstance(left, bool | int | float | str) and left == right)
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    return (left.ndim > 0 and left.shape[0] == 1) or bool(torch.equal(left, right))


def _joined(group: Sequence[Item]) -> Item:
    if len(group) == 1:
        return group[0]
    leaves = [pytree.tree_leaves(item.value) for item in group]
    joined = [
        torch.cat(parts) if _per_sample(parts[0], group[0]) else parts[0]
        for parts in zip(*leaves, strict=True)
    ]
    _, tree = pytree.tree_flatten(group[0].value)
    return replace(group[0], value=pytree.tree_unflatten(joined, tree), samples=len(group))
