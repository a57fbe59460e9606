"""Parsers of untrusted bytes accept or reject them; the short form of `make fuzz`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.soak.parsers import PARSERS, SEEDS, run_parser


@st.composite
def mutated(draw: st.DrawFn, name: str) -> bytes:
    """Mutate a valid input: replace, remove or insert bytes."""
    data = bytearray(draw(st.sampled_from(SEEDS[name])))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 4)))
        data[at:end] = draw(st.binary(max_size=6) | st.sampled_from([b"1" * 20, b"{[", b"\xff"]))
    return bytes(data)


@pytest.mark.parametrize("name", PARSERS)
def test_random_bytes_are_accepted_or_rejected(name: str) -> None:
    @given(st.binary(max_size=200) | mutated(name))
    def check(data: bytes) -> None:
        run_parser(name, data)

    check()


@pytest.mark.parametrize("name", PARSERS)
def test_seeds_are_accepted_or_rejected(name: str) -> None:
    for seed in SEEDS[name]:
        run_parser(name, seed)
