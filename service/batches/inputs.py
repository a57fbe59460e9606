"""What batches must hold, for streams that are under way."""

from __future__ import annotations

from bn_ops.core.signature import TensorInfo
from service.repositories import recalibrations as store
from service.storage.ledger.protocol import Ledger

# Streams that are remembered; any other is asked for in the ledger.
MOST_STREAMS = 1024


class KnownInputs:
    """The inputs of recalibrations, read once from the ledger.

    They never change and no id is ever given twice, so what was read stays true; whether the
    recalibration is still there and open is for the transaction to say that stores the batch.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[TensorInfo, ...]] = {}

    async def of(self, ledger: Ledger, recalibration: str) -> tuple[TensorInfo, ...]:
        """Return what a batch must hold.

        Raises:
            NotFoundError: there is no such recalibration.
        """
        known = self._known.get(recalibration)
        if known is None:
            found = await ledger.read(lambda tx: store.get(tx, recalibration))
            known = found.tensors()
            self._known[recalibration] = known
            if len(self._known) > MOST_STREAMS:
                del self._known[next(iter(self._known))]
        return known
