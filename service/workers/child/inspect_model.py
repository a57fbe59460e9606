"""Inspect an uploaded model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import bn_ops
from bn_ops.batchnorm_insertion import describe_insertable
from bn_ops.core.layers import LayerInfo, ModelInfo
from bn_ops.core.signature import TensorInfo
from bn_ops.errors import ExternalDataError, ModelInvalidError, ModelWithoutBatchNormError
from service.workers.child import model_policy
from service.workers.messages import WorkerTask

if TYPE_CHECKING:
    import onnx


def inspect(task: WorkerTask) -> dict[str, Any]:
    """Return `inputs`, `outputs`, `layers` and `warnings` of a model file.

    A model without BatchNorm layers that can be given some has no layers, a warning, and the code
    of bn_ops as `without_batchnorm`: it needs source batches.

    Raises:
        ModelUnsupportedError: the model violates the policy for untrusted models.
        BnOpsError: see `bn_ops.describe`.
    """
    model = model_policy.read(task.model)
    try:
        info, code = _described(task.model if model is None else model)
    except ExternalDataError as error:
        raise ExternalDataError(
            "the model has external data: send a zip archive of the model and its data files"
        ) from error
    except UnicodeDecodeError as error:
        raise ModelInvalidError(
            "this is not an ONNX model: a name in it is not valid UTF-8"
        ) from error
    return {
        "inputs": [_tensor(one) for one in info.inputs],
        "outputs": [_tensor(one) for one in info.outputs],
        "layers": [_layer(one) for one in info.layers],
        "warnings": list(info.warnings),
        "without_batchnorm": code,
    }


def _described(model: str | onnx.ModelProto) -> tuple[ModelInfo, str | None]:
    """Return the description of a model; with a code if BatchNorm layers must be inserted first."""
    try:
        return bn_ops.describe(model), None
    except ModelWithoutBatchNormError as error:
        info = describe_insertable(model)
        if info is None:
            raise
        warning = f"{error.message}. Over HTTP, they are sent as /source-batches/{{index}}"
        return replace(info, warnings=(*info.warnings, warning)), error.code


def _tensor(info: TensorInfo) -> dict[str, Any]:
    shape = None if info.shape is None else list(info.shape)
    return {"name": info.name, "dtype": info.dtype, "shape": shape}


def _layer(info: LayerInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "channels": info.channels,
        "eps": info.eps,
        "affine": info.affine,
        "input_rank": info.input_rank,
        "reason": info.reason,
    }
