"""From measured moments and pixels to findings: the thresholds and their reasons.

Theory of operation. A domain shift moves the first layers' statistics by a bounded amount, because
a picture has 8 bits in every domain. Over photographs, digits and clothes under
12 to 15 corruptions at their strongest, the median distance stays below 2 σ on every network
(`docs/input-check.md`). A wrong scale leaves that range by orders of magnitude: 0…255 in place of a
normalized picture is about 100 σ and more, a second division by 255 leaves under 1 % of the spread.
Both are always faults. Smaller errors look like a shift in the statistics of the first layer
(0…1 in place of −1…1 halves the contrast and raises the brightness). They are reported only if the
values themselves show which preprocessing was used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.statistics import Float64Array
from bn_ops.errors import InputMismatchError
from bn_ops.input_check.image_faults import (
    Planes,
    blank_channels,
    constant_samples,
    is_flat,
    is_interleaved,
    planes_of,
)
from bn_ops.input_check.network_start import Arrays, NetworkStart
from bn_ops.input_check.ranking import Measure, scored
from bn_ops.input_check.result import InputCheck, InputFinding, PreprocessingScore
from bn_ops.input_check.sample_moments import (
    SampleMoments,
    channel_distances,
    is_closer,
    is_untrained,
    median_distance,
    spread_ratio,
)
from bn_ops.input_check.value_ranges import Candidate, candidates, identify

__all__ = [
    "MAX_DISTANCE",
    "MAX_SAMPLES",
    "check_start",
    "judge",
    "measure_images",
    "require_plausible",
]

MAX_DISTANCE = 4.5
"""Median distance in σ beyond which no domain shift explains the difference. The largest measured
under any corruption is 1.7, the smallest with 0…255 in place of normalized values 108
(`docs/input-check.md`)."""

MIN_SPREAD = 0.015
"""Share of the stored standard deviation below which the values are on another scale. The smallest
measured under any corruption is 0.14; a second division by 255 leaves 0.004."""

# Below this distance the input is accepted without further checks.
_CLEAR = 0.45

# Another preprocessing must reduce the distance to this share to be considered the right one.
_EXPLAINED = 0.6

# Half of the samples.
_MANY = 0.5

# Images that the ranking runs: 20 candidates, each through the first layers.
_RANKED_IMAGES = 24


def judge(moments: SampleMoments, planes: Planes | None, measure: Measure | None) -> InputCheck:
    """Compare measured with stored statistics and look for the usual faults.

    Args:
        moments: of at most 64 samples at the first layers.
        planes: the same samples, where the network has one image input.
        measure: runs other images through the first layers; None where that cannot be done.
    """
    if is_untrained(moments.source):
        return _unchecked(moments)
    distances = channel_distances(moments)
    distance = median_distance(moments) if distances.size else None
    spread = spread_ratio(moments) if distances.size else None
    findings = list(_pixel_findings(planes)) if planes is not None else []
    present: Candidate | None = None
    ranking: tuple[PreprocessingScore, ...] = ()
    if distance is not None and spread is not None and not findings and distance > _CLEAR:
        flat = planes is not None and is_flat(planes)
        far = distance > MAX_DISTANCE or spread < MIN_SPREAD or flat
        if planes is not None and measure is not None:
            present = identify(planes)
            few = planes.values[:: max(1, len(planes.values) // _RANKED_IMAGES)][:_RANKED_IMAGES]
            if present is not None or far:
                ranking = scored(_pixels(few, present), measure)
            findings += _scale_findings(few, present, ranking, measure, distance)
        if far and not findings:
            findings.append(_far(distance, spread, present, ranking))
    return InputCheck(
        samples=moments.samples,
        layers=moments.layers,
        channels=int(distances.size),
        distance=distance,
        spread=spread,
        threshold=MAX_DISTANCE,
        share_beyond_3=_share(distances, 3.0),
        share_beyond_10=_share(distances, 10.0),
        findings=tuple(findings),
        ranking=ranking,
        present=None if present is None else present.name,
    )


def _unchecked(moments: SampleMoments) -> InputCheck:
    """Return the result for a network without training, which remembers no input."""
    return InputCheck(
        samples=moments.samples,
        layers=moments.layers,
        channels=0,
        distance=None,
        spread=None,
        threshold=MAX_DISTANCE,
        share_beyond_3=0.0,
        share_beyond_10=0.0,
        findings=(),
    )


def _share(distances: Float64Array, limit: float) -> float:
    return float((distances > limit).mean()) if distances.size else 0.0


def _pixel_findings(planes: Planes) -> Iterator[InputFinding]:
    constant = int(constant_samples(planes).sum())
    if constant > _MANY * len(planes.values):
        yield InputFinding(
            cause="constant-images",
            message=f"{constant} of {len(planes.values)} images have one value at every position",
            suggestion="check the images, and the step that converts them to arrays",
        )
        return
    blank = blank_channels(planes)
    if blank:
        which = " and ".join(map(str, blank))
        yield InputFinding(
            cause="blank-channel",
            message=f"channel {which} holds one value in all images, and the others do not",
            suggestion="check the step that decodes the images or stacks their channels",
        )
    if is_interleaved(planes):
        have, want = ("NCHW", "NHWC") if planes.channels_last else ("NHWC", "NCHW")
        axes = "(0, 2, 3, 1)" if planes.channels_last else "(0, 3, 1, 2)"
        yield InputFinding(
            cause="layout",
            message=f"the images are in the layout {have}, reshaped to {want} without a transpose",
            suggestion=f"use array.transpose{axes} in place of array.reshape(...)",
        )


def _pixels(values: NDArray[np.floating], present: Candidate | None) -> NDArray[np.float32]:
    """Return pixels 0…255: what the values were made from, or the values stretched to 0…255."""
    if present is not None:
        return present.invert(values)
    low, high = float(values.min()), float(values.max())
    return np.asarray((values - low) * (255.0 / max(high - low, 1e-30)), dtype=np.float32)


def _scale_findings(
    values: NDArray[np.floating],
    present: Candidate | None,
    ranking: tuple[PreprocessingScore, ...],
    measure: Measure,
    distance: float,
) -> Iterator[InputFinding]:
    """Yield findings about the scale of values whose preprocessing has been identified."""
    if present is None or not ranking:
        return
    best = _recommended(ranking)
    # On the ranked images, a part of the samples that `distance` is of.
    here = _distance_of(present.name, ranking)
    if present.twice:
        once = present.name.removesuffix(" twice")
        if _distance_of(once, ranking) < here:
            yield InputFinding(
                cause="normalized-twice",
                message=f"the values are {_range_of(present)}: the normalization {once!r} applied "
                f"twice; the first layers are {distance:.3g} σ from their stored statistics",
                suggestion=_use(best),
            )
        return
    if present.name != "unit" or best.name not in {"tf", "imagenet"}:
        return
    if best.distance > _EXPLAINED * here:
        return
    pixels = present.invert(values)
    better = next(c for c in candidates(pixels.shape[1]) if c.preprocess == best.preprocess)
    if is_closer(measure(better.apply(pixels)), measure(present.apply(pixels))):
        yield InputFinding(
            cause="not-normalized",
            message=f"the values are 0…1, not normalized; the first layers are {distance:.3g} σ "
            f"from their stored statistics, and {best.distance:.3g} σ with {best.name!r}",
            suggestion=_use(best),
        )


def _far(
    distance: float,
    spread: float,
    present: Candidate | None,
    ranking: tuple[PreprocessingScore, ...],
) -> InputFinding:
    what = f"the values are {_range_of(present)}; " if present is not None else ""
    best = _recommended(ranking) if ranking else None
    known = best is not None and best.distance <= MAX_DISTANCE
    return InputFinding(
        cause="scale",
        message=f"{what}the first layers are {distance:.3g} σ from their stored statistics, at "
        f"{spread:.3g} times the spread; a change of domain moves them by less than "
        f"{MAX_DISTANCE:g} σ",
        suggestion=_use(best)
        if known and best is not None
        else "preprocess the data exactly as in training: scale, mean and standard deviation",
    )


def _distance_of(name: str, ranking: tuple[PreprocessingScore, ...]) -> float:
    return next(score.distance for score in ranking if score.name == name)


def _recommended(ranking: tuple[PreprocessingScore, ...]) -> PreprocessingScore:
    """Return the closest preprocessing that is not applied twice."""
    return next(score for score in ranking if not score.name.endswith(" twice"))


def _use(best: PreprocessingScore) -> str:
    return (
        f"use the preprocessing {best.name!r}, which leaves {best.distance:.3g} σ: scale "
        f"{best.preprocess.scale:.6g}, mean {list(best.preprocess.mean)}, std "
        f"{list(best.preprocess.std)}"
    )


def _range_of(candidate: Candidate) -> str:
    factor, offset = candidate.affine(candidate.preprocess.channels)
    low, high = float(offset.min()), float((offset + 255 * factor).max())
    # Adding 0 makes a negative zero positive.
    return f"{low + 0.0:.3g}…{high:.3g} ({candidate.name})"


# The check of samples that an engine has read.

MAX_SAMPLES = 64
"""Samples that the check reads: the standard error of a channel's mean is then an eighth of the
spread between samples, far below every threshold."""


def check_start(start: NetworkStart, batches: Sequence[Arrays]) -> InputCheck:
    """Check samples that have been read already; see `check_input`. Never raises for findings."""
    moments = start.measure(batches)
    arrays = _only_input(batches)
    planes = None if arrays is None else planes_of(arrays)
    if arrays is None or planes is None:
        return judge(moments, None, None)
    name = next(iter(batches[0]))
    return judge(
        moments,
        planes,
        measure_images(start, name, arrays[0].dtype, channels_last=planes.channels_last),
    )


def require_plausible(check: InputCheck) -> None:
    """Raise where a check has found a fault.

    Raises:
        InputMismatchError: names the first finding, and counts the others.
    """
    if check.plausible:
        return
    first, *others = check.findings
    more = f" ({len(others)} more: {', '.join(o.cause for o in others)})" if others else ""
    raise InputMismatchError(
        f"the data does not look like what the model was trained on: {first.message}{more}; "
        f"{first.suggestion}. allow_mismatch=True (--allow-mismatch) continues anyway",
        distance=check.distance,
        threshold=check.threshold,
        cause=first.cause,
        suggestion=first.suggestion,
    )


def _only_input(batches: Sequence[Arrays]) -> list[NDArray[np.generic]] | None:
    """Return the arrays of the only input, or None where there are several."""
    if any(len(batch) != 1 for batch in batches):
        return None
    return [next(iter(batch.values())) for batch in batches]


def measure_images(
    start: NetworkStart, name: str, dtype: np.dtype[np.generic], *, channels_last: bool
) -> Measure:
    """Return a function that runs preprocessed planes through the first layers."""

    def measure(planes: NDArray[np.float32]) -> SampleMoments:
        arranged = planes.transpose(0, 2, 3, 1) if channels_last else planes
        if dtype.kind in "iu":
            limits = np.iinfo(dtype.name)
            arranged = np.clip(np.round(arranged), limits.min, limits.max)
        with np.errstate(over="ignore"):
            return start.measure([{name: np.ascontiguousarray(arranged, dtype=dtype)}])

    return measure
