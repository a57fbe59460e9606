"""The names of what is logged: a line's `action` stays the same while its sentence may change."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

ACTIONS: Mapping[str, str] = MappingProxyType(
    {
        "listening": "The server takes requests; with its address and the settings that were told.",
        "stopping": "The server takes no more requests and finishes those under way.",
        "unknown-variable": "A variable of the environment begins with BNRECAL_ and is no setting.",
        "few-files": "The system allows fewer open files than so many connections may need.",
        "taken-up": "The start found so many runs that were cut off, and queued them.",
        "admission": "At the start: how much memory runs may take together.",
        "protections": "What holds the workers in on this machine.",
        "protections-unknown": "No worker could say what holds it in; `/readyz` asks again.",
        "connection-refused": "A connection sent no HTTP, too large a head or none in time, and "
        "was closed; with the problem's code.",
        "request": "A request was answered; with route, status, seconds, the token's name and, of "
        "a problem, its code.",
        "run-begins": "A run begins.",
        "run-ended": "A run is over; with the recalibration's state.",
        "run-killed": "A run was killed: cancelled, deleted, or cut off by a shutdown.",
        "run-put-off": "The machine cannot do a run now (disk full, no process); it begins again.",
        "run-cut-off": "A run's worker died; it begins again, or fails when that happens again.",
        "run-fault": "A run ended in a fault of ours; with the traceback.",
        "worker-died": "A worker ended without an answer; with the end of what it wrote.",
        "worker-failed": "A worker failed in a way it has no name for; with the traceback.",
        "queue-failed": "The queue cannot be read now; it is tried again.",
        "give-back-failed": "A shutdown could not queue a run again; the next start does.",
        "expired": "A recalibration was deleted because its time was over.",
        "model-removed": "A model was deleted that nobody holds any more, or used for long.",
        "sweep-failed": "A sweep for what has expired failed; the next one tries again.",
        "ledger-close-failed": "The ledger could not be closed in good order; nothing is lost.",
    }
)
