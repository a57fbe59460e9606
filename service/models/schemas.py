"""Models on the wire."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from service.models.store import StoredModel


class TensorOut(BaseModel):
    """One input or output; a null axis is free, a null shape unknown."""

    name: str
    dtype: str
    shape: list[int | str | None] | None


class LayerOut(BaseModel):
    """One BatchNorm layer; `reason` says why it cannot be recalibrated."""

    name: str
    channels: int | None
    eps: float
    affine: bool
    input_rank: int | None
    reason: str | None


class ModelOut(BaseModel):
    """One uploaded model."""

    id: str
    bytes: int
    created: str
    inputs: list[TensorOut]
    outputs: list[TensorOut]
    layers: list[LayerOut]
    warnings: list[str]

    @staticmethod
    def of(model: StoredModel) -> ModelOut:
        """Write a stored model."""
        fields: dict[str, Any] = {"id": model.id, "bytes": model.bytes, "created": model.created}
        return ModelOut.model_validate(fields | model.description)


class ModelPage(BaseModel):
    """A page of models."""

    items: list[ModelOut]
    next: str | None
