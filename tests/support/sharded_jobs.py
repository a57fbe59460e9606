"""Runs of the process executor whose results are compared with those of other ways to run them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from safetensors.numpy import load_file, save_file

from service.workers.messages import FOLDED, STATISTICS, UNFOLDED, StoredBatchRef
from service.workers.protocol import Job
from tests.support.networks import GraphBuilder, images, residual_network


def fixed_batch() -> onnx.ModelProto:
    """Return a network that takes sixteen samples at a time, so that its graph is not optimized."""
    g = GraphBuilder(5)
    y = g.op("Relu", g.bn(g.conv("x", 3, 6), 6, "a"))
    z = g.op("Flatten", g.op("GlobalAveragePool", g.op("Relu", g.bn(g.conv(y, 6, 5), 5, "b"))))
    return g.model([("x", [16, 3, "H", "W"])], [z])


def plain_graph() -> onnx.ModelProto:
    """Return a network that is not optimized, because a reduction may mix samples."""
    g = GraphBuilder(6)
    y = g.op("Relu", g.bn(g.conv("x", 3, 6), 6, "a"))
    y = g.op("Softmax", y, axis=1)
    z = g.op("Flatten", g.op("GlobalAveragePool", g.bn(g.conv(y, 6, 5), 5, "b")))
    return g.model([("x", ["N", 3, "H", "W"])], [z])


NETWORKS = {
    "optimized": residual_network(),
    "graph": plain_graph(),
    "fixed": fixed_batch(),
}
SIZES = {
    "even": [32] * 9 + [12],
    "ragged": [7, 50, 30, 1, 64, 3, 45, 17, 40, 43],
}


def make_job(
    folder: Path, network: onnx.ModelProto, sizes: Sequence[int], estimator: str = "auto"
) -> Job:
    """Return a run on batches of the given sizes."""
    for name in ("batches", "output"):
        (folder / name).mkdir(parents=True)
    onnx.save(network, folder / "model.onnx")
    samples = images(sum(sizes))
    samples[40] = samples[250]  # a sample that two shards hold counts once in the probe
    refs = []
    for index, array in enumerate(np.split(samples, np.cumsum(sizes)[:-1])):
        path = folder / "batches" / f"{index}.safetensors"
        save_file({"x": np.ascontiguousarray(array)}, path)
        refs.append(
            StoredBatchRef(
                name=path.name,
                format="safetensors",
                start=None,
                bytes=path.stat().st_size,
                samples=len(array),
            )
        )

    async def pages() -> AsyncIterator[list[StoredBatchRef]]:
        yield refs[:4]
        yield refs[4:]

    first = network.graph.input[0].type.tensor_type.shape.dim[0]
    return Job(
        model=folder / "model.onnx",
        inputs=[{"name": "x", "dtype": "float32", "shape": [first.dim_value or "N", 3, "H", "W"]}],
        batch_folder=folder / "batches",
        batches=pages,
        total=len(refs),
        options={
            "method": "exact",
            "estimator": {"name": estimator},
            "layers": None,
            "allow_mismatch": True,
        },
        output=folder / "output",
    )


def spoil(job: Job, index: int) -> None:
    """Put NaN into one batch of a run."""
    file = job.batch_folder / f"{index}.safetensors"
    array = load_file(file)["x"]
    array[-1] = np.nan
    save_file({"x": array}, file)


def results(job: Job) -> dict[str, Any]:
    """Return the results of a run without the times of its report."""
    report = json.loads((job.output / "report.json").read_text())
    del report["timings"], report["origin"]
    files = {name: (job.output / name).read_bytes() for name in (FOLDED, UNFOLDED, STATISTICS)}
    return {"report": report, **files}
