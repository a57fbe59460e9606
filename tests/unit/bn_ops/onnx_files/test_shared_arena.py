"""Sessions that share an arena keep its memory warm, and return it when asked."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_SCRIPT = """
import json
from pathlib import Path
import numpy as np
from onnx import TensorProto, helper
from bn_ops.onnx_files.session import onnxruntime
from bn_ops.onnx_files.shared_arena import free_arena, use_arena

def anonymous():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024

def opened():
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("Exp", ["x"], ["a"]), helper.make_node("Sin", ["a"], ["b"]),
             helper.make_node("ReduceMax", ["b"], ["y"], keepdims=0)]
    graph = helper.make_graph(nodes, "g", [info("x", TensorProto.FLOAT, ["N"])],
                              [info("y", TensorProto.FLOAT, [])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime().SessionOptions()
    use_arena(options)
    return onnxruntime().InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"])

x = np.ones(10_000_000, np.float32)
sessions = [opened(), opened()]
free_arena()
start = anonymous()
sessions[0].run(None, {"x": x})
kept = anonymous() - start
sessions[1].run(None, {"x": x})
again = anonymous() - start
del sessions
held = anonymous() - start
free_arena()
print(json.dumps({"kept": kept, "again": again, "held": held, "freed": anonymous() - start}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sessions_share_an_arena_that_can_be_freed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # A tensor takes 40 MB. The second session takes no more, and closing sessions frees none.
    assert found["kept"] >= 40_000_000
    assert found["again"] <= found["kept"] + 4_000_000
    assert found["held"] >= 40_000_000
    assert found["freed"] <= 4_000_000
