"""Wire schemas of the protocol.

Source: Open Inference Protocol v2, REST; `config` is Triton's model configuration extension.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from bn_ops.core.signature import TensorInfo
from service.openinference.datatypes import IMAGES, from_numpy
from service.repositories.records import Recalibration, StoredBatch

VERSION = "1"
PLATFORM = "bnrecal_recalibration"
# The names of types in `config` differ from the protocol's for one type.
_CONFIG_TYPES = {IMAGES: "TYPE_STRING"}


class ServerOut(BaseModel):
    """The server and the extensions that it supports."""

    name: str
    version: str
    extensions: list[str]


class LiveOut(BaseModel):
    """The server is running."""

    live: bool


class ReadyOut(BaseModel):
    """The server can store batches and start runs."""

    ready: bool


class ModelReadyOut(BaseModel):
    """The recalibration accepts batches."""

    name: str
    ready: bool


class TensorMetadata(BaseModel):
    """A tensor; an axis of size -1 has any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A recalibration as a model: the network's inputs, and the outputs of the response."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class TensorConfig(BaseModel):
    """A tensor in Triton's configuration; an axis of size -1 has any size."""

    name: str
    data_type: str
    dims: list[int]


class ModelConfig(BaseModel):
    """Triton's configuration of a model; with `max_batch_size` 0, shapes include the batch axis."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]


class TensorData(BaseModel):
    """An output tensor."""

    name: str
    datatype: str
    shape: list[int]
    data: list[int] | list[bool]


class InferOut(BaseModel):
    """The response: the index of the batch, its number of samples, and whether it is new."""

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
        """Return the response to a request whose batch is stored."""
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
            "description": "If not empty, requests with the same id and content count once.",
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
                        "description": "Nested or flat list; images (BYTES) as base64 strings.",
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
    """Return the metadata of a recalibration as a model."""
    return ModelMetadata(
        name=found.id,
        versions=[VERSION],
        platform=PLATFORM,
        inputs=_inputs(found),
        outputs=list(OUTPUTS),
    )


def config(found: Recalibration) -> ModelConfig:
    """Return Triton's configuration of a recalibration."""
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
    """Return the accepted inputs; an input of images also accepts arrays."""
    if (name := found.image_input()) is not None:
        return [TensorMetadata(name=name, datatype=IMAGES, shape=[-1])]
    return [
        TensorMetadata(name=one.name, datatype=from_numpy(one.dtype), shape=_sizes(one))
        for one in found.tensors()
    ]


def _sizes(info: TensorInfo) -> list[int]:
    """Return a shape; the first axis counts samples and always has any size."""
    rest = (info.shape or ())[1:]
    return [-1, *(size if isinstance(size, int) else -1 for size in rest)]


def _config(one: TensorMetadata) -> TensorConfig:
    data_type = _CONFIG_TYPES.get(one.datatype, f"TYPE_{one.datatype}")
    return TensorConfig(name=one.name, data_type=data_type, dims=one.shape)
