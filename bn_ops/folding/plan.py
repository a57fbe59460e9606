"""What a rule answers: a plan of edits, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bn_ops.folding.numbers import CastFault, cast_fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from bn_ops.folding.affine import Float64Array

__all__ = ["AddAfter", "Edit", "Outcome", "Plan", "PutConstant", "PutFloat", "Refusal", "ToGemm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a map cannot be absorbed, as a clause for a person."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PutConstant:
    """Give a node a new constant as one of its inputs.

    Attributes:
        node: the node to edit.
        index: which input; the list of inputs grows where it is shorter.
        array: the exact value, float64; cast once, when the file is written.
        dtype: the element type to store.
        hint: what to call the tensor if a new one must be made.
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
    """Insert `Add(output, array)` behind a node's first output.

    Only used where a BatchNormalization leaves in exchange, so that no compute is added.
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
    """Edits that absorb a map when carried out together.

    Attributes:
        edits: what to do; none is done unless all can be.
        path: the rules on the way, from the layer outwards.
    """

    edits: tuple[Edit, ...]
    path: str

    def via(self, rule: str) -> Plan:
        """Return the plan, reached through one more rule."""
        return Plan(edits=self.edits, path=f"{rule}/{self.path}" if self.path else rule)

    def also(self, *edits: Edit) -> Plan:
        """Return the plan with more edits."""
        return Plan(edits=self.edits + edits, path=self.path)

    def fault(self) -> Refusal | None:
        """Tell why a number of the plan cannot be stored in the element type that it must have."""
        for edit in self.edits:
            if isinstance(edit, PutFloat):
                continue
            fault = cast_fault(edit.array, edit.dtype)
            if fault is not None:
                return Refusal(reason=_sentence(fault, edit))
        return None


Outcome = Plan | Refusal


def merge(plans: Sequence[Plan]) -> Plan:
    """Join the plans of several branches."""
    paths = sorted({plan.path for plan in plans if plan.path})
    return Plan(edits=tuple(e for plan in plans for e in plan.edits), path="+".join(paths))


def _sentence(fault: CastFault, edit: PutConstant | AddAfter | ToGemm) -> str:
    tensor = f"the folded {edit.hint!r} in {edit.dtype.name.lower()}"
    if fault == "overflow":
        return f"{tensor} would overflow"
    return f"{tensor} would lose its digits: all of it lies below the smallest normal number"
