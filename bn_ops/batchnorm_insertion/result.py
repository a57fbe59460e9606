"""What an insertion returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bn_ops.core.statistics import LayerName
from bn_ops.onnx_files.read_write import write_model

if TYPE_CHECKING:
    import onnx

    from bn_ops.diagnostics.report import Parity

__all__ = ["InsertedLayer", "Insertion", "LeftOperator"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InsertedLayer:
    """One inserted BatchNormalization.

    Attributes:
        name: the layer's name.
        operator: name of the convolution, MatMul or Gemm before it.
        channels: number of channels.
        dead: channels without variance over the source samples; they stay constant.
    """

    name: LayerName
    operator: str
    channels: int
    dead: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOperator:
    """One convolution, MatMul or Gemm without an inserted layer, and why."""

    operator: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Insertion:
    """A model with inserted BatchNorm layers, which computes what the given one does.

    Attributes:
        model: a new model; the given one is not changed.
        layers: the inserted layers, in the order of the graph.
        left: the operators that got none.
        samples: number of source samples that were measured.
        parity: the comparison of both models; it has passed.
    """

    model: onnx.ModelProto = field(repr=False)
    layers: tuple[InsertedLayer, ...]
    left: tuple[LeftOperator, ...]
    samples: int
    parity: Parity

    def save(self, path: str | Path) -> None:
        """Write the model to a file, atomically and durably.

        Raises:
            OSError: the file cannot be written; an existing file is untouched.
        """
        write_model(self.model, Path(path))
