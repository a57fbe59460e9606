"""What comes out of a recalibration, the same from a server and from this process."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from bnrecal_client._encoding.atomic_write import write_atomic
from bnrecal_client.errors import UnexpectedAnswerError

__all__ = ["Outcome", "Result", "Statistics", "decode_statistics", "encode_statistics"]

Statistics = Mapping[str, NDArray[np.float64]]
"""`<layer>.running_mean` and `<layer>.running_var`, float64, shape (C,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a recalibration found out, wherever its models are.

    Attributes:
        recalibration: its id at the server; None for a run in this process.
        report: the report's JSON form.
        report_html: the same report as a page.
        statistics: the new running statistics by name.
    """

    recalibration: str | None
    report: Mapping[str, Any]
    report_html: str
    statistics: Statistics

    def save_statistics(self, path: str | os.PathLike[str]) -> Path:
        """Write the statistics as safetensors, whole or not at all."""
        return write_atomic(path, encode_statistics(self.statistics))

    def save_report(self, path: str | os.PathLike[str]) -> Path:
        """Write the report, as JSON where the name ends in `.json`, else as a page."""
        if Path(path).suffix.lower() == ".json":
            return write_atomic(path, json.dumps(self.report, indent=2).encode("utf-8") + b"\n")
        return write_atomic(path, self.report_html.encode("utf-8"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Outcome):
    """One finished recalibration.

    Attributes:
        model: the recalibrated, folded, verified ONNX file.
        unfolded: the recalibrated ONNX file with its BatchNorm kept, where it was asked for.
    """

    model: bytes
    unfolded: bytes | None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the folded model, whole or not at all."""
        return write_atomic(path, self.model)

    def save_unfolded(self, path: str | os.PathLike[str]) -> Path:
        """Write the model with its BatchNorm kept, whole or not at all.

        Raises:
            UnexpectedAnswerError: it was not asked for, or did not come.
        """
        if self.unfolded is None:
            raise UnexpectedAnswerError("the unfolded model did not come with the result")
        return write_atomic(path, self.unfolded)


def decode_statistics(body: bytes) -> Statistics:
    """Read statistics from safetensors.

    Raises:
        UnexpectedAnswerError: the bytes are not safetensors.
    """
    try:
        return MappingProxyType(safetensors.numpy.load(body))
    except SafetensorError as error:
        raise UnexpectedAnswerError(f"the statistics cannot be read: {error}") from error


def encode_statistics(statistics: Statistics) -> bytes:
    """Write statistics as safetensors; the same numbers always give the same bytes."""
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(statistics[name]) for name in sorted(statistics)}
    )
