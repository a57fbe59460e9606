"""Data sets of the real `datasets` package as streams of the client."""

from __future__ import annotations

import anyio
import numpy as np
import pytest

from bnrecal_client._concurrency import EventLoop
from bnrecal_client._encoding.batch_source import BatchSource
from bnrecal_client._encoding.batches import encode


@pytest.mark.parametrize("streamed", [False, True])
def test_rows_are_sent_in_batches_without_their_labels(*, streamed: bool) -> None:
    from datasets import Dataset

    rng = np.random.default_rng(5)
    whole = rng.normal(size=(75, 3)).astype(np.float32)
    rows = Dataset.from_dict({"x": whole, "label": list(range(75))})
    source = BatchSource(
        rows.to_iterable_dataset() if streamed else rows,
        None,
        EventLoop(anyio.sleep),
        keep_labels=1024,
    )
    sent: list[str] = []

    async def read() -> int | None:
        while (batch := await source.next(("x",), len(sent))) is not None:
            sent.append(batch.sha256)
        return await source.length()

    assert anyio.run(read) == (None if streamed else 3)
    parts = (whole[:32], whole[32:64], whole[64:])
    assert sent == [encode({"x": part}, ["x"], index=0).sha256 for part in parts]
    assert source.connections == 4
    labels = np.concatenate([found for _, found in source.labeled])
    np.testing.assert_array_equal(labels, np.arange(75))
