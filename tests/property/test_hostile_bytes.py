"""Each parser of a stranger's bytes takes them or refuses them; the short form of `make fuzz`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.soak.parsers import PARSERS, SEEDS, try_one


@st.composite
def mutated(draw: st.DrawFn, name: str) -> bytes:
    """Take a right text, and change, cut or double some of it."""
    data = bytearray(draw(st.sampled_from(SEEDS[name])))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 4)))
        data[at:end] = draw(st.binary(max_size=6) | st.sampled_from([b"1" * 20, b"{[", b"\xff"]))
    return bytes(data)


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_refuses_what_it_does_not_take(name: str) -> None:
    @given(st.binary(max_size=200) | mutated(name))
    def check(data: bytes) -> None:
        try_one(name, data)

    check()


@pytest.mark.parametrize("name", PARSERS)
def test_every_seed_is_worth_its_name(name: str) -> None:
    for seed in SEEDS[name]:
        try_one(name, seed)
