"""Describing a model that can be given BatchNorm layers."""

from __future__ import annotations

from typing import Any

from bn_ops.batchnorm_insertion.sites import find_sites
from bn_ops.core.layers import ModelInfo
from bn_ops.engines.onnx.graph import index_graph
from bn_ops.engines.onnx.prepare import prepare
from bn_ops.engines.onnx.signature import model_inputs, model_outputs
from bn_ops.model_sources import as_onnx
from bn_ops.onnx_files.load import load_model

__all__ = ["describe_insertable"]


def describe_insertable(model: Any) -> ModelInfo | None:
    """Return inputs and outputs of a model that BatchNorm layers can be inserted into.

    Args:
        model: as for `insert_batchnorm`. Not changed.

    Returns:
        The description, whose `layers` are those that the model has already; None where
        `bn_ops.batchnorm_insertion.sites` finds no place for a layer.

    Raises:
        ModelInvalidError: not an ONNX model.
    """
    prepared = prepare(load_model(as_onnx(model)))
    sites, _ = find_sites(index_graph(prepared.model.graph))
    if not sites:
        return None
    return ModelInfo(
        inputs=model_inputs(prepared.model),
        outputs=model_outputs(prepared.model),
        layers=prepared.layers,
        warnings=(),
    )
