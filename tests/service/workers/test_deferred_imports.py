"""A worker loads sympy only where something uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.networks import residual_network

_LOADED = "sum(name.startswith('sympy.') for name in sys.modules)"

_ADAPT = f"""
import sys
from service.workers.child.deferred_imports import defer_sympy
defer_sympy()
from service.workers.child import inspect_model, recalibrate
import numpy as np
import bn_ops
x = np.random.default_rng(0).normal(0, 1, (8, 3, 12, 12)).astype(np.float32)
bn_ops.adapt(sys.argv[1], [x], allow_mismatch=True)
print({_LOADED})
import onnx_ir
print(onnx_ir.SymbolicDim("N") + 1, {_LOADED} > 0)
"""


def test_a_task_does_not_load_sympy_but_can_use_it(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(residual_network().SerializeToString())
    done = subprocess.run(
        [sys.executable, "-c", _ADAPT, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["0", "N + 1 True"], done.stderr
