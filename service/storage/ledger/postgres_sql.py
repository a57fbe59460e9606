"""SQL of the repositories as statements of psycopg, with one or many sets of parameters.

Texts are bytes: the types of psycopg accept only literal strings, to prevent values in the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from service.storage.ledger.protocol import Parameters, Value

# The column that numbers the set of parameters a row belongs to, from 1.
SET_NUMBER = "set_number"
# The type of a parameter that is NULL in all sets.
_UNKNOWN = ""

_PARAMETER = re.compile(r"(?<!:):([a-z_][a-z0-9_]*)")
_VALUES = re.compile(r"VALUES \(([^)]*)\)")

Arrays = dict[str, list[Value]]
_Columns = tuple[tuple[str, str], ...]


@cache
def text(query: str) -> bytes:
    """Return a query with the parameters of psycopg."""
    return _PARAMETER.sub(r"%(\1)s", query.replace("%", "%%")).encode()


def selection(query: str, sets: Sequence[Parameters]) -> tuple[bytes, Arrays]:
    """Return one statement for a query with many sets of parameters, and its parameters."""
    arrays = _arrays(sets)
    return _selection(query, _columns(arrays)), arrays


def insertion(query: str, sets: Sequence[Parameters]) -> tuple[bytes, Arrays]:
    """Return one statement that inserts a row for each set of parameters, and its parameters."""
    arrays = _arrays(sets)
    return _insertion(query, _columns(arrays)), arrays


@cache
def _selection(query: str, columns: _Columns) -> bytes:
    # With OFFSET, the planner keeps the subquery, which then finds each set's rows by an index.
    # Otherwise it may read the whole table, as it takes the number of sets to be large.
    given, subquery = _given(columns, numbered=True), _with_columns(query, columns)
    return (
        f"SELECT given.{SET_NUMBER}, found.*"  # noqa: S608 - names and SQL of this package
        f" FROM {given} CROSS JOIN LATERAL ({subquery} OFFSET 0) AS found"
    ).encode()


@cache
def _insertion(query: str, columns: _Columns) -> bytes:
    values = _VALUES.search(query)
    assert values is not None
    selected, given = _with_columns(values[1], columns), _given(columns, numbered=False)
    before, after = query[: values.start()], query[values.end() :]
    # The names are parameters of this package's SQL.
    return f"{before}SELECT {selected} FROM {given}{after}".encode()  # noqa: S608


def _given(columns: _Columns, *, numbered: bool) -> str:
    """Return a table of the sets of parameters."""
    arrays = ", ".join(f"%({name})s::{kind or 'text'}[]" for name, kind in columns)
    names = ", ".join(f'"{name}"' for name, _ in columns)
    if numbered:
        return f"unnest({arrays}) WITH ORDINALITY AS given({names}, {SET_NUMBER})"
    return f"unnest({arrays}) AS given({names})"


def _with_columns(query: str, columns: _Columns) -> str:
    """Return SQL with columns of `given` instead of parameters."""
    types = dict(columns)

    def column(found: re.Match[str]) -> str:
        # A literal NULL takes the type that is needed, unlike a column.
        return f'given."{found[1]}"' if types[found[1]] != _UNKNOWN else "NULL"

    return _PARAMETER.sub(column, query.replace("%", "%%"))


def _arrays(sets: Sequence[Parameters]) -> Arrays:
    return {name: [_plain(one[name]) for one in sets] for name in sets[0]}


def _plain(value: Value) -> Value:
    """Return a text as `str`: psycopg dumps enumerations by other rules."""
    return str(value) if isinstance(value, str) else value


def _columns(arrays: Arrays) -> _Columns:
    """Return name and type of each parameter."""
    return tuple((name, _type(values)) for name, values in arrays.items())


def _type(values: Sequence[Value]) -> str:
    value = next((one for one in values if one is not None), None)
    if value is None:
        return _UNKNOWN
    return {str: "text", int: "bigint", float: "double precision", bytes: "bytea"}[type(value)]
