"""The public surface: the exported names, and the methods of both clients."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import bnrecal_client
from bnrecal_client import AsyncClient, AsyncJob, Client, Job, errors
from bnrecal_client.errors import CODES, BnrecalError, Interrupted, Problem, error_class, error_of


def public(kind: type) -> dict[str, Callable[..., object]]:
    return {
        name: member
        for name, member in vars(kind).items()
        if not name.startswith("_") and callable(member)
    }


@pytest.mark.parametrize(("plain", "other"), [(Client, AsyncClient), (Job, AsyncJob)])
def test_clients_have_same_methods(plain: type, other: type) -> None:
    assert public(plain).keys() == public(other).keys()
    for name, method in public(plain).items():
        twin = public(other)[name]
        here, there = inspect.signature(method), inspect.signature(twin)
        assert list(here.parameters.values()) == list(there.parameters.values()), name
        assert here.return_annotation == str(there.return_annotation).replace("Async", ""), name
        assert inspect.iscoroutinefunction(twin), name


def test_every_exported_name_exists_in_order() -> None:
    names = bnrecal_client.__all__
    assert names == sorted(names, key=lambda name: (name.startswith("_"), name))
    assert all(hasattr(bnrecal_client, name) for name in names)


ERRORS = [
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, BnrecalError | Interrupted)
]


def test_every_error_is_exported() -> None:
    drawn = set(re.findall(r"[A-Z][A-Za-z]+", (errors.__doc__ or "").split("Errors that")[0]))
    for name in ERRORS:
        assert name in bnrecal_client.__all__
        assert name in drawn


def test_every_error_has_the_same_root() -> None:
    for name in set(ERRORS) - {"Interrupted"}:
        assert issubclass(getattr(errors, name), BnrecalError)
    assert issubclass(Interrupted, KeyboardInterrupt)


def test_codes_match_the_server() -> None:
    problems = pytest.importorskip("service.problems")
    assert CODES.keys() == problems.TABLE.keys()


def test_class_of_a_code_fits_its_status() -> None:
    problems = pytest.importorskip("service.problems")
    for code, row in problems.TABLE.items():
        found = error_class(Problem(code=code, detail="", status=row.status))
        assert found is not BnrecalError
        if row.status == 401:
            assert found is errors.AccessError
        if row.status == 404:
            assert found is errors.NotFoundError


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (None, errors.RecalibrationFailed),
        (400, errors.InputError),
        (403, errors.AccessError),
        (404, errors.NotFoundError),
        (409, errors.ConflictError),
        (413, errors.LimitError),
        (422, errors.InputError),
        (429, errors.LimitError),
        (500, errors.ServerError),
        (507, errors.LimitError),
    ],
)
def test_unknown_code_gets_class_of_status(status: int, kind: type) -> None:
    assert type(error_of(Problem(code="news", detail="x", status=status))) is kind


def test_no_module_is_longer_than_440_lines() -> None:
    folder = Path(bnrecal_client.__file__).parent
    lengths = {path.name: len(path.read_text().splitlines()) for path in folder.rglob("*.py")}
    assert max(lengths.values()) <= 440, lengths


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Klient'"):
        _ = bnrecal_client.Klient
    assert dir(bnrecal_client) == sorted(bnrecal_client.__all__)
