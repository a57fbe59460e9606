"""Run a module tree as in eval mode, and give every module its own mode back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["evaluating"]


@contextmanager
def evaluating(root: torch.nn.Module) -> Iterator[None]:
    """Set `training` to False on every module of the tree; restore each flag on leaving.

    The flag is written, `train()` is not called: an overridden `train` may merge weights, refuse
    to leave eval mode, or touch its children.
    """
    before = [(module, module.training) for module in root.modules()]
    try:
        for module, _ in before:
            module.training = False
        yield
    finally:
        for module, training in before:
            module.training = training
