"""All cases of the folding tests."""

from __future__ import annotations

from tests.conformance.fold import (
    cases_bodies,
    cases_conv,
    cases_files,
    cases_join,
    cases_linear,
    cases_through,
)

ALL_CASES = [
    case
    for module in (
        cases_conv,
        cases_linear,
        cases_join,
        cases_through,
        cases_files,
        cases_bodies,
    )
    for case in module.CASES.all
]
