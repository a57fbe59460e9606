"""The tables of the SQLite ledger, by schema version. Released migrations never change."""

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

_VERSION_2 = """
CREATE TABLE token (
    name TEXT PRIMARY KEY,
    sha256 TEXT NOT NULL UNIQUE,
    admin INTEGER NOT NULL,
    limit_bytes INTEGER,
    limit_open INTEGER,
    created TEXT NOT NULL
) STRICT;

ALTER TABLE recalibration ADD COLUMN owner TEXT NOT NULL DEFAULT '';
CREATE INDEX recalibration_by_owner ON recalibration (owner, seq);

CREATE TABLE model_owner (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    model TEXT NOT NULL REFERENCES model (id) ON DELETE CASCADE,
    owner TEXT NOT NULL,
    created TEXT NOT NULL,
    UNIQUE (model, owner)
) STRICT;
CREATE INDEX model_by_owner ON model_owner (owner, seq);
INSERT INTO model_owner (model, owner, created) SELECT id, '', created FROM model ORDER BY seq;
"""

_VERSION_3 = """
ALTER TABLE recalibration ADD COLUMN phase_began TEXT;
ALTER TABLE recalibration ADD COLUMN phase_first INTEGER;
ALTER TABLE recalibration ADD COLUMN seconds_left REAL;
"""

# The total over all recalibrations is read before each batch, so it is maintained instead of
# summed. A recalibration whose data is removed does not count.
_VERSION_4 = """
CREATE TABLE stored_bytes (
    only INTEGER PRIMARY KEY CHECK (only = 0),
    bytes INTEGER NOT NULL
) STRICT;
INSERT INTO stored_bytes SELECT 0, coalesce(sum(bytes * (data_removed = 0)), 0) FROM recalibration;

CREATE TRIGGER recalibration_inserted AFTER INSERT ON recalibration BEGIN
    UPDATE stored_bytes SET bytes = bytes + NEW.bytes * (NEW.data_removed = 0);
END;
CREATE TRIGGER recalibration_changed AFTER UPDATE OF bytes, data_removed ON recalibration BEGIN
    UPDATE stored_bytes SET bytes =
        bytes + NEW.bytes * (NEW.data_removed = 0) - OLD.bytes * (OLD.data_removed = 0);
END;
CREATE TRIGGER recalibration_deleted AFTER DELETE ON recalibration BEGIN
    UPDATE stored_bytes SET bytes = bytes - OLD.bytes * (OLD.data_removed = 0);
END;
"""

# Offset of a batch in its pack; null where the batch is a file of its own.
_VERSION_5 = """
ALTER TABLE batch ADD COLUMN start INTEGER;
"""

_VERSION_6 = """
ALTER TABLE recalibration RENAME COLUMN worker_deaths TO worker_crashes;
"""

# `preprocess` has `color`, with the value `gray`, instead of `colour` and `grey`.
_VERSION_7 = """
UPDATE recalibration SET options = json_set(
    json_remove(options, '$.preprocess.colour'),
    '$.preprocess.color',
    replace(options ->> '$.preprocess.colour', 'grey', 'gray')
) WHERE options ->> '$.preprocess.colour' IS NOT NULL;
"""

# Batches of two streams. A primary key cannot be changed, so the rows are copied. `bytes` of a
# recalibration counts both streams, as limits do; `received` and `samples` count the target stream.
_VERSION_8 = """
CREATE TABLE stream_batch (
    recalibration TEXT NOT NULL REFERENCES recalibration (id) ON DELETE CASCADE,
    stream TEXT NOT NULL,
    batch_index INTEGER NOT NULL,
    samples INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    format TEXT NOT NULL,
    blob TEXT NOT NULL,
    start INTEGER,
    PRIMARY KEY (recalibration, stream, batch_index)
) STRICT, WITHOUT ROWID;
INSERT INTO stream_batch
SELECT recalibration, 'target', batch_index, samples, bytes, sha256, format, blob, start FROM batch;
DROP TABLE batch;
ALTER TABLE stream_batch RENAME TO batch;

ALTER TABLE recalibration ADD COLUMN source_received INTEGER NOT NULL DEFAULT 0;
ALTER TABLE recalibration ADD COLUMN source_samples INTEGER NOT NULL DEFAULT 0;
ALTER TABLE recalibration ADD COLUMN source_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE recalibration ADD COLUMN source_total INTEGER;
"""

# The report's verdict, as JSON.
_VERSION_9 = """
ALTER TABLE recalibration ADD COLUMN verdict TEXT;
"""

# A name for people, in one line.
_VERSION_10 = """
ALTER TABLE recalibration ADD COLUMN name TEXT NOT NULL DEFAULT '';
"""

# Words by which people group recalibrations, one per line.
_VERSION_11 = """
ALTER TABLE recalibration ADD COLUMN tags TEXT NOT NULL DEFAULT '';
"""

# Several processes share a ledger. A run belongs to the process `runner` until its lease is over;
# `claims` counts the times that a run was claimed, and each write of a run names the count that it
# was claimed with. Files have names that no other process uses: a model's folder is named in its
# row, and the results of each claim are in a folder of their own.
_VERSION_12 = """
ALTER TABLE recalibration ADD COLUMN runner TEXT;
ALTER TABLE recalibration ADD COLUMN lease_until REAL;
ALTER TABLE recalibration ADD COLUMN claims INTEGER NOT NULL DEFAULT 0;
ALTER TABLE result ADD COLUMN claim INTEGER;
ALTER TABLE model ADD COLUMN folder TEXT NOT NULL DEFAULT '';
UPDATE model SET folder = id;
ALTER TABLE recalibration ADD COLUMN verdict_code TEXT;
UPDATE recalibration SET verdict_code = verdict ->> '$.code';
"""

# An id of the ledger, by which an object store is bound to it; inserted when it is first needed.
_VERSION_13 = """
CREATE TABLE identity (id TEXT NOT NULL) STRICT;
"""

MIGRATIONS: tuple[str, ...] = (
    *(_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4, _VERSION_5, _VERSION_6, _VERSION_7),
    *(_VERSION_8, _VERSION_9, _VERSION_10, _VERSION_11, _VERSION_12),
    _VERSION_13,
)
VERSION = len(MIGRATIONS)
# The first version with a table of tokens.
WITH_TOKENS = 2


def pending(found: int) -> tuple[str, ...]:
    """Return the migrations that a ledger of version `found` needs.

    Raises:
        StartError: a newer server wrote the ledger.
    """
    if found > VERSION:
        raise StartError(
            f"the ledger has schema version {found}, this server supports up to {VERSION}: "
            "start the newer server"
        )
    return MIGRATIONS[found:]
