"""What folding hands back: the folded model and, for each layer, what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from bn_ops.errors import OptionError
from bn_ops.onnx_files.read_write import write_model

if TYPE_CHECKING:
    import onnx

    from bn_ops.folding.affine import Float64Array

__all__ = ["Folded", "LayerFold", "Leftovers", "Status"]

Status = Literal["folded", "kept"]
Leftovers = Literal["keep", "mul_add"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFold:
    """What became of one BatchNormalization.

    Attributes:
        name: the layer's name: its node's, or its first output's when the node has none.
        status: `folded` when no operator computes it any more, else `kept`.
        rule: what took it up, from the layer outwards (`conv`, `concat/conv`, `next-gemm`);
            `mul-add` for a kept layer that was written as Mul and Add; else None.
        reason: why it was kept, for a person; None when it was folded.
    """

    name: str
    status: Status
    rule: str | None
    reason: str | None

    def __post_init__(self) -> None:
        if (self.status == "kept") == (self.reason is None):
            raise OptionError("a layer has a reason exactly when it was kept")

    def to_json(self) -> dict[str, str | None]:
        """Return the plain JSON value."""
        return {
            "name": self.name,
            "status": self.status,
            "rule": self.rule,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """A folded model.

    Attributes:
        model: a new model; the one that was given is untouched.
        layers: one entry per BatchNormalization of the given model: those of the main graph in
            the order of its nodes, then those inside bodies and functions.
        exact: initializer of the folded model that folding has written → its value before it was
            rounded to the file's element type, float64. The proof of the fold: see
            `bn_ops.verification.witness`.
    """

    model: onnx.ModelProto
    layers: tuple[LayerFold, ...]
    exact: Mapping[str, Float64Array] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )

    def save(self, path: str | Path) -> None:
        """Write the folded model to a file, atomically and durably.

        A model above 2 GiB gets its tensors beside it; see `bn_ops.onnx_files.read_write`.

        Raises:
            OSError: the file cannot be written; what stood there is untouched.
        """
        write_model(self.model, Path(path))

    @property
    def kept(self) -> tuple[LayerFold, ...]:
        """Return the layers that stayed, with their reasons."""
        return tuple(layer for layer in self.layers if layer.status == "kept")
