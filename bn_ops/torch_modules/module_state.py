"""A module tree as it was: attributes, modes, hooks and buffers, put back bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["Snapshot", "overwrite", "unchanged"]


class Snapshot:
    """Attributes of every module of a tree and contents of every buffer, copied when built.

    Parameters are held by reference: nothing in inference writes to one. Contents of containers
    in attributes of a user's own are not copied either.
    """

    def __init__(self, root: torch.nn.Module) -> None:
        self._attributes = [(module, dict(module.__dict__)) for module in root.modules()]
        # Kept in place, since hook handles refer to them weakly.
        self._containers: list[tuple[Any, Any]] = [
            (value, value.copy())
            for _, attributes in self._attributes
            for key, value in attributes.items()
            if key.startswith("_") and isinstance(value, dict | set)
        ]
        self._buffers = [(buffer, buffer.detach().clone()) for buffer in root.buffers()]

    def restore(self) -> None:
        """Put everything back; buffers keep their identity, only contents are written."""
        for module, attributes in self._attributes:
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for container, members in self._containers:
            container.clear()
            container.update(members)
        for buffer, contents in self._buffers:
            if not torch.equal(buffer, contents):
                overwrite(buffer, contents)


def overwrite(buffer: torch.Tensor, contents: torch.Tensor) -> None:
    """Write a tensor's contents in place, also into one that was made in inference mode."""
    with torch.inference_mode(buffer.is_inference()), torch.no_grad():
        buffer.copy_(contents)


@contextmanager
def unchanged(root: torch.nn.Module) -> Iterator[None]:
    """Put the tree back on leaving, however it is left."""
    snapshot = Snapshot(root)
    try:
        yield
    finally:
        snapshot.restore()
