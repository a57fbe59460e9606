"""All errors of this package, as one tree.

::

    BnOpsError
    ├── InputError                     the caller's data or options; the caller can fix it
    │   ├── OptionError                an option has an invalid value
    │   ├── LayerPatternError          a layer pattern matches nothing
    │   ├── StreamEmptyError           no batch, or fewer samples than the minimum
    │   ├── InputMismatchError         the data cannot be what the model was trained on
    │   ├── ShardError                 a message or a call that is not part of a sharded measurement
    │   │   └── ShardMismatchError     shards that are not parts of one measurement
    │   └── BatchError                 one batch is invalid; names batch and input
    │       ├── BatchInputError        unknown or missing input name
    │       ├── BatchDtypeError        wrong element type
    │       ├── BatchShapeError        wrong rank, channel count, or no samples
    │       ├── BatchNotFiniteError    NaN or Inf in the data
    │       └── ImageError             an image that cannot be decoded, or is too large
    ├── ModelError                     the model; its owner must act
    │   ├── ModelInvalidError          not a model file, or a corrupt one
    │   │   └── ExternalDataError      its external data is rejected or missing
    │   ├── ModelUnsupportedError      a valid model that this package does not support
    │   ├── ModelUnsafeError           a file with parts that could run code when it is loaded
    │   ├── ModelWithoutBatchNormError no BatchNorm layer that could be recalibrated
    │   │   └── ModelAlreadyFoldedError  an exporter has folded BatchNorm already
    │   ├── LayerNotFiniteError        NaN or Inf arises inside the network, at a named layer
    │   ├── TargetError                an operator that the opset or the deployment target lacks
    │   └── ExportError                the exporter does not support the module
    ├── ResourceError                  a limit of this run or this machine
    │   ├── SpillLimitError            the frontier does not fit memory and spill limits
    │   └── EngineError                the runtime failed while running the model
    ├── CancelledError                 the caller's progress callback asked to stop
    └── ParityError                    a folded model computes other outputs: a bug in this package
"""

from __future__ import annotations

from typing import ClassVar, TypeAlias

__all__ = [
    "BatchDtypeError",
    "BatchError",
    "BatchInputError",
    "BatchNotFiniteError",
    "BatchShapeError",
    "BnOpsError",
    "CancelledError",
    "EngineError",
    "ExportError",
    "ExternalDataError",
    "ImageError",
    "InputError",
    "InputMismatchError",
    "LayerNotFiniteError",
    "LayerPatternError",
    "ModelAlreadyFoldedError",
    "ModelError",
    "ModelInvalidError",
    "ModelUnsafeError",
    "ModelUnsupportedError",
    "ModelWithoutBatchNormError",
    "OptionError",
    "ParityError",
    "ResourceError",
    "ShardError",
    "ShardMismatchError",
    "SpillLimitError",
    "StreamEmptyError",
    "TargetError",
]


Detail: TypeAlias = str | int | float
"""A structured attribute of an error, a plain JSON value."""


class BnOpsError(Exception):
    """Root of every error that this package raises deliberately.

    Attributes:
        code: stable slug of the class, also used over HTTP.
        message: what failed, where, what was received, and what to do.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def details(self) -> dict[str, Detail]:
        """Return the structured attributes as plain JSON values."""
        return {}


class InputError(BnOpsError):
    """The caller's data or options are invalid."""

    code = "input-invalid"


class OptionError(InputError):
    """An option has an invalid value."""

    code = "option-invalid"


class LayerPatternError(InputError):
    """A layer pattern matches no layer."""

    code = "layer-pattern-unmatched"

    def __init__(self, message: str, *, pattern: str) -> None:
        super().__init__(message)
        self.pattern = pattern

    def details(self) -> dict[str, Detail]:
        """Return the pattern that matched nothing."""
        return {"pattern": self.pattern}


class StreamEmptyError(InputError):
    """The stream holds no samples, so there are no statistics to compute."""

    code = "stream-empty"


class InputMismatchError(InputError):
    """The data cannot be what the model was trained on.

    Attributes:
        distance: median distance of the first BatchNorm layers' inputs from their stored
            statistics, in σ; None where no channel can be compared.
        threshold: the distance beyond which no domain shift explains the difference.
        cause: a stable word, `bn_ops.input_check.result.Cause`.
        suggestion: what to change.
    """

    code = "input-mismatch"

    def __init__(
        self,
        message: str,
        *,
        distance: float | None,
        threshold: float,
        cause: str,
        suggestion: str,
    ) -> None:
        super().__init__(message)
        self.distance = distance
        self.threshold = threshold
        self.cause = cause
        self.suggestion = suggestion

    def details(self) -> dict[str, Detail]:
        """Return cause, suggestion, threshold and, where known, the distance."""
        known: dict[str, Detail] = {
            "cause": self.cause,
            "suggestion": self.suggestion,
            "threshold": self.threshold,
        }
        return known if self.distance is None else known | {"distance": self.distance}


class ShardError(InputError):
    """A message or a call that is not part of a sharded measurement."""

    code = "shard-invalid"


class ShardMismatchError(ShardError):
    """Shards are not parts of one measurement, or would change the last bits of its result."""

    code = "shard-mismatch"


class BatchError(InputError):
    """One batch is invalid.

    Attributes:
        batch: index of the batch in the stream, from 0; None if unknown.
        input: name of the invalid input; None when the batch as a whole is invalid.
    """

    code = "batch-invalid"

    def __init__(
        self, message: str, *, batch: int | None = None, input_name: str | None = None
    ) -> None:
        super().__init__(message)
        self.batch = batch
        self.input = input_name

    def details(self) -> dict[str, Detail]:
        """Return the batch index and the input name, as far as known."""
        known: dict[str, Detail] = {}
        if self.batch is not None:
            known["batch"] = self.batch
        if self.input is not None:
            known["input"] = self.input
        return known


class BatchInputError(BatchError):
    """A batch has an input that the model lacks, or lacks one that it requires."""

    code = "batch-input"


class BatchDtypeError(BatchError):
    """A batch has another element type than the model's input."""

    code = "batch-dtype"


class BatchShapeError(BatchError):
    """A batch has another rank or size than the model's input, or no samples."""

    code = "batch-shape"


class BatchNotFiniteError(BatchError):
    """A batch holds NaN or Inf."""

    code = "batch-not-finite"


class ImageError(BatchError):
    """An image cannot be decoded, is truncated, or is too large.

    Attributes:
        image: name of its file or archive member; None if unknown.
    """

    code = "image-invalid"

    def __init__(self, message: str, *, batch: int | None = None, image: str | None = None) -> None:
        super().__init__(message, batch=batch)
        self.image = image

    def details(self) -> dict[str, Detail]:
        """Return the batch index and the image's name, as far as known."""
        known = BatchError.details(self)
        return known if self.image is None else known | {"image": self.image}


class ModelError(BnOpsError):
    """The model is invalid or not supported by this package."""

    code = "model-error"


class ModelInvalidError(ModelError):
    """The bytes are not a model, or a corrupt one."""

    code = "model-invalid"


class ExternalDataError(ModelInvalidError):
    """External data of the model is rejected, missing or too short."""

    code = "external-data"


class ModelUnsupportedError(ModelError):
    """A valid model of a kind that this package does not support."""

    code = "model-unsupported"


class ModelUnsafeError(ModelError):
    """A file with parts that could run code when loaded, or that are not known to be safe."""

    code = "model-unsafe"


class ModelWithoutBatchNormError(ModelError):
    """The model has no BatchNorm layer that could be recalibrated."""

    code = "model-without-batchnorm"


class ModelAlreadyFoldedError(ModelWithoutBatchNormError):
    """The exporter has already folded BatchNorm into the weights."""

    code = "model-already-folded"


class LayerNotFiniteError(ModelError):
    """NaN or Inf arises inside the network although every batch is finite."""

    code = "layer-not-finite"

    def __init__(self, message: str, *, layer: str, batch: int | None = None) -> None:
        super().__init__(message)
        self.layer = layer
        self.batch = batch

    def details(self) -> dict[str, Detail]:
        """Return the layer and, where known, the batch."""
        known: dict[str, Detail] = {"layer": self.layer}
        if self.batch is not None:
            known["batch"] = self.batch
        return known


class TargetError(ModelError):
    """The requested opset or deployment target lacks an operator of the model.

    Attributes:
        operator: the operator, with its domain unless that is ONNX's default; None if unknown.
        opset: the opset of the model to deploy.
        target: the deployment target; None where only the opset was requested.
    """

    code = "target-unsupported"

    def __init__(
        self, message: str, *, operator: str | None, opset: int, target: str | None = None
    ) -> None:
        super().__init__(message)
        self.operator = operator
        self.opset = opset
        self.target = target

    def details(self) -> dict[str, Detail]:
        """Return the opset and, where known, operator and target."""
        known: dict[str, Detail] = {"opset": self.opset}
        if self.operator is not None:
            known["operator"] = self.operator
        return known if self.target is None else known | {"target": self.target}


class ExportError(ModelError):
    """The exporter does not support the module."""

    code = "export-failed"


class ResourceError(BnOpsError):
    """A limit of this run or this machine was reached."""

    code = "resource-limit"


class SpillLimitError(ResourceError):
    """The frontier's tensors fit neither the memory budget nor the spill limit."""

    code = "spill-limit"


class EngineError(ResourceError):
    """The runtime failed while running the model."""

    code = "engine-failed"


class CancelledError(BnOpsError):
    """The caller's progress callback asked to stop; the model is unchanged."""

    code = "cancelled"


class ParityError(BnOpsError):
    """A folded model computes other outputs, whichever layers stay unfolded."""

    code = "parity-failed"
