"""The number of BLAS threads while float64 models run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from bn_ops.verification.float64 import Float64Model
from tests.conformance.fold.building import Graph


def _threads(_: object = None) -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_only_the_calling_threads_multiply_and_the_number_is_restored() -> None:
    if not _threads():
        pytest.skip("numpy has no BLAS library with threads")
    graph = Graph("Abs", dtype="float64", opset=17)
    graph.output(name := graph.add("Abs", graph.input("x", ("N",))), (None,))
    model, batch = Float64Model(graph.model()), {"x": np.zeros(1)}

    def seen(_number: int) -> set[int]:
        ((_, during),) = model.run_all(
            [name], [batch], threads=1, summarize=_threads, summarized=[name]
        )
        return during[name]

    before = _threads()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(seen, range(32))) == [{1}] * 32
    assert _threads() == before
