from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from service import problems
from service.batches.api import BatchOut
from service.health import Readiness
from service.models.api import ModelOut
from service.openinference.schemas import InferOut
from service.recalibrations.schemas import RecalibrationIn, RecalibrationOut, StartIn
from service.repositories.lifecycle import TRANSITIONS, State
from service.settings import Settings
from tools import service_docs as documents

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "service.md").read_text(encoding="utf-8")


def test_page_is_current() -> None:
    assert documents.fill(PAGE) == PAGE, "run `python -m tools.service_docs`"


def test_every_setting_has_its_own_text() -> None:
    texts = [field.description for field in Settings.model_fields.values()]
    assert None not in texts
    assert len(set(texts)) == len(texts)
    for name in Settings.model_fields:
        assert f"`BNRECAL_{name.upper()}`" in PAGE


def test_every_problem_is_documented() -> None:
    for code in problems.TABLE:
        assert f"| `{code}` |" in PAGE


def test_diagram_shows_every_transition() -> None:
    for state, ways in TRANSITIONS.items():
        for event, target in ways.items():
            assert f"{state} to {target} ({event})" in PAGE
    assert all(state in PAGE for state in State)


def test_openapi_document_is_current() -> None:
    committed = (DOCS / "openapi.json").read_text(encoding="utf-8")
    assert documents.openapi() == committed, "run `python -m tools.service_docs`"


@pytest.mark.parametrize(
    "kind",
    [ModelOut, RecalibrationIn, StartIn, RecalibrationOut, BatchOut, Readiness, InferOut],
)
def test_examples_are_valid(kind: type[BaseModel]) -> None:
    schema = json.loads(documents.openapi())["components"]["schemas"][kind.__name__]
    (example,) = schema["examples"]
    found = kind.model_validate(example)
    assert json.loads(found.model_dump_json(exclude_unset=True)) == example


def test_outdated_page_is_detected() -> None:
    stale = PAGE.replace("| `storage-full` | 507 |", "| `storage-full` | 500 |")
    assert stale != PAGE
    assert documents.fill(stale) == PAGE
