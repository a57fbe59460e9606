"""The opset and the target that a caller requests for the model to deploy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from bn_ops.errors import EngineError, ModelInvalidError, OptionError, TargetError
from bn_ops.onnx_files.deployment.opset import convert_opset, max_opset
from bn_ops.onnx_files.deployment.targets import TARGETS, OperatorTable, Target, check_opset
from bn_ops.onnx_files.session import session
from bn_ops.onnx_files.traversal import nested_nodes, standard_opset

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bn_ops.core.signature import Batch

__all__ = ["Deployment"]

_TOLERANCES: Mapping[str, float] = {"float64": 1e-9, "float32": 1e-4}
_COARSE_TOLERANCE = 2e-2
"""Allowed difference of a converted model, relative to the output's largest value, by the output's
element type. Nearly every conversion changes no bit. Where an operator is replaced by its
definition, the rounding of the intermediate results differs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """The requested form of the model to deploy.

    Attributes:
        opset: version of the default operator set; None to keep the model's where the target
            allows it.
        target: key of `TARGETS`; None for no check of operators.

    Raises:
        OptionError: an unknown target, or an opset that onnx or the target does not support.
    """

    opset: int | None = None
    target: str | None = None

    def __post_init__(self) -> None:
        check_opset(self.opset, self.target)
        if self.opset is not None and self.opset > max_opset():
            raise OptionError(
                f"opset is {self.opset}; the newest of onnx {onnx.__version__} is {max_opset()}"
            )

    @property
    def _table(self) -> Target | None:
        return None if self.target is None else TARGETS[self.target]

    @property
    def is_default(self) -> bool:
        """Whether nothing was requested."""
        return self.opset is None and self.target is None

    def opset_for(self, model: onnx.ModelProto) -> int:
        """Return the opset of the model to deploy: the nearest one that the target supports."""
        if self.opset is not None:
            return self.opset
        current = standard_opset(model)
        if self._table is None:
            return current
        first, last = self._table.opsets
        return min(max(current, first), last)

    def converted(
        self, model: onnx.ModelProto, samples: Iterable[Batch], *, threads: int | None = None
    ) -> onnx.ModelProto:
        """Return the model in the requested opset; the same object if it has that already.

        Args:
            model: not changed.
            samples: batches on which both models must compute the same.
            threads: threads within an operator; None means every core.

        Raises:
            TargetError: an operator cannot be expressed in that opset, or the converted model
                computes something else.
        """
        opset = self.opset_for(model)
        if opset == standard_opset(model):
            return model
        converted = self._name_target(convert_opset, model, opset)
        _require_same(model, converted, samples, opset=opset, threads=threads)
        return converted

    def check_source(self, model: onnx.ModelProto) -> None:
        """Check a model before it is recalibrated, for what cannot change until it is deployed.

        The conversion is repeated with the new statistics after the run. It takes 0.04 to 0.06 s
        for a ResNet-18, and a stream may take hours.

        Raises:
            TargetError: the deployed model could not have the requested form.
        """
        if self.is_default:
            return
        self._name_target(convert_opset, model, self.opset_for(model))
        self.check(model, ignore=frozenset({"BatchNormalization"}))

    def check(self, model: onnx.ModelProto, *, ignore: frozenset[str] = frozenset()) -> None:
        """Check that the target has every operator of a model.

        Args:
            model: not changed.
            ignore: default operators that need not be in the table.

        Raises:
            TargetError: names the first operator that it lacks, the nodes and what to do.
        """
        if self._table is None:
            return
        missing = min((_missing(table, model, ignore) for table in self._table.tables), key=len)
        if not missing:
            return
        (domain, operator), nodes = next(iter(missing.items()))
        name = f"{domain}.{operator}" if domain else operator
        others = sorted(other for _, other in missing if other != operator)
        more = f" (also {', '.join(others)})" if others else ""
        shown = ", ".join(map(repr, nodes[:3])) + (", …" if len(nodes) > 3 else "")  # noqa: PLR2004
        raise TargetError(
            f"{self._table.title} has no operator {name}, which the model uses in {len(nodes)} "
            f"node{'' if len(nodes) == 1 else 's'} ({shown}){more}. Replace it in the network, or "
            f"{self._table.advice}. Source: {self._table.source}",
            operator=name,
            opset=standard_opset(model),
            target=self.target,
        )

    def _name_target(self, convert: Any, model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
        """Convert; an error then names the target that requires the opset."""
        try:
            converted: onnx.ModelProto = convert(model, opset)
        except TargetError as error:
            if self._table is None:
                raise
            first, last = self._table.opsets
            raise TargetError(
                f"{error.message} ({self._table.title} takes opsets {first} to {last})",
                operator=error.operator,
                opset=error.opset,
                target=self.target,
            ) from error
        return converted


def _missing(
    table: OperatorTable, model: onnx.ModelProto, ignore: frozenset[str]
) -> dict[tuple[str, str], list[str]]:
    """Return the operators that a table lacks, with the names of their nodes."""
    found: dict[tuple[str, str], list[str]] = {}
    for node in nested_nodes(model.graph.node):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if table.has(domain, node.op_type) or (not domain and node.op_type in ignore):
            continue
        name = node.name or (node.output[0] if node.output else "")
        found.setdefault((domain, node.op_type), []).append(name)
    return found


def _require_same(
    model: onnx.ModelProto,
    converted: onnx.ModelProto,
    samples: Iterable[Batch],
    *,
    opset: int,
    threads: int | None,
) -> None:
    """Compare the outputs of a model and its converted form."""
    names = [value.name for value in model.graph.output]
    advice = "choose another opset"
    try:
        candidate = session(converted, threads=threads, optimize=False)
    except ModelInvalidError as error:
        raise _differs(f"cannot be loaded: {error.message}; {advice}", opset) from error
    original = session(model, threads=threads, optimize=False)
    for batch in samples:
        try:
            found = candidate.run(names, batch)
        except EngineError as error:
            raise _differs(f"cannot be run: {error.message}; {advice}", opset) from error
        for name, want, got in zip(names, original.run(names, batch), found, strict=True):
            difference = _relative_difference(want, got)
            if difference > _TOLERANCES.get(want.dtype.name, _COARSE_TOLERANCE):
                raise _differs(
                    f"differs in its output {name!r} by {difference:.1e} of the largest value; "
                    f"{advice}",
                    opset,
                )


def _differs(what: str, opset: int) -> TargetError:
    return TargetError(f"the model converted to opset {opset} {what}", operator=None, opset=opset)


def _relative_difference(want: NDArray[np.generic], got: NDArray[np.generic]) -> float:
    if want.shape != got.shape or want.dtype != got.dtype:
        return float("inf")
    if want.tobytes() == got.tobytes():
        return 0.0
    if want.dtype.kind not in "fV":  # V: bfloat16
        return float(np.mean(want != got))
    wide, other = want.astype(np.float64), got.astype(np.float64)
    if not np.array_equal(np.isfinite(wide), np.isfinite(other)):
        return float("inf")
    finite = np.isfinite(wide)
    scale = float(np.abs(wide[finite]).max(initial=0.0))
    return float(np.abs(wide[finite] - other[finite]).max(initial=0.0)) / (scale or 1.0)
