"""Convert a torch batch to the feeds of an ONNX model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx


def feeds_of(model: onnx.ModelProto, inputs: Any) -> dict[str, NDArray[np.generic]]:
    """Return the inputs as numpy arrays by name; positional inputs take the names of the graph."""
    given = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in given]
    if isinstance(inputs, dict):
        return {name: np.asarray(inputs[name]) for name in names}
    return {name: np.asarray(x) for name, x in zip(names, inputs, strict=True)}
