"""The one error tree of this package.

::

    BnOpsError
    ├── InputError                     the caller's data or options; the caller can mend it
    │   ├── OptionError                an option has no meaning as given
    │   ├── LayerPatternError          a layer pattern matches nothing
    │   ├── StreamEmptyError           no batch, or fewer samples than the minimum
    │   └── BatchError                 one batch is at fault; names batch and input
    │       ├── BatchInputError        unknown or missing input name
    │       ├── BatchDtypeError        wrong element type
    │       ├── BatchShapeError        wrong rank, channel count, or no sample
    │       ├── BatchNotFiniteError    NaN or Inf in the data
    │       └── ImageError             an image that cannot be decoded, or is too large
    ├── ModelError                     the model; its owner must act
    │   ├── ModelInvalidError          not a model file, or a broken one
    │   │   └── ExternalDataError      its tensors lie in files that are refused or not there
    │   ├── ModelUnsupportedError      a right model that this package cannot take
    │   ├── ModelUnsafeError           a file with parts that could run code when it is loaded
    │   ├── ModelWithoutBatchNormError no BatchNorm layer that could be recalibrated
    │   │   └── ModelAlreadyFoldedError  because an exporter has folded it away
    │   ├── LayerNotFiniteError        NaN or Inf arises inside the network, at a named layer
    │   └── ExportError                the exporter cannot take the module
    ├── ResourceError                  a limit of this run or this machine
    │   ├── SpillLimitError            the frontier does not fit memory and spill limits
    │   └── EngineError                the runtime failed while running the model
    ├── CancelledError                 the caller's progress callback asked to stop
    └── ParityError                    a folded model does not compute what it should: our bug
"""

from __future__ import annotations

from typing import ClassVar

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
    "SpillLimitError",
    "StreamEmptyError",
]


class BnOpsError(Exception):
    """Root of every error that this package raises on purpose.

    Attributes:
        code: stable slug of the class, the same word over HTTP.
        message: what happened, where, what was found, what to do.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def details(self) -> dict[str, str | int]:
        """Return the structured attributes as plain JSON values."""
        return {}


class InputError(BnOpsError):
    """The caller's data or options are at fault."""

    code = "input-invalid"


class OptionError(InputError):
    """An option has no meaning as given."""

    code = "option-invalid"


class LayerPatternError(InputError):
    """A layer pattern matches no layer."""

    code = "layer-pattern-unmatched"

    def __init__(self, message: str, *, pattern: str) -> None:
        super().__init__(message)
        self.pattern = pattern

    def details(self) -> dict[str, str | int]:
        """Return the pattern that matched nothing."""
        return {"pattern": self.pattern}


class StreamEmptyError(InputError):
    """The stream holds no sample; statistics of nothing are never made up."""

    code = "stream-empty"


class BatchError(InputError):
    """One batch is at fault.

    Attributes:
        batch: index of the batch in the stream, from 0; None while it is not known.
        input: name of the input at fault; None when the batch as a whole is.
    """

    code = "batch-invalid"

    def __init__(
        self, message: str, *, batch: int | None = None, input_name: str | None = None
    ) -> None:
        super().__init__(message)
        self.batch = batch
        self.input = input_name

    def details(self) -> dict[str, str | int]:
        """Return the batch index and the input name, as far as known."""
        known: dict[str, str | int] = {}
        if self.batch is not None:
            known["batch"] = self.batch
        if self.input is not None:
            known["input"] = self.input
        return known


class BatchInputError(BatchError):
    """A batch names an input that the model lacks, or lacks one that it needs."""

    code = "batch-input"


class BatchDtypeError(BatchError):
    """A batch holds elements of another type than the model's input."""

    code = "batch-dtype"


class BatchShapeError(BatchError):
    """A batch has another rank or size than the model's input, or no sample at all."""

    code = "batch-shape"


class BatchNotFiniteError(BatchError):
    """A batch holds NaN or Inf."""

    code = "batch-not-finite"


class ImageError(BatchError):
    """An image cannot be decoded, is truncated, or too large.

    Attributes:
        image: its file's or member's name; None while it is not known.
    """

    code = "image-invalid"

    def __init__(self, message: str, *, batch: int | None = None, image: str | None = None) -> None:
        super().__init__(message, batch=batch)
        self.image = image

    def details(self) -> dict[str, str | int]:
        """Return the batch index and the image's name, as far as known."""
        known = BatchError.details(self)
        return known if self.image is None else known | {"image": self.image}


class ModelError(BnOpsError):
    """The model is at fault, or is not one that this package can take."""

    code = "model-error"


class ModelInvalidError(ModelError):
    """The bytes are no model, or a broken one."""

    code = "model-invalid"


class ExternalDataError(ModelInvalidError):
    """Tensors of the model lie in another file, which is refused, missing or too short."""

    code = "external-data"


class ModelUnsupportedError(ModelError):
    """A right model, of a kind that this package cannot take."""

    code = "model-unsupported"


class ModelUnsafeError(ModelError):
    """A file with parts that could run code when it is loaded, or that nobody has checked."""

    code = "model-unsafe"


class ModelWithoutBatchNormError(ModelError):
    """The model has no BatchNorm layer that could be recalibrated."""

    code = "model-without-batchnorm"


class ModelAlreadyFoldedError(ModelWithoutBatchNormError):
    """The exporter has folded BatchNorm into the weights already."""

    code = "model-already-folded"


class LayerNotFiniteError(ModelError):
    """NaN or Inf arises inside the network although every batch is finite."""

    code = "layer-not-finite"

    def __init__(self, message: str, *, layer: str, batch: int | None = None) -> None:
        super().__init__(message)
        self.layer = layer
        self.batch = batch

    def details(self) -> dict[str, str | int]:
        """Return the layer and, where known, the batch."""
        known: dict[str, str | int] = {"layer": self.layer}
        if self.batch is not None:
            known["batch"] = self.batch
        return known


class ExportError(ModelError):
    """The exporter cannot take the module."""

    code = "export-failed"


class ResourceError(BnOpsError):
    """A limit of this run or this machine was reached."""

    code = "resource-limit"


class SpillLimitError(ResourceError):
    """The frontier's tensors fit neither the memory budget nor the spill limit."""

    code = "spill-limit"


class EngineError(ResourceError):
    """The runtime failed while it ran the model."""

    code = "engine-failed"


class CancelledError(BnOpsError):
    """The caller's progress callback asked to stop; the model is as it was."""

    code = "cancelled"


class ParityError(BnOpsError):
    """A folded model does not compute what it should, whichever layers stay unfolded."""

    code = "parity-failed"
