"""Peak memory of a run, in a separate process, against its budget."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Layers of 32 channels on 64x64: half a megabyte per waiting tensor and sample. Each level reads
# one tensor per sample and writes another: 270 MB for 256 samples, and 2.7 GB for 2,560, far beyond
# the budget. A tenth of the budget, 40 MB, is allowed for the current batches, the tensors of
# onnxruntime and memory that the C library does not return.
_SCRIPT = """
import json, resource, sys, threading, time
from pathlib import Path
import numpy as np
import bn_ops
from tests.support.networks import GraphBuilder, images

samples, budget_bytes, spill_folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
g = GraphBuilder()
x = g.op("Relu", g.bn(g.conv("x", 3, 32, stride=2), 32, "stem"))
for layer in range(3):
    x = g.op("Relu", g.bn(g.conv(x, 32, 32, group=32), 32, f"layer{layer}"))
model = g.model([("x", ["N", 3, "H", "W"])], [x])

def anonymous():
    # The kernel can reclaim pages of mapped files; a run itself uses anonymous memory.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024

def stream(count):
    rng = np.random.default_rng(0)
    for _ in range(count // 16):
        yield rng.standard_normal((16, 3, 128, 128), dtype=np.float32)

budget = bn_ops.Budget(memory_bytes=budget_bytes, spill_folder=spill_folder)
bn_ops.recalibrate(model, stream(64), budget=budget, threads=2)  # libraries, threads, self-test
peak, done, start = 0, False, anonymous()

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
bn_ops.recalibrate(model, stream(samples), budget=budget, threads=2)
done = True
watcher.join()
print(json.dumps({"beyond": peak - start}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("samples", [256, 2560])
def test_peak_memory_within_budget(samples: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    budget = 400 << 20
    spill = tmp_path_factory.mktemp("spill")
    # Scheduling of the threads depends on other load and can only increase the peak, so the minimum
    # of several runs counts.
    beyond: list[int] = []
    while len(beyond) < 4 and min(beyond, default=2 * budget) > 1.1 * budget:
        answer = subprocess.run(
            [sys.executable, "-c", _SCRIPT, str(samples), str(budget), str(spill)],
            check=True,
            capture_output=True,
            text=True,
        )
        beyond.append(json.loads(answer.stdout)["beyond"])
    assert min(beyond) <= 1.1 * budget
    assert list(spill.iterdir()) == []
