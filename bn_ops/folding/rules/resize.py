"""Resize and Upsample with interpolation weights that sum to one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bn_ops.folding.names import describe
from bn_ops.folding.plan import Outcome, Refusal
from bn_ops.folding.rules.base import Rule, Walk

if TYPE_CHECKING:
    import onnx_ir as ir

    from bn_ops.folding.affine import ChannelAffine

__all__ = ["ResizeRule"]


class ResizeRule(Rule):
    """Nearest and linear interpolation of positions, without extrapolation."""

    name: ClassVar[str] = "resize"
    ops: ClassVar[frozenset[str]] = frozenset({"Resize", "Upsample"})

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Pass the map on to the input."""
        value = node.inputs[0]
        if value is None or not _interpolates(node, affine, walk):
            return _declined(node)
        onward = walk.backward(value, affine)
        return onward if isinstance(onward, Refusal) else onward.via(self.name)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Pass the map on to the output."""
        if index != 0 or not _interpolates(node, affine, walk):
            return _declined(node)
        onward = walk.forward(node.outputs[0], affine)
        return onward if isinstance(onward, Refusal) else onward.via(self.name)


def _interpolates(node: ir.Node, affine: ChannelAffine, walk: Walk) -> bool:
    attributes = node.attributes
    mode = attributes.get_string("mode", "nearest")
    coordinates = attributes.get_string("coordinate_transformation_mode", "half_pixel")
    if mode not in {"nearest", "linear"} or coordinates == "tf_crop_and_resize":
        return False
    if attributes.get_int("antialias", 0) or "axes" in attributes:
        return False
    own, out = walk.shapes.dims(node.inputs[0]), walk.shapes.dims(node.outputs[0])
    if own is None or out is None or affine.axis >= min(len(own), len(out)):
        return False
    return own[affine.axis] == affine.channels == out[affine.axis]


def _declined(node: ir.Node) -> Refusal:
    return Refusal(reason=f"{describe(node)} may mix channels or extrapolate")
