"""One arena for the intermediate tensors of many short-lived sessions.

A session's own arena starts empty, and without an arena each tensor comes from the C library, which
returns large ones to the system. Either way a run touches fresh memory for most of its tensors, and
a page fault and zeroing for every 4 KiB cost as much as computing with them: half of the time of
EfficientNet-B0. Sessions that share an arena find its memory warm.

onnxruntime keeps one shared arena per process. Only sessions that ask for it use it.
"""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from bn_ops.errors import EngineError
from bn_ops.onnx_files.session import onnxruntime, translated

__all__ = ["free_arena", "use_arena"]

_FREE_UNUSED = "memory.enable_memory_arena_shrinkage"


@cache
def _register() -> None:
    ort = onnxruntime()
    info = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    # Refused where the process has registered an arena itself, which is then used.
    with contextlib.suppress(EngineError), translated("registering the shared arena"):
        ort.create_and_register_allocator(info, None)


def use_arena(options: Any) -> None:
    """Let the session of these options allocate its tensors in the shared arena."""
    _register()
    options.enable_cpu_mem_arena = True
    options.add_session_config_entry("session.use_env_allocators", "1")


def free_arena() -> None:
    """Return the memory of the arena that holds no tensor to the system."""
    ort = onnxruntime()
    options = ort.RunOptions()
    options.add_run_config_entry(_FREE_UNUSED, "cpu:0")
    _smallest_session().run(None, {"x": np.zeros(1, np.float32)}, options)


@cache
def _smallest_session() -> Any:
    """Return a session that uses the arena: only a run can free its memory."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "smallest",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    use_arena(options)
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
