"""The result of folding: the folded model and the outcome of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from bn_ops.diagnostics.report import LayerFold
from bn_ops.onnx_files.read_write import write_model

if TYPE_CHECKING:
    import onnx

    from bn_ops.folding.affine import Float64Array

__all__ = ["Folded", "Unfolded"]

Unfolded = Literal["keep", "mul_add"]
"""What to do with layers that cannot be folded: keep them, or rewrite them as Mul and Add."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """A folded model.

    Attributes:
        model: a new model; the given model is not changed.
        layers: one entry per BatchNormalization of the given model: those of the main graph in
            node order, then those inside subgraphs and functions.
        exact: initializer of the folded model written by folding → its value before rounding to the
            file's element type, float64. The certificate of the fold: see
            `bn_ops.verification.decision`.
    """

    model: onnx.ModelProto
    layers: tuple[LayerFold, ...]
    exact: Mapping[str, Float64Array] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )

    def save(self, path: str | Path) -> None:
        """Write the folded model to a file, atomically and durably.

        A model above 2 GiB is written with external data; see `bn_ops.onnx_files.read_write`.

        Raises:
            OSError: the file cannot be written; an existing file is unchanged.
        """
        write_model(self.model, Path(path))

    @property
    def kept(self) -> tuple[LayerFold, ...]:
        """Return the layers that were not folded, with their reasons."""
        return tuple(layer for layer in self.layers if layer.status == "kept")
