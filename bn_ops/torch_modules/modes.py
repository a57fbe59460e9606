"""Eval mode for a whole tree, by its flags alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["set_eval"]


def set_eval(root: torch.nn.Module) -> None:
    """Set `training` to False on every module of the tree. Modified: yes; restore a snapshot.

    The flag is written, `train()` is not called: an overridden `train` may merge weights, refuse
    to leave its mode, or touch its children.
    """
    for module in root.modules():
        module.training = False
