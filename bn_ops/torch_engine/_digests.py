"""Digests of a module's tensors, to prove which of them did not change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import chain

import torch
from torch.nn.parameter import is_lazy

from bn_ops.torch_engine._layers import TorchLayer

__all__ = ["tensor_digests"]


def tensor_digests(root: torch.nn.Module, changeable: Iterable[TorchLayer]) -> dict[str, str]:
    """sha256 of every parameter and buffer but the statistics of the layers given, by path."""
    skipped = {
        id(tensor) for layer in changeable if layer.tracked for tensor in (layer.mean, layer.var)
    }
    named = chain(root.named_parameters(), root.named_buffers())
    return {
        name: _digest(tensor)
        for name, tensor in named
        if id(tensor) not in skipped and not is_lazy(tensor)
    }


def _digest(tensor: torch.Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    head = f"{tensor.dtype}{list(tensor.shape)}".encode()
    return hashlib.sha256(head + flat.view(torch.uint8).numpy().tobytes()).hexdigest()
