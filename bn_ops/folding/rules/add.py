"""Add, Sub and Sum, of branches and of stored tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bn_ops.folding.affine import ChannelAffine, Float64Array, along
from bn_ops.folding.constants import Constant
from bn_ops.folding.names import describe
from bn_ops.folding.plan import Edit, Outcome, Plan, PutConstant, Refusal, merge
from bn_ops.folding.rules.base import Rule, Walk

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["AddRule"]


class AddRule(Rule):
    """Scales every term; a stored term takes the shift if there is one, else the first term."""

    name: ClassVar[str] = "add"
    ops: ClassVar[frozenset[str]] = frozenset({"Add", "Sub", "Sum"})

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """a·(u + v) + b = a·u + (a·v + b)."""
        terms = _terms(node)
        rank = walk.shapes.rank(node.outputs[0])
        if terms is None or rank is None:
            return Refusal(reason=f"the shape of the sum {describe(node)} is not known")
        stored = {i: c for i in terms if isinstance(c := walk.constants.read(node, i), Constant)}
        if len(stored) == len(terms):
            return Refusal(reason=f"{describe(node)} adds only stored tensors")
        taker = min(stored, default=0)
        plans: list[Plan] = []
        for index in terms:
            part = affine if index == taker else affine.scale_only()
            outcome = (
                _stored(node, index, stored[index], part, rank)
                if index in stored
                else _branch(node, index, part, walk)
            )
            if isinstance(outcome, Refusal):
                return outcome
            plans.append(outcome)
        return merge(plans).via(self.name)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Absorb a pure shift into a stored term or pass it on; decline a scale."""
        terms = _terms(node)
        if terms is None or affine.scales:
            return Refusal(reason=f"{describe(node)} adds a term that would be scaled with it")
        if not _spans(node.inputs[index], node, affine, walk):
            return Refusal(reason=f"the shape of the sum {describe(node)} is not known")
        signed = _signed(node, index, affine)
        for other in terms:
            stored = walk.constants.read(node, other) if other != index else None
            if isinstance(stored, Constant):
                rank = walk.shapes.rank(node.outputs[0])
                assert rank is not None  # _spans holds
                into = _signed(node, other, signed)
                array = stored.array + along(into.shift, axis=affine.axis, rank=rank)
                return Plan(edits=(_put(node, other, array, stored),), path=f"next-{self.name}")
        onward = walk.forward(node.outputs[0], signed)
        return onward if isinstance(onward, Refusal) else onward.via(self.name)


def _terms(node: ir.Node) -> tuple[int, ...] | None:
    if not node.inputs or any(value is None for value in node.inputs):
        return None
    return tuple(range(len(node.inputs)))


def _signed(node: ir.Node, index: int, affine: ChannelAffine) -> ChannelAffine:
    """Negate the shift where the term is subtracted."""
    if node.op_type != "Sub" or index == 0:
        return affine
    return ChannelAffine(scale=affine.scale, shift=-affine.shift, axis=affine.axis)


def _stored(
    node: ir.Node, index: int, stored: Constant, affine: ChannelAffine, rank: int
) -> Outcome:
    if stored.array.ndim > rank:
        return Refusal(reason=f"a stored term of {describe(node)} does not fit its output")
    part = _signed(node, index, affine)
    scale = along(part.scale, axis=part.axis, rank=rank)
    array = scale * stored.array + along(part.shift, axis=part.axis, rank=rank)
    return Plan(edits=(_put(node, index, array, stored),), path="")


def _put(node: ir.Node, index: int, array: Float64Array, stored: Constant) -> Edit:
    value = node.inputs[index]
    hint = f"{'' if value is None else value.name}.folded"
    return PutConstant(node=node, index=index, array=array, dtype=stored.dtype, hint=hint)


def _branch(node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
    value = node.inputs[index]
    if value is None or not _spans(value, node, affine, walk):
        return Refusal(reason=f"a branch of {describe(node)} may be broadcast by the sum")
    return walk.backward(value, _signed(node, index, affine))


def _spans(value: ir.Value | None, node: ir.Node, affine: ChannelAffine, walk: Walk) -> bool:
    """Return whether a term has all axes and channels of the sum, so that it is not broadcast."""
    own, whole = walk.shapes.dims(value), walk.shapes.dims(node.outputs[0])
    if own is None or whole is None or len(own) != len(whole) or affine.axis >= len(own):
        return False
    return own[affine.axis] == affine.channels == whole[affine.axis]
