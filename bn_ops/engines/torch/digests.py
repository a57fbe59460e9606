"""Digests of a module's tensors, to prove which of them did not change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import torch
from torch.nn.parameter import is_lazy

from bn_ops.engines.torch.layers import TorchLayer

__all__ = ["tensor_digests"]


def tensor_digests(root: torch.nn.Module, changeable: Iterable[TorchLayer]) -> dict[str, str]:
    """sha256 of every parameter and buffer but the statistics of the layers given, by path."""
    skipped = {
        id(tensor) for layer in changeable if layer.tracked for tensor in (layer.mean, layer.var)
    }
    named = {
        name: tensor.detach()
        for name, tensor in chain(root.named_parameters(), root.named_buffers())
        if id(tensor) not in skipped and not is_lazy(tensor)
    }
    # Hashing a large network on one core would take longer than a batch; hashlib frees the lock.
    with ThreadPoolExecutor(torch.get_num_threads(), "digests") as pool:
        return dict(zip(named, pool.map(_digest, named.values()), strict=True))


def _digest(tensor: torch.Tensor) -> str:
    flat = tensor.cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype}{list(tensor.shape)}".encode())
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
