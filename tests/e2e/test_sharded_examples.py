"""The examples of sharding run as their texts say, over torch.distributed and over files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx

import bn_ops
from examples.sharded.distributed import buffers_sha256, demo
from examples.sharded.exchange import moments_path
from tests.support.networks import images, residual_network
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


def started(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def output(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return out


def test_ranks_end_with_the_bits_of_one_process() -> None:
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    out = output(started(*launcher, "-m", "examples.sharded.distributed"))
    module, dataset = demo()
    inputs = [dataset[index][0].numpy() for index in range(500)]
    batches = [np.stack(inputs[start : start + 32]) for start in range(0, 500, 32)]
    bn_ops.recalibrate(module, batches)
    digest = buffers_sha256(module)
    assert sorted(filter(None, out.splitlines())) == [f"rank 0: {digest}", f"rank 1: {digest}"]


def test_sites_exchange_moments_through_a_folder(tmp_path: Path) -> None:
    model, folder = tmp_path / "model.onnx", tmp_path / "exchange"
    onnx.save(residual_network(), model)
    # The stored statistics are random, so that they are made to fit first.
    x = images(400, size=6)
    fitted = bn_ops.recalibrate(model, [x], allow_mismatch=True).model
    onnx.save(fitted, model)
    samples = [x[:150], x[150:] + np.float32(0.1)]
    for number, own in enumerate(samples):
        np.save(tmp_path / f"{number}.npy", own)

    def started_site(number: int) -> subprocess.Popen[str]:
        return started(
            "examples.sharded.site", model, tmp_path / f"{number}.npy", folder, "--site", number
        )

    # The first run of site 0 dies while it waits for the level's statistics.
    first = started_site(0)
    until(moments_path(folder, 0, 0).exists, seconds=120)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    processes = [
        started_site(0),
        started_site(1),
        started(
            *("examples.sharded.coordinator", model, folder, "--sites", 2),
            *("--output", tmp_path / "new.onnx"),
        ),
    ]
    outs = [output(process) for process in processes]
    assert outs[2] == f"6 layers recalibrated: {tmp_path / 'new.onnx'}\n"

    whole = bn_ops.recalibrate(model, [*samples]).model
    new = onnx.load(tmp_path / "new.onnx")
    for mine, theirs in zip(new.graph.initializer, whole.graph.initializer, strict=True):
        left, right = map(onnx.numpy_helper.to_array, (mine, theirs))
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)
    largest = max(path.stat().st_size for path in folder.iterdir())
    assert largest < 4096
