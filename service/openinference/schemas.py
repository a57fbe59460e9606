"""The protocol on the wire.

Source: Open Inference Protocol v2, REST; `config` is Triton's model configuration extension.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from bn_ops.core.signature import TensorInfo
from service.openinference.datatypes import IMAGES, from_numpy
from service.repositories.batches import StoredBatch
from service.repositories.records import Recalibration

VERSION = "1"
PLATFORM = "bnrecal_recalibration"
# What `config` calls the types: the protocol's names, of which one differs.
_CONFIG_TYPES = {IMAGES: "TYPE_STRING"}


class ServerOut(BaseModel):
    """The server and what it knows beyond the protocol's core."""

    name: str
    version: str
    extensions: list[str]


class LiveOut(BaseModel):
    """The server answers."""

    live: bool


class ReadyOut(BaseModel):
    """The server can store batches and begin runs."""

    ready: bool


class ModelReadyOut(BaseModel):
    """The recalibration takes batches."""

    name: str
    ready: bool


class TensorMetadata(BaseModel):
    """One tensor; a size of -1 is free."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A recalibration as a model: the network's inputs, and what is answered of a batch."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class TensorConfig(BaseModel):
    """One tensor as Triton's configuration writes it; a size of -1 is free."""

    name: str
    data_type: str
    dims: list[int]


class ModelConfig(BaseModel):
    """A recalibration as Triton's clients want to see it; `max_batch_size` 0: shapes are whole."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]


class TensorData(BaseModel):
    """One output."""

    name: str
    datatype: str
    shape: list[int]
    data: list[int] | list[bool]


class InferOut(BaseModel):
    """What became of a request: the place of its batch, its samples, and whether it is new."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model_name": "rc_0f8fad5bd9cb469fa16570867728950e",
                    "model_version": "1",
                    "id": "7c9e6679",
                    "outputs": [
                        {"name": "batch_index", "datatype": "INT64", "shape": [1], "data": [12]},
                        {"name": "samples", "datatype": "INT64", "shape": [1], "data": [8]},
                        {"name": "new", "datatype": "BOOL", "shape": [1], "data": [True]},
                    ],
                }
            ]
        }
    )

    model_name: str
    model_version: str
    id: str
    outputs: list[TensorData]

    @staticmethod
    def of(name: str, request_id: str, batch: StoredBatch, *, new: bool) -> InferOut:
        """Write the answer to a request whose batch is stored."""
        values: list[list[int] | list[bool]] = [[batch.index], [batch.samples], [new]]
        outputs = [
            TensorData(name=one.name, datatype=one.datatype, shape=one.shape, data=data)
            for one, data in zip(OUTPUTS, values, strict=True)
        ]
        return InferOut(model_name=name, model_version=VERSION, id=request_id, outputs=outputs)


OUTPUTS = (
    TensorMetadata(name="batch_index", datatype="INT64", shape=[1]),
    TensorMetadata(name="samples", datatype="INT64", shape=[1]),
    TensorMetadata(name="new", datatype="BOOL", shape=[1]),
)

INFER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {
            "type": "string",
            "description": "Not empty: the same id with the same content counts once.",
        },
        "inputs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "datatype": {"type": "string"},
                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                    "parameters": {"type": "object"},
                    "data": {
                        "type": "array",
                        "description": "Nested or flat; images (BYTES) as base64 text.",
                    },
                },
                "required": ["name", "datatype", "shape"],
            },
        },
    },
    "required": ["inputs"],
    "example": {
        "id": "7c9e6679",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [0.1, 0.2, 0.3]}],
    },
}


def metadata(found: Recalibration) -> ModelMetadata:
    """Describe a recalibration as a model."""
    return ModelMetadata(
        name=found.id,
        versions=[VERSION],
        platform=PLATFORM,
        inputs=_inputs(found),
        outputs=list(OUTPUTS),
    )


def config(found: Recalibration) -> ModelConfig:
    """Describe a recalibration as Triton would."""
    described = metadata(found)
    return ModelConfig(
        name=found.id,
        platform=PLATFORM,
        backend="bnrecal",
        max_batch_size=0,
        input=[_config(one) for one in described.inputs],
        output=[_config(one) for one in described.outputs],
    )


def _inputs(found: Recalibration) -> list[TensorMetadata]:
    """Write what is taken; where images feed the input, arrays are taken all the same."""
    if (name := found.image_input()) is not None:
        return [TensorMetadata(name=name, datatype=IMAGES, shape=[-1])]
    return [
        TensorMetadata(name=one.name, datatype=from_numpy(one.dtype), shape=_sizes(one))
        for one in found.tensors()
    ]


def _sizes(info: TensorInfo) -> list[int]:
    """Write a shape; the first axis counts samples and is free whatever the model says."""
    rest = (info.shape or ())[1:]
    return [-1, *(size if isinstance(size, int) else -1 for size in rest)]


def _config(one: TensorMetadata) -> TensorConfig:
    data_type = _CONFIG_TYPES.get(one.datatype, f"TYPE_{one.datatype}")
    return TensorConfig(name=one.name, data_type=data_type, dims=one.shape)
