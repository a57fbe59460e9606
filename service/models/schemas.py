"""Wire schemas of models."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from service.repositories.records import StoredModel

# Without null values: the framework omits them from the document.
_EXAMPLE: dict[str, Any] = {
    "id": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "bytes": 322570,
    "created": "2026-11-21T09:30:00.000Z",
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 1, 28, 28]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["N", 10]}],
    "layers": [
        {
            "name": "features.1",
            "channels": 16,
            "eps": 1e-05,
            "affine": True,
            "input_rank": 4,
            "reason": "the layer is in training mode",
        }
    ],
    "warnings": [],
    "needs_source_batches": False,
}


class TensorOut(BaseModel):
    """An input or output; a null axis has any size, a null shape is unknown."""

    name: str
    dtype: str
    shape: list[int | str | None] | None


class LayerOut(BaseModel):
    """A BatchNorm layer; `reason` is why it cannot be recalibrated, or null."""

    name: str
    channels: int | None
    eps: float
    affine: bool
    input_rank: int | None
    reason: str | None


class ModelOut(BaseModel):
    """An uploaded model.

    With `needs_source_batches`, its BatchNorm layers are missing or folded, and a run inserts them.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str
    bytes: int
    created: str
    inputs: list[TensorOut]
    outputs: list[TensorOut]
    layers: list[LayerOut]
    warnings: list[str]
    needs_source_batches: bool

    @staticmethod
    def of(model: StoredModel) -> ModelOut:
        """Return the wire form of a stored model."""
        fields: dict[str, Any] = {
            "id": model.id,
            "bytes": model.bytes,
            "created": model.created,
            "needs_source_batches": model.without_batchnorm() is not None,
        }
        return ModelOut.model_validate(fields | model.description)


class ModelPage(BaseModel):
    """A page of models."""

    items: list[ModelOut]
    next: str | None
