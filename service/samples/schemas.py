"""Previews and predictions on the wire."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.recalibrations.options import PreprocessForm

_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
_PREPROCESS: dict[str, Any] = {
    "resize": 256,
    "crop": 224,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


class SkippedOut(BaseModel):
    """An image that cannot be used."""

    name: str
    reason: str


class FindingOut(BaseModel):
    """A fault of the samples: a stable cause, what was found, and what to change."""

    cause: str
    message: str
    suggestion: str


class CheckOut(BaseModel):
    """The input check: whether the samples can be like those that the model was trained on."""

    plausible: bool
    distance: float | None = Field(
        description="Median distance of the first layers from their stored statistics, in σ."
    )
    threshold: float = Field(description="The distance beyond which a run is refused, in σ.")
    findings: list[FindingOut]


class RankedOut(BaseModel):
    """A common preprocessing, and the distance of the first layers with it, in σ."""

    name: str
    color_order: Literal["rgb", "bgr", "gray", "undecided"]
    distance: float
    preprocess: PreprocessForm


class PictureOut(BaseModel):
    """One sample as the model sees it: a PNG picture in base64, and the range of its values."""

    name: str
    png: str
    width: int
    height: int
    minimum: float
    maximum: float


class PreviewOut(BaseModel):
    """What a model sees of some samples, and which preprocessing fits.

    `ranking`, the closest first, is empty for arrays and for models without usable statistics.
    `check` is null where the model has no statistics to compare with.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "samples": 32,
                    "skipped": [{"name": "notes.jpg", "reason": "cannot be decoded"}],
                    "preprocess": _PREPROCESS,
                    "presets": {"imagenet": _PREPROCESS},
                    "ranking": [
                        {
                            "name": "imagenet",
                            "color_order": "rgb",
                            "distance": 0.31,
                            "preprocess": _PREPROCESS,
                        }
                    ],
                    "check": {
                        "plausible": True,
                        "distance": 0.31,
                        "threshold": 4.5,
                        "findings": [],
                    },
                    "pictures": [
                        {
                            "name": "001.jpg",
                            "png": _PNG,
                            "width": 224,
                            "height": 224,
                            "minimum": -2.1,
                            "maximum": 2.6,
                        }
                    ],
                }
            ]
        }
    )

    samples: int
    skipped: list[SkippedOut]
    preprocess: PreprocessForm | None = Field(
        description="The preprocessing of the pictures; null for arrays."
    )
    presets: dict[str, PreprocessForm] = Field(
        description="The presets with the size and layout of the model's input."
    )
    ranking: list[RankedOut]
    check: CheckOut | None
    pictures: list[PictureOut]


class ClassOut(BaseModel):
    """A class of a model's first table of scores, and its probability."""

    index: int
    probability: float


class PredictionOut(BaseModel):
    """The most probable classes of one sample; empty where the scores are not finite."""

    name: str
    before: list[ClassOut]
    after: list[ClassOut]


class PredictionsOut(BaseModel):
    """Predictions with the model before and after; `classes` is null if it predicts none."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "classes": 10,
                    "samples": [
                        {
                            "name": "001.jpg",
                            "before": [{"index": 3, "probability": 0.41}],
                            "after": [{"index": 7, "probability": 0.93}],
                        }
                    ],
                    "skipped": [],
                }
            ]
        }
    )

    classes: int | None
    samples: list[PredictionOut]
    skipped: list[SkippedOut]
