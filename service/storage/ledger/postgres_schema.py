"""The tables of the PostgreSQL ledger, by schema version. Released migrations never change.

The tables and columns are those of the SQLite ledger, so one SQL text serves both. The versions are
counted separately.
"""

from __future__ import annotations

_VERSION_1 = """
CREATE TABLE model (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    folder TEXT NOT NULL DEFAULT '',
    bytes BIGINT NOT NULL,
    description TEXT NOT NULL,
    created TEXT NOT NULL
);

CREATE TABLE model_owner (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model TEXT NOT NULL REFERENCES model (id) ON DELETE CASCADE,
    owner TEXT NOT NULL,
    created TEXT NOT NULL,
    UNIQUE (model, owner)
);
CREATE INDEX model_by_owner ON model_owner (owner, seq);

CREATE TABLE recalibration (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    tags TEXT NOT NULL,
    model TEXT NOT NULL,
    inputs TEXT NOT NULL,
    options TEXT NOT NULL,
    keep_data INTEGER NOT NULL,
    state TEXT NOT NULL,
    received BIGINT NOT NULL DEFAULT 0,
    samples BIGINT NOT NULL DEFAULT 0,
    bytes BIGINT NOT NULL DEFAULT 0,
    total BIGINT,
    source_received BIGINT NOT NULL DEFAULT 0,
    source_samples BIGINT NOT NULL DEFAULT 0,
    source_bytes BIGINT NOT NULL DEFAULT 0,
    source_total BIGINT,
    phase TEXT,
    progress_done BIGINT,
    progress_total BIGINT,
    phase_began TEXT,
    phase_first BIGINT,
    seconds_left DOUBLE PRECISION,
    error TEXT,
    verdict TEXT,
    verdict_code TEXT,
    attempts BIGINT NOT NULL DEFAULT 0,
    worker_crashes BIGINT NOT NULL DEFAULT 0,
    claims BIGINT NOT NULL DEFAULT 0,
    runner TEXT,
    lease_until DOUBLE PRECISION,
    data_removed INTEGER NOT NULL DEFAULT 0,
    created TEXT NOT NULL,
    updated TEXT NOT NULL,
    ended TEXT
);
CREATE INDEX recalibration_by_state ON recalibration (state, seq);
CREATE INDEX recalibration_by_model ON recalibration (model, state);
CREATE INDEX recalibration_by_owner ON recalibration (owner, seq);

CREATE TABLE batch (
    recalibration TEXT NOT NULL REFERENCES recalibration (id) ON DELETE CASCADE,
    stream TEXT NOT NULL,
    batch_index BIGINT NOT NULL,
    samples BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    format TEXT NOT NULL,
    blob TEXT NOT NULL,
    start BIGINT,
    PRIMARY KEY (recalibration, stream, batch_index)
);

CREATE TABLE result (
    recalibration TEXT NOT NULL REFERENCES recalibration (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    claim BIGINT,
    PRIMARY KEY (recalibration, name)
);

CREATE TABLE event (
    recalibration TEXT NOT NULL REFERENCES recalibration (id) ON DELETE CASCADE,
    seq BIGINT NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (recalibration, seq)
);

CREATE TABLE idempotency (
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    request_sha256 TEXT NOT NULL,
    response TEXT NOT NULL,
    created TEXT NOT NULL,
    PRIMARY KEY (scope, key)
);

CREATE TABLE token (
    name TEXT PRIMARY KEY,
    sha256 TEXT NOT NULL UNIQUE,
    admin INTEGER NOT NULL,
    limit_bytes BIGINT,
    limit_open BIGINT,
    created TEXT NOT NULL
);

CREATE TABLE stored_bytes (bytes BIGINT NOT NULL);
INSERT INTO stored_bytes VALUES (0);

CREATE FUNCTION count_stored_bytes() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    change BIGINT := 0;
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.data_removed = 0 THEN
        change := change - OLD.bytes;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.data_removed = 0 THEN
        change := change + NEW.bytes;
    END IF;
    IF change <> 0 THEN
        UPDATE stored_bytes SET bytes = bytes + change;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER recalibration_bytes
AFTER INSERT OR DELETE OR UPDATE OF bytes, data_removed ON recalibration
FOR EACH ROW EXECUTE FUNCTION count_stored_bytes();
"""

# An id of the ledger, by which an object store is bound to it; inserted when it is first needed.
_VERSION_2 = """
CREATE TABLE identity (id TEXT NOT NULL);
"""

MIGRATIONS: tuple[str, ...] = (_VERSION_1, _VERSION_2)
VERSION = len(MIGRATIONS)
