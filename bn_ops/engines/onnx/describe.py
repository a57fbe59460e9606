"""Describe a model, and reject one without BatchNorm layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bn_ops.core.layers import LayerInfo, ModelInfo
from bn_ops.engines.onnx.graph import is_standard
from bn_ops.engines.onnx.prepare import PreparedModel
from bn_ops.engines.onnx.signature import model_inputs, model_outputs
from bn_ops.errors import ModelAlreadyFoldedError, ModelWithoutBatchNormError

if TYPE_CHECKING:
    import onnx

__all__ = ["describe_prepared", "require_layers"]

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "FusedConv"})
_BIAS = 2

_EXPORT_AGAIN = (
    "export the original network again with its BatchNorm kept: "
    "bn_ops.export(module, example_inputs), or torch.onnx.export(..., optimize=False) on "
    "module.eval(), or the TorchScript exporter with training=TrainingMode.PRESERVE and "
    "do_constant_folding=False. Without the network, unlabeled samples of the domain that it was "
    "trained on are enough: source_batches= or --source (see bn_ops.insert_batchnorm)"
)


def describe_prepared(prepared: PreparedModel) -> ModelInfo:
    """Return the description of a prepared model.

    Raises:
        ModelWithoutBatchNormError: it has no BatchNorm layer.
    """
    require_layers(prepared)
    return ModelInfo(
        inputs=model_inputs(prepared.model),
        outputs=model_outputs(prepared.model),
        layers=prepared.layers,
        warnings=tuple(_warnings(prepared.layers)),
    )


def require_layers(prepared: PreparedModel) -> None:
    """Reject a model without BatchNorm layers, with the likely reason.

    Raises:
        ModelAlreadyFoldedError: convolutions have biases, which indicates folded BatchNorm.
        ModelWithoutBatchNormError: there is no indication of BatchNorm.
    """
    if prepared.layers:
        return
    convolutions, biased = _count_convolutions(prepared.model.graph)
    if biased:
        raise ModelAlreadyFoldedError(
            f"the model has no BatchNormalization node, but {biased} of its {convolutions} "
            "convolutions have a bias: the exporter has most likely folded BatchNorm into them, "
            f"and folded statistics cannot be recalibrated; {_EXPORT_AGAIN}"
        )
    raise ModelWithoutBatchNormError(
        "the model has no BatchNormalization node, so there are no statistics to recalibrate. "
        "LayerNorm, GroupNorm and InstanceNorm have none. If the network was trained with "
        f"BatchNorm, the exporter has removed it: {_EXPORT_AGAIN}"
    )


def _count_convolutions(graph: onnx.GraphProto) -> tuple[int, int]:
    found = [n for n in graph.node if n.op_type in _CONVOLUTIONS]
    biased = [n for n in found if len(n.input) > _BIAS and n.input[_BIAS] and is_standard(n)]
    return len(found), len(biased)


def _warnings(layers: tuple[LayerInfo, ...]) -> list[str]:
    blocked = [layer for layer in layers if layer.reason is not None]
    if not blocked:
        return []
    first = f"{blocked[0].name!r}: {blocked[0].reason}"
    if len(blocked) == len(layers):
        return [f"none of the {len(layers)} layers can be recalibrated; {first}"]
    return [f"{len(blocked)} of {len(layers)} layers cannot be recalibrated; {first}"]
