"""Admission: sealed recalibrations enter the queue while memory for their runs is free.

Each recalibration reserves the memory of its worker from admission until its end. Admission is
strictly in the order of creation, so small recalibrations never overtake a large one forever. A
recalibration that needs more than the total is admitted alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.recalibrations import events
from service.repositories import recalibrations as store
from service.repositories.lifecycle import Event, State
from service.repositories.records import Recalibration
from service.settings import Settings
from service.storage.ledger.protocol import Transaction
from service.workers.memory import runs_bytes, worker_bytes


def admit(tx: Transaction, settings: Settings) -> list[Recalibration]:
    """Queue the sealed recalibrations for which memory is free; return them."""
    admitted: list[Recalibration] = []
    reserved: int | None = None
    while (found := store.oldest(tx, State.SEALED)) is not None:
        if reserved is None:
            reserved = _reserved(tx, settings)
        need = _memory_of(found.options, settings)
        if reserved and reserved + need > runs_bytes(settings):
            break
        reserved += need
        admitted.append(events.advance(tx, found.id, Event.ADMIT))
    return admitted


def _memory_of(options: Mapping[str, Any], settings: Settings) -> int:
    return worker_bytes(options.get("memory_bytes"), settings)


def _reserved(tx: Transaction, settings: Settings) -> int:
    admitted = [*store.in_state(tx, State.QUEUED), *store.in_state(tx, State.RUNNING)]
    return sum(_memory_of(one.options, settings) for one in admitted)
