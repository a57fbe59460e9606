"""What the input check finds.

This module imports nothing heavy: a report that holds these values can be read without onnx,
onnxruntime or torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bn_ops.core.json_form import Json, json_object
from bn_ops.core.statistics import LayerName
from bn_ops.preprocess.value import Preprocess

__all__ = ["Cause", "ColorOrder", "InputCheck", "InputFinding", "PreprocessingScore"]

Cause = Literal[
    "constant-images", "blank-channel", "layout", "normalized-twice", "not-normalized", "scale"
]
"""Why data cannot be what the network was trained on."""


ColorOrder = Literal["rgb", "bgr", "gray", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessingScore:
    """How well one common preprocessing fits a network.

    Attributes:
        name: the preset's name, or `… twice` where its normalization is applied a second time.
        preprocess: the value, without resizing; in RGB where `color_order` is undecided, except
            for `caffe`, which is defined in BGR.
        color_order: `rgb` or `bgr` where one fits significantly better than the other, `undecided`
            where not, `gray` for one channel.
        distance: median distance of the first layers from their stored statistics, in σ.
    """

    name: str
    preprocess: Preprocess
    color_order: ColorOrder
    distance: float

    def to_json(self) -> dict[str, Json]:
        """Return the plain JSON value."""
        return json_object(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFinding:
    """One fault of the input.

    Attributes:
        cause: a stable word.
        message: one sentence: what was found.
        suggestion: one sentence: what to change.
    """

    cause: Cause
    message: str
    suggestion: str

    def to_json(self) -> dict[str, Json]:
        """Return the plain JSON value."""
        return json_object(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputCheck:
    """The first samples of a stream compared with what the network's first layers remember.

    Attributes:
        samples: number of samples that were compared.
        layers: the first BatchNorm layers: their input depends on no other BatchNorm layer.
        channels: live channels of these layers.
        distance: median over live channels of the 2-Wasserstein distance between measured and
            stored normal distributions, in units of the stored σ; None without live channels.
        spread: median over live channels of measured over stored standard deviation;
            None without live channels.
        threshold: the distance beyond which no domain shift explains the difference.
        share_beyond_3, share_beyond_10: share of live channels that are farther than 3 and 10 σ.
        findings: the faults, most important first; empty when the input is plausible.
        ranking: common preprocessings by distance, for images whose pixels could be recovered and
            whose distance gave a reason to look; else empty.
        present: name of the preprocessing that the values have been through, where it shows.
    """

    samples: int
    layers: tuple[LayerName, ...]
    channels: int
    distance: float | None
    spread: float | None
    threshold: float
    share_beyond_3: float
    share_beyond_10: float
    findings: tuple[InputFinding, ...]
    ranking: tuple[PreprocessingScore, ...] = ()
    present: str | None = None

    @property
    def plausible(self) -> bool:
        """Whether no fault was found."""
        return not self.findings

    def to_json(self) -> dict[str, Json]:
        """Return the plain JSON value."""
        return json_object(self)
