"""The options `estimator` and `preprocess` on the wire, as the OpenAPI document shows them.

The models describe the forms; values are checked by bn_ops, whose errors keep their codes. The
values of `preprocess` are checked together with the model that they are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_serializer,
)

from bn_ops.core.estimators import estimator_from_json, estimator_from_string
from bn_ops.preprocess import preprocess_from_json

# An integer stays an integer: what was sent is what is stored and reported.
Number = Annotated[int | float, WithJsonSchema({"type": "number"})]
_NotNegative = Annotated[int | float, WithJsonSchema({"type": "number", "minimum": 0})]
_Weight = Annotated[
    int | float, WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 1})
]
Size = int | Annotated[list[int], Field(min_length=2, max_length=2)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AutoForm(_Form):
    """The run chooses, without labels, how far to move from the stored statistics, if at all."""

    name: Literal["auto"]
    varied: bool | None = Field(
        default=None,
        description="Whether the stream holds all classes about as they occur in use; null if this "
        "is not known.",
    )

    @model_serializer(mode="wrap")
    def _without_null(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `varied` out where it was not declared, as bn_ops does."""
        return {key: value for key, value in handler(self).items() if value is not None}


class ReplaceForm(_Form):
    """The statistics of the new data replace the stored ones."""

    name: Literal["replace"]


class ShrinkForm(_Form):
    """Each channel moves from the stored statistics by as much as the new data supports."""

    name: Literal["shrink"]


class PriorForm(_Form):
    """The stored statistics count as a number of samples."""

    name: Literal["prior"]
    samples: _NotNegative = Field(description="Number of samples, at least 0.")
    mixture: bool = Field(
        default=False,
        description="Whether the variance is that of both data sets together, including the "
        "difference of their means.",
    )


class MomentumForm(_Form):
    """A moving average over batches, as in training."""

    name: Literal["momentum"]
    momentum: _Weight = Field(description="Weight of the new value, in (0, 1].")


EstimatorForm = Annotated[
    AutoForm | ReplaceForm | ShrinkForm | PriorForm | MomentumForm,
    Field(discriminator="name"),
]


class ResizeForm(_Form):
    """How an image is resized."""

    size: Size = Field(description="Length of the shorter side, or [height, width].")
    interpolation: str = Field(
        default="bilinear",
        description="One of nearest, bilinear, bicubic, box, hamming and lanczos.",
    )
    antialias: bool = Field(
        default=True, description="Whether the filter widens when the image shrinks."
    )


class PreprocessForm(_Form):
    """The steps from an image to an array, in this order."""

    orientation: Literal["ignore", "apply"] = Field(
        default="ignore", description="What happens with the orientation in the EXIF data."
    )
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    resize: Size | ResizeForm | None = Field(
        default=None, description="The size, or a size with interpolation; null keeps the image."
    )
    crop: Size | None = Field(
        default=None, description="Side or [height, width] of the center that is kept."
    )
    scale: Number = Field(default=1 / 255, description="Factor of each 8-bit level.")
    mean: Number | list[Number] = Field(
        default=0.0, description="Subtracted after scaling; one number, or one for each channel."
    )
    std: Number | list[Number] = Field(
        default=1.0, description="Divisor; one number, or one for each channel."
    )
    layout: Literal["nchw", "nhwc"] = "nchw"
    dtype: Literal["float32", "float16", "bfloat16", "float64", "uint8"] = "float32"


def _checked_estimator(value: Any) -> Any:
    """Return the JSON form of an estimator.

    Raises:
        OptionError: bn_ops rejects it.
    """
    if isinstance(value, str):
        return estimator_from_string(value).to_json()
    if isinstance(value, Mapping):
        estimator_from_json(value)
    return value


EstimatorIn = Annotated[
    EstimatorForm,
    BeforeValidator(
        _checked_estimator,
        json_schema_input_type=EstimatorForm
        | Annotated[
            str,
            Field(
                description="Short form: auto, auto:varied, replace, shrink, prior:SAMPLES, "
                "prior:SAMPLES:mixture or momentum:M.",
                pattern=r"^(auto(:varied)?|replace|shrink|prior:[0-9]{1,9}(:mixture)?|momentum:(1|0\.[0-9]{0,9}[1-9]))$",
                examples=["prior:64"],
            ),
        ],
    ),
]


def _prefer_own_error(value: Any, parse: ValidatorFunctionWrapHandler) -> PreprocessForm:
    """Return the parsed form.

    Raises:
        OptionError: the form is malformed; the error of bn_ops says more than pydantic's.
    """
    try:
        form: PreprocessForm = parse(value)
    except ValidationError:
        if isinstance(value, Mapping):
            preprocess_from_json(value)
        raise
    return form


PreprocessIn = Annotated[PreprocessForm, WrapValidator(_prefer_own_error)]
