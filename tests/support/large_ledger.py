"""Write a ledger with a large number of batches without a server."""

from __future__ import annotations

import json
from pathlib import Path

import apsw

from service.recalibrations import events as changes
from service.repositories import batches, models, recalibrations
from service.storage.ledger import schema
from service.storage.ledger.maintenance import MaintenanceLedger, open_ledger
from service.storage.ledger.protocol import Transaction, Value
from tests.support.service_fakes import GOOD_MODEL, describe_bytes

MODEL = "a" * 64
_CREATED = "2026-01-01T00:00:00.000000Z"
_OPTIONS = {"method": "exact", "estimator": {"name": "replace"}, "layers": []}


def write(folder: Path, sizes: dict[str, int]) -> None:
    """Create a data folder with open recalibrations of the given numbers of batches."""
    folder.mkdir(parents=True)
    with open_ledger(folder) as ledger:
        ledger.write(_insert_model)
        for name, size in sizes.items():
            _insert(ledger, name, size)


def _insert_model(tx: Transaction) -> None:
    text = json.dumps(describe_bytes(GOOD_MODEL))
    models.insert(tx, model=MODEL, folder_name=MODEL, size=1, description=text, created=_CREATED)
    models.grant(tx, MODEL, "", created=_CREATED)


def _insert(ledger: MaintenanceLedger, name: str, size: int) -> None:
    def work(tx: Transaction) -> None:
        found = recalibrations.insert(
            tx,
            recalibration_id=name,
            owner="",
            model=MODEL,
            inputs=json.dumps(describe_bytes(GOOD_MODEL)["inputs"]),
            options=json.dumps(_OPTIONS | {"preprocess": None, "memory_bytes": None}),
            keep_data=False,
        )
        changes.created(tx, found)
        tx.change(
            "UPDATE recalibration SET received = :n, samples = :n, bytes = 12 * :n WHERE id = :id",
            id=name,
            n=size,
        )
        constant: dict[str, Value] = {
            "recalibration_id": name,
            "stream": "target",
            "samples": 1,
            "bytes": 12,
            "sha256": "b" * 64,
        }
        constant |= {"format": "npy", "blob": f"{0:024x}.pack"}
        rows = (constant | {"index": i, "start": 12 * i} for i in range(size))
        for row in rows:
            tx.change(batches.INSERT, **row)

    ledger.write(work)


# Statements that undo a migration, by the version that it leads to.
_UNDO = {
    4: "DROP TRIGGER recalibration_inserted; DROP TRIGGER recalibration_changed;"
    "DROP TRIGGER recalibration_deleted; DROP TABLE stored_bytes",
    5: "ALTER TABLE batch DROP COLUMN start",
    6: "ALTER TABLE recalibration RENAME COLUMN worker_crashes TO worker_deaths",
    7: "",
    8: """
    CREATE TABLE old_batch (
        recalibration TEXT NOT NULL REFERENCES recalibration (id) ON DELETE CASCADE,
        batch_index INTEGER NOT NULL,
        samples INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        format TEXT NOT NULL,
        blob TEXT NOT NULL,
        start INTEGER,
        PRIMARY KEY (recalibration, batch_index)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO old_batch
    SELECT recalibration, batch_index, samples, bytes, sha256, format, blob, start FROM batch
    WHERE stream = 'target';
    DROP TABLE batch;
    ALTER TABLE old_batch RENAME TO batch;
    ALTER TABLE recalibration DROP COLUMN source_received;
    ALTER TABLE recalibration DROP COLUMN source_samples;
    ALTER TABLE recalibration DROP COLUMN source_bytes;
    ALTER TABLE recalibration DROP COLUMN source_total;
    """,
    9: "ALTER TABLE recalibration DROP COLUMN verdict",
    10: "ALTER TABLE recalibration DROP COLUMN name",
    11: "ALTER TABLE recalibration DROP COLUMN tags",
    12: """
    ALTER TABLE recalibration DROP COLUMN runner;
    ALTER TABLE recalibration DROP COLUMN lease_until;
    ALTER TABLE recalibration DROP COLUMN claims;
    ALTER TABLE recalibration DROP COLUMN verdict_code;
    ALTER TABLE result DROP COLUMN claim;
    ALTER TABLE model DROP COLUMN folder;
    """,
    13: "DROP TABLE identity",
}


def downgrade(connection: apsw.Connection, version: int) -> None:
    """Give a ledger the tables of an earlier schema version, at least 3."""
    for newer in range(schema.VERSION, version, -1):
        connection.execute(_UNDO[newer])
    connection.execute(f"PRAGMA user_version = {version}")


def use_old_names(folder: Path) -> None:
    """Give the files of models and results the names that they had before schema version 12."""
    for model in list((folder / "models").iterdir()):
        model.rename(model.with_name(model.name.partition("-")[0]))
    for file in list(folder.glob("recalibrations/*/results/1/*")):
        file.rename(file.parent.parent / file.name)
    for claim in folder.glob("recalibrations/*/results/1"):
        claim.rmdir()
