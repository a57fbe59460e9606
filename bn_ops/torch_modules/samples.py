"""Split the batches of a torch stream into samples, and join samples to batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from bn_ops.torch_modules.arguments import Item

__all__ = [
    "SampleForm",
    "as_bytes",
    "join_samples",
    "one_sample",
    "pack_sample",
    "sample_leaves",
    "unpack_sample",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleForm:
    """A sample without the values of its tensors.

    Attributes:
        leaves: the leaves that the samples of a batch share; None in place of a tensor per sample.
        tree: how leaves make up a batch.
        tensors: shape, element type and device of each tensor per sample.
        index: position of the batch in the stream.
    """

    leaves: tuple[Any, ...]
    tree: Any
    tensors: tuple[tuple[torch.Size, torch.dtype, torch.device], ...]
    index: int


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


def pack_sample(item: Item, index: int) -> tuple[SampleForm, NDArray[np.uint8]]:
    """Copy one sample of a batch: its form, and the bytes of its tensors."""
    leaves, tree = pytree.tree_flatten(item.value)
    rows = [leaf[index : index + 1] for leaf in leaves if _per_sample(leaf, item)]
    form = SampleForm(
        leaves=tuple(None if _per_sample(leaf, item) else leaf for leaf in leaves),
        tree=tree,
        tensors=tuple((row.shape, row.dtype, row.device) for row in rows),
        index=item.index,
    )
    return form, np.concatenate([as_bytes(row).reshape(-1) for row in rows])


def unpack_sample(form: SampleForm, data: NDArray[np.uint8]) -> Item:
    """Return the sample that `pack_sample` copied, as a batch."""
    tensors, start = list[torch.Tensor](), 0
    for shape, dtype, device in form.tensors:
        stop = start + shape.numel() * dtype.itemsize
        # Copied: torch needs memory that is aligned and may be written to.
        raw = torch.from_numpy(data[start:stop].copy())
        tensors.append(raw.view(dtype).reshape(shape).to(device))
        start = stop
    found = iter(tensors)
    leaves = [next(found) if leaf is None else leaf for leaf in form.leaves]
    return Item(index=form.index, value=pytree.tree_unflatten(leaves, form.tree), samples=1)


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
