"""Evidence that the model is otherwise unchanged: digests, folding, parity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bn_ops.core.json_form import Json, json_object
from bn_ops.errors import OptionError

__all__ = ["DeployedForm", "FoldStatus", "FrozenReport", "LayerFold", "OutputParity", "Parity"]

FoldStatus = Literal["folded", "kept"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenReport:
    """Every tensor of the model that must not change.

    Attributes:
        tensors: name → sha256 before the run.
        sha256_before, sha256_after: one digest over all of them.
    """

    tensors: Mapping[str, str]
    sha256_before: str
    sha256_after: str

    @property
    def unchanged(self) -> bool:
        """Return whether the two digests are equal."""
        return self.sha256_before == self.sha256_after


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFold:
    """The outcome of folding one BatchNormalization node.

    Attributes:
        name: name of the layer: of its node, or of the node's first output where it has none.
        status: `folded` when no operator computes the layer any more, else `kept`.
        rule: the rules that absorbed it, from the layer outwards (`conv`, `concat/conv`,
            `next-gemm`); `mul-add` for a kept layer that was rewritten as Mul and Add; else None.
        reason: why the layer was kept, as text; None when it was folded.
    """

    name: str
    status: FoldStatus
    rule: str | None
    reason: str | None

    def __post_init__(self) -> None:
        if (self.status == "kept") == (self.reason is None):
            raise OptionError("a layer has a reason if and only if it was kept")

    def to_json(self) -> dict[str, Json]:
        """Return the plain JSON value, as the report holds it."""
        return json_object(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputParity:
    """The difference between the candidate and the reference in one output.

    The error of an element is its absolute difference divided by the output's scale: the largest
    absolute value of the reference for the same batch, but at least a thousandth of its largest
    value over the caller's own batches (or over random ones). Where the reference
    also ran in float64, the closer of the two results counts. For integer outputs the error is the
    share of elements that differ.

    Attributes:
        name: the output.
        max_relative_error: largest error of any element of any batch; infinite where NaN, infinity
            or the shape differ.
        mean_relative_error: largest mean error of any batch.
        rounding: how far rounding alone moves the reference: the larger of its error against
            float64 and the effect of one unit in the last place of every weight and input; None
            where neither was measured.
        worst_samples: name of the samples with the largest error, such as `batch 3` or `zeros`.
        allowed: the allowed error: the tolerance, or more where rounding is larger.
        exact_error: largest error of the candidate before its weights were rounded, with both
            models in float64; None where it could not be computed.
        failure: why the output failed, as a clause that begins with "by"; None if it passed.
    """

    name: str
    max_relative_error: float
    mean_relative_error: float
    rounding: float | None
    worst_samples: str
    allowed: float
    exact_error: float | None = None
    failure: str | None = None

    @property
    def passed(self) -> bool:
        """Return whether the output is within what is allowed."""
        return self.failure is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Whether two models compute the same outputs, and how closely.

    Attributes:
        outputs: one entry per compared output.
        samples: number of the caller's own samples that were run.
        tolerance: the allowed error. Unless the caller set it, an output that rounding alone moves
            further may differ by a few times as much; see `bn_ops.verification.decision`.
        passed: whether every output passed.
        max_relative_error: largest error of any output.
        reference: `float64`, or `native` where the reference ran only in its own element types.
        notes: sentences, such as why float64 was not available or what was not compared.
    """

    outputs: tuple[OutputParity, ...]
    samples: int
    tolerance: float
    passed: bool
    max_relative_error: float
    reference: str = "native"
    notes: tuple[str, ...] = ()

    @property
    def exact_error(self) -> float | None:
        """Return the largest float64 error before rounding, or None unless all outputs have one."""
        errors = [output.exact_error for output in self.outputs]
        known = [error for error in errors if error is not None]
        return max(known) if known and len(known) == len(errors) else None

    def to_json(self) -> dict[str, Json]:
        """Return the plain JSON value, as the report holds it; an infinite error becomes null."""
        return json_object(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployedForm:
    """The form of the folded model.

    Attributes:
        opset: its version of ONNX's default operator set.
        source_opset: that of the recalibrated model before a conversion.
        target: the deployment target whose operators were checked; None for no check.
    """

    opset: int
    source_opset: int
    target: str | None = None
