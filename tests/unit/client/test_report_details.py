"""What the client sends for the report is what a server accepts."""

from __future__ import annotations

import pytest

from bnrecal_client.models import ReportDetails, SkippedSample
from service.recalibrations.schemas import ReportDetailsIn


def test_unknown_members_are_left_out() -> None:
    assert ReportDetails().to_json() == {}
    assert ReportDetails(model_name="a.onnx").to_json() == {"model_name": "a.onnx"}


@pytest.mark.parametrize(
    "text", ["x" * 10_000, "a\nb\x00", "\ud800", "\u202eevil", "σ-Modell.onnx"]
)
def test_server_accepts_any_name(text: str) -> None:
    details = ReportDetails(
        model_name=text,
        data_name=text,
        command=text,
        skipped_samples=tuple(
            SkippedSample(index=index, name=text, reason=text) for index in range(1200)
        ),
    )
    accepted = ReportDetailsIn.model_validate(details.to_json())
    assert len(accepted.skipped_samples) == 1000
    assert accepted.model_name


def test_readable_names_are_unchanged() -> None:
    assert ReportDetails(data_name="σ-Modell.onnx").to_json() == {"data_name": "σ-Modell.onnx"}
    assert ReportDetails(data_name="a\nb").to_json() == {"data_name": "a\ufffdb"}
