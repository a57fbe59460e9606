"""The tables, by version. A migration is only ever appended."""

from __future__ import annotations

from service.errors import StartError

_VERSION_1 = """
CREATE TABLE model (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    bytes INTEGER NOT NULL,
    description TEXT NOT NULL,
    created TEXT NOT NULL
) STRICT;

CREATE TABLE recalibration (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    model TEXT NOT NULL,
    inputs TEXT NOT NULL,
    options TEXT NOT NULL,
    keep_data INTEGER NOT NULL,
    state TEXT NOT NULL,
    received INTEGER NOT NULL DEFAULT 0,
    samples INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    total INTEGER,
    phase TEXT,
    progress_done INTEGER,
    progress_total INTEGER,
    error TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    worker_deaths INTEGER NOT NULL DEFAULT 0,
    data_removed INTEGER NOT NULL DEFAULT 0,
    created TEXT NOT NULL,
    updated TEXT NOT NULL,
    ended TEXT
) STRICT;
CREATE INDEX recalibration_by_state ON recalibration (state, seq);
CREATE INDEX recalibration_by_model ON recalibration (model, state);

CREATE TABLE batch (
    recalibration TEXT NOT NULL REFERENCES recalibration (id) ON DELETE CASCADE,
    batch_index INTEGER NOT NULL,
    samples INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    format TEXT NOT NULL,
    blob TEXT NOT NULL,
    PRIMARY KEY (recalibration, batch_index)
) STRICT, WITHOUT ROWID;

CREATE TABLE result (
    recalibration TEXT NOT NULL REFERENCES recalibration (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (recalibration, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE event (
    recalibration TEXT NOT NULL REFERENCES recalibration (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (recalibration, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    request_sha256 TEXT NOT NULL,
    response TEXT NOT NULL,
    created TEXT NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;
"""

MIGRATIONS: tuple[str, ...] = (_VERSION_1,)
VERSION = len(MIGRATIONS)


def pending(found: int) -> tuple[str, ...]:
    """Return the migrations that a ledger of version `found` lacks.

    Raises:
        StartError: the ledger was written by a newer server.
    """
    if found > VERSION:
        raise StartError(
            f"the ledger has schema version {found}, this server knows {VERSION}: "
            "start the newer server"
        )
    return MIGRATIONS[found:]
