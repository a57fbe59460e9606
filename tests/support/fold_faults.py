"""Deliberately wrong folds of selected convolutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bn_ops.folding.plan import Outcome, Plan, PutConstant
from bn_ops.folding.rules.conv import ConvRule

if TYPE_CHECKING:
    import onnx_ir as ir

    from bn_ops.folding.affine import ChannelAffine, Float64Array
    from bn_ops.folding.rules import Walk

Spoil = Callable[[PutConstant], PutConstant | None]
"""Changes an edit (input 1 of a convolution is its weight, input 2 its bias) or drops it (None)."""


def hundredth_in_all(edit: PutConstant) -> PutConstant:
    return _with(edit, 1.01 * edit.array) if edit.index == 1 else edit


def thousandth_in_one_channel(edit: PutConstant) -> PutConstant:
    array = edit.array.copy()
    array[0] *= 1.001
    return _with(edit, array) if edit.index == 1 else edit


def channels_swapped(edit: PutConstant) -> PutConstant:
    return _with(edit, np.roll(edit.array, 1, axis=0)) if edit.index == 1 else edit


def bias_missing(edit: PutConstant) -> PutConstant:
    return _with(edit, np.zeros_like(edit.array)) if edit.index == 2 else edit


def bias_off_by_a_ten_thousandth(edit: PutConstant) -> PutConstant:
    return _with(edit, edit.array + 1e-4) if edit.index == 2 else edit


def epsilon_of_another_layer(edit: PutConstant) -> PutConstant:
    """Use epsilon 1e-5 instead of 1e-3, for a layer of variance 1."""
    factor = np.sqrt((1.0 + 1e-3) / (1.0 + 1e-5))
    return _with(edit, factor * edit.array) if edit.index == 1 else edit


def rounded_twice(edit: PutConstant) -> PutConstant:
    """Round to float16 first, as if the statistics were stored in float16."""
    rough = edit.array.astype(np.float16).astype(np.float64)
    return _with(edit, rough) if edit.index == 1 else edit


FAULTS: tuple[Spoil, ...] = (
    thousandth_in_one_channel,
    channels_swapped,
    bias_missing,
    bias_off_by_a_ten_thousandth,
    epsilon_of_another_layer,
    rounded_twice,
)


class FaultyConv(ConvRule):
    """Folds the named convolutions incorrectly and all others correctly."""

    def __init__(self, *wrong: str, spoil: Spoil = hundredth_in_all) -> None:
        self.wrong = wrong
        self.spoil = spoil

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        outcome = super().backward(node, affine, walk)
        if not isinstance(outcome, Plan) or node.name not in self.wrong:
            return outcome
        edits = [self.spoil(e) if isinstance(e, PutConstant) else e for e in outcome.edits]
        return Plan(edits=tuple(e for e in edits if e is not None), path=outcome.path)


def _with(edit: PutConstant, array: Float64Array) -> PutConstant:
    return replace(edit, array=array)
