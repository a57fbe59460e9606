"""The outcome of a rule: a plan of edits, or a refusal with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bn_ops.folding.casting import CastFault, cast_fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from bn_ops.folding.affine import Float64Array

__all__ = ["AddAfter", "Edit", "Outcome", "Plan", "PutConstant", "PutFloat", "Refusal", "ToGemm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a map cannot be absorbed, as a clause."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PutConstant:
    """Set an input of a node to a new constant.

    Attributes:
        node: the node to edit.
        index: index of the input; the list of inputs is extended if necessary.
        array: the exact value, float64; cast once, when the file is written.
        dtype: the element type to store.
        hint: name of the tensor if a new one is created.
    """

    node: ir.Node
    index: int
    array: Float64Array
    dtype: ir.DataType
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PutFloat:
    """Set a float attribute of a node."""

    node: ir.Node
    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AddAfter:
    """Insert `Add(output, array)` after a node's first output.

    Only used where a BatchNormalization is removed in exchange, so that no computation is added.
    """

    node: ir.Node
    array: Float64Array
    dtype: ir.DataType
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ToGemm:
    """Turn a MatMul of two matrices into a Gemm with a bias of shape (N,)."""

    node: ir.Node
    array: Float64Array
    dtype: ir.DataType
    hint: str


Edit = PutConstant | PutFloat | AddAfter | ToGemm


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Edits that absorb a map when applied together.

    Attributes:
        edits: applied all or none.
        path: the rules involved, from the layer outwards.
    """

    edits: tuple[Edit, ...]
    path: str

    def via(self, rule: str) -> Plan:
        """Return the plan with one more rule in front of its path."""
        return Plan(edits=self.edits, path=f"{rule}/{self.path}" if self.path else rule)

    def also(self, *edits: Edit) -> Plan:
        """Return the plan with more edits."""
        return Plan(edits=self.edits + edits, path=self.path)

    def cast_refusal(self) -> Refusal | None:
        """Return why a value of the plan cannot be stored in its element type, or None."""
        for edit in self.edits:
            if isinstance(edit, PutFloat):
                continue
            fault = cast_fault(edit.array, edit.dtype)
            if fault is not None:
                return Refusal(reason=_cast_reason(fault, edit))
        return None


Outcome = Plan | Refusal


def merge(plans: Sequence[Plan]) -> Plan:
    """Join the plans of several branches."""
    paths = sorted({plan.path for plan in plans if plan.path})
    return Plan(edits=tuple(e for plan in plans for e in plan.edits), path="+".join(paths))


def _cast_reason(fault: CastFault, edit: PutConstant | AddAfter | ToGemm) -> str:
    tensor = f"the folded {edit.hint!r} in {edit.dtype.name.lower()}"
    if fault == "overflow":
        return f"{tensor} would overflow"
    return f"{tensor} would underflow: all of its values are below the smallest normal number"
