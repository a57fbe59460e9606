"""Save and restore the state of a module tree: attributes, modes, hooks and buffers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["Snapshot", "overwrite", "set_eval", "unchanged"]


class Snapshot:
    """A copy of the attributes of every module in a tree and of the contents of every buffer.

    Parameters are kept by reference, since inference does not write to them. The contents of
    containers in a user's own attributes are not copied.
    """

    def __init__(self, root: torch.nn.Module) -> None:
        self._attributes = [(module, dict(module.__dict__)) for module in root.modules()]
        # Restored in place: hook handles hold weak references to these containers.
        # Most of them are empty: a network of 500 modules has thousands.
        self._containers: list[tuple[Any, Any]] = [
            (value, value.copy() if value else ())
            for _, attributes in self._attributes
            for key, value in attributes.items()
            if isinstance(value, dict | set) and key.startswith("_")
        ]
        self._buffers = [(buffer, buffer.detach().clone()) for buffer in root.buffers()]

    def restore(self) -> None:
        """Restore everything bit for bit; buffers keep their identity."""
        for module, attributes in self._attributes:
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for container, members in self._containers:
            if container or members:
                container.clear()
                container.update(members)
        for buffer, contents in self._buffers:
            if not torch.equal(buffer, contents):
                overwrite(buffer, contents)


def overwrite(buffer: torch.Tensor, contents: torch.Tensor) -> None:
    """Write a tensor's contents in place, including a tensor created in inference mode."""
    with torch.inference_mode(buffer.is_inference()), torch.no_grad():
        buffer.copy_(contents)


@contextmanager
def unchanged(root: torch.nn.Module) -> Iterator[None]:
    """Restore the tree when the context exits, with or without an exception."""
    snapshot = Snapshot(root)
    try:
        yield
    finally:
        snapshot.restore()


def set_eval(root: torch.nn.Module) -> None:
    """Set `training` to False on every module of the tree. Modified: yes; restore a snapshot.

    The flag is written directly instead of calling `train()`: an overridden `train` may merge
    weights, refuse to change the mode, or modify its children.
    """
    for module in root.modules():
        module.training = False
