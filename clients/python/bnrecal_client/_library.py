"""The parts of bn_ops that run on this machine, imported on use, with its errors translated."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal

import msgspec

from bnrecal_client._encoding.model_source import AnyModel
from bnrecal_client.errors import OptionError, Problem, UnexpectedResponseError, error_of
from bnrecal_client.result import Result

__all__ = [
    "MAX_LABELED",
    "Evaluate",
    "LabeledSamples",
    "Metric",
    "labeled_arrays",
    "library",
    "plot_report",
    "render_report",
    "report_value",
]

Evaluate = Iterable[Any] | Literal["batches"]
"""Labeled samples as pairs, or `"batches"` for the labels that come with the batches."""

MAX_LABELED = 1024
"""Labeled samples of `batches` that are kept for the comparison."""

Metric = Callable[[Any, Any], float]
"""Returns a score, the higher the better, for outputs and labels of the same samples."""

_WHY_LABELS = "labels do not leave this machine, so the models are compared here"


@contextmanager
def library(why: str) -> Iterator[ModuleType]:
    """Yield bn_ops, and raise its errors as a server would report them.

    Args:
        why: what it is needed for, for the message where it is not installed.

    Raises:
        OptionError: it is not installed.
    """
    try:
        import bn_ops  # noqa: PLC0415 - optional
        import bn_ops.errors  # noqa: PLC0415
    except ImportError as error:
        raise OptionError(_missing(why)) from error
    try:
        yield bn_ops
    except bn_ops.errors.BnOpsError as error:
        problem = Problem(code=error.code, detail=error.message, members=error.details())
        raise error_of(problem) from error


def _missing(why: str) -> str:
    return (
        f"{why}, which needs bn_ops: pip install bnrecal, or recalibrate on a server with "
        "`bnrecal recalibrate --server URL`"
    )


def report_value(bn_ops: ModuleType, form: Mapping[str, Any]) -> Any:
    """Return the `bn_ops.Report` of a JSON form.

    Raises:
        UnexpectedResponseError: it is not a report of the installed version of bn_ops.
    """
    try:
        return msgspec.convert(dict(form), type=bn_ops.Report, strict=False)
    except msgspec.ValidationError as error:
        raise UnexpectedResponseError(
            f"the report does not fit the bn_ops of this machine ({error}): install the version "
            "of bnrecal that wrote it"
        ) from error


def plot_report(form: Mapping[str, Any], axes: Any = None) -> Any:
    """Draw the drift by layer of a report in JSON form; return the `matplotlib` figure.

    Raises:
        OptionError: bn_ops or matplotlib is not installed.
        UnexpectedResponseError: it is not a report of the installed version of bn_ops.
    """
    with library("the chart is drawn in this process") as bn_ops:
        return bn_ops.plot_drift(report_value(bn_ops, form), axes)


def render_report(form: Mapping[str, Any]) -> str:
    """Return the HTML page of a report in JSON form.

    Raises:
        OptionError: bn_ops is not installed.
        UnexpectedResponseError: it is not a report of the installed version of bn_ops.
    """
    with library("the page is written in this process") as bn_ops:
        page: str = bn_ops.render_html(report_value(bn_ops, form))
        return page


def labeled_arrays(
    bn_ops: ModuleType, pairs: Iterable[Any], form: Mapping[str, object] | None
) -> Iterator[Any]:
    """Yield labeled samples as bn_ops takes them; batches of `Images` become arrays.

    Args:
        bn_ops: the package.
        pairs: `(inputs, labels)` pairs.
        form: preprocessing of images, in JSON form; None where inputs are arrays.
    """
    if form is None:
        yield from pairs
        return
    from bn_ops.preprocess import image_arrays  # noqa: PLC0415 - optional

    preprocess = bn_ops.preprocess_from_json(form)
    for images, labels in pairs:
        start = 0
        for array in image_arrays(images.items, preprocess):
            yield array, labels[start : start + len(array)]
            start += len(array)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledSamples:
    """Labeled samples on which the result of a server is compared with the source model.

    Attributes:
        pairs: `(inputs, labels)` pairs, inputs as in the stream.
        metric: scores outputs; None for the error of the most likely class.
        max_drop: the drop of the accuracy or the metric that the verdict tolerates.

    Raises:
        OptionError: bn_ops is not installed.
    """

    pairs: Iterable[Any]
    metric: Metric | None
    max_drop: float

    def __post_init__(self) -> None:
        # Before anything is sent.
        if find_spec("bn_ops") is None or find_spec("onnxruntime") is None:
            raise OptionError(f"{_WHY_LABELS}, which needs bn_ops: pip install bnrecal")

    @classmethod
    def of(
        cls, pairs: Iterable[Any] | None, metric: Metric | None, max_drop: float
    ) -> LabeledSamples | None:
        """Return the labeled samples of a call; None if there are none.

        Raises:
            OptionError: an option has no meaning without labels.
        """
        if isinstance(pairs, str):
            raise OptionError(f"evaluate is {pairs!r}: pass (inputs, labels) pairs or 'batches'")
        if pairs is not None:
            return cls(pairs=pairs, metric=metric, max_drop=max_drop)
        if metric is not None or max_drop:
            raise OptionError("metric= and max_drop= apply to labeled samples: pass evaluate=")
        return None

    def compare(
        self, result: Result, source: AnyModel, preprocess: Mapping[str, object] | None
    ) -> Result:
        """Return the result with a report whose verdict follows from the labels.

        Args:
            result: a result of a server.
            source: the source model: a path, bytes or an `onnx.ModelProto`.
            preprocess: as the recalibration's.

        Raises:
            OptionError: the labels do not fit the samples or the outputs.
            UnexpectedResponseError: the report is not that of the installed version of bn_ops.
        """
        if isinstance(self.pairs, list) and not self.pairs:
            raise OptionError(
                "evaluate has no labeled sample: pass (inputs, labels) pairs, or 'batches' where "
                "each batch is followed by its labels"
            )
        with library(_WHY_LABELS) as bn_ops:
            report = report_value(bn_ops, result.report)
            compared = bn_ops.compare_on_labels(
                os.fspath(source) if isinstance(source, os.PathLike) else source,
                result.model,
                report,
                labeled_arrays(bn_ops, self.pairs, preprocess),
                metric=self.metric,
                max_drop=self.max_drop,
            )
            html = bn_ops.render_html(compared)
        return replace(result, report=compared.to_json(), report_html=html)
