"""Pauses between tries and polls, against their formulas and both forms of Retry-After."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnrecal_client import Client, OptionError
from bnrecal_client._http.retry import Backoff, RetryPolicy, delay_s, poll_s, retry_after_s

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@given(attempt=st.integers(0, 10_000), jitter=st.floats(0, 1, exclude_max=True))
def test_pause_is_within_bounds(attempt: int, jitter: float) -> None:
    longest = min(5.0, 0.2 * 2.0 ** min(attempt, 60))
    assert longest / 2 <= delay_s(attempt, jitter, first_s=0.2, ceiling_s=5.0) <= longest


@pytest.mark.parametrize("value", [-1.0, float("nan")])
@pytest.mark.parametrize("name", ["total_timeout", "initial_timeout", "connect_timeout"])
def test_times_of_a_policy_are_not_negative(name: str, value: float) -> None:
    policy = RetryPolicy(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=f"{name} is {value}"):
        Client("http://127.0.0.1:1", retry=policy)


def test_jitter_spreads_clients_that_failed_together() -> None:
    numbers = iter([0.0, 0.5, 0.999])
    backoff = Backoff(first_s=1.0, jitter=lambda: next(numbers))
    assert [round(backoff.pause_s(0), 2) for _ in range(3)] == [0.5, 0.75, 1.0]


@given(asked=st.integers(0, 10_000), longest=st.floats(0.05, 60))
def test_pause_between_polls_has_a_limit(asked: int, longest: float) -> None:
    assert 0 < poll_s(asked, longest_s=longest) <= longest
    assert poll_s(asked, longest_s=longest) <= poll_s(asked + 1, longest_s=longest)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        # No zone: the header's own rule says GMT.
        ("Thu, 01 Jan 2026 12:00:30", 30.0),
        # A date that has passed means: at once.
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_date(value: str, seconds: float | None) -> None:
    assert retry_after_s({"retry-after": value}, NOW) == seconds


def test_missing_retry_after_is_none() -> None:
    assert retry_after_s({}, NOW) is None
