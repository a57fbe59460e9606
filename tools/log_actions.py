"""Names of log actions: the `action` of a line is stable, its message may change."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

ACTIONS: Mapping[str, str] = MappingProxyType(
    {
        "listening": "The server accepts requests; with its address and the changed settings.",
        "runner": "A runner is ready; with the changed settings.",
        "stopping": "The server accepts no more requests and finishes those in progress.",
        "unknown-variable": "An environment variable starts with BNRECAL_ but is not a setting.",
        "file-limit-low": "The system allows fewer open files than the connections may need.",
        "runs-requeued": "At startup, and when a lease is over: the number of interrupted runs "
        "that were queued again.",
        "run-lost": "A run was cancelled, deleted or taken over by another process.",
        "lease-not-extended": "The ledger could not be written; it is tried again.",
        "admission": "At startup: the memory that all runs may use together.",
        "sandbox": "The sandbox restrictions that are in force for workers on this machine.",
        "sandbox-unknown": "No worker could report its sandbox; `/readyz` asks again.",
        "telemetry-off": "At startup: OTEL_ variables are set, but nothing is exported; with the "
        "cause.",
        "telemetry-failed": "Metrics were not exported to OpenTelemetry; the next export follows.",
        "connection-refused": "A connection sent invalid HTTP, an oversized header or no header in "
        "time, and was closed; with the problem's code.",
        "request": "A response was sent; with route, status, seconds, the token's name and, for a "
        "problem, its code.",
        "run-started": "A run starts.",
        "run-ended": "A run has ended; with the recalibration's state and its verdict.",
        "run-waits-for-ledger": "A run waits for the database of the ledger, which cannot be "
        "reached.",
        "run-killed": "A run was killed: cancelled, deleted, or interrupted by a shutdown.",
        "run-deferred": "A run was deferred for lack of resources (disk full, no process).",
        "run-interrupted": "The worker of a run crashed; the run restarts, or fails after too many "
        "crashes.",
        "run-error": "A run failed because of a bug in the server; with the traceback.",
        "worker-died": "A worker exited without a response; with the end of its output.",
        "worker-failed": "A worker failed with an unexpected exception; with the traceback.",
        "shard-replaced": "A shard of a run was lost and starts again elsewhere; with its index "
        "and the number of levels that it repeats.",
        "ray-connected": "The runner has connected to a Ray cluster.",
        "ledger-durability": "At startup: a failure of the ledger's database may lose "
        "acknowledged data; with the cause.",
        "queue-failed": "The queue cannot be read; it is retried.",
        "release-failed": "A shutdown could not queue runs again; they are queued when their "
        "leases are over.",
        "expired": "A recalibration was deleted because it has expired.",
        "model-removed": "A model was deleted because it has no owner or was unused for too long.",
        "object-store-failed": "A request to the object storage failed after its repetitions; with "
        "the cause.",
        "cleanup-failed": "A cleanup of expired data failed; the next one tries again.",
        "ledger-close-failed": "The ledger could not be closed gracefully; nothing is lost.",
    }
)
