"""Wrong uses of the library: an error that says what to do, instead of a raw one."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bn_ops

DIGITS = Path(__file__).parents[3] / "examples" / "digits" / "mnist_resnet.onnx"
X = np.zeros((4, 1, 28, 28), np.float32)
run = bn_ops.recalibrate


def module() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)).eval()


def traced() -> torch.jit.ScriptModule:
    """Return a traced module; torch deprecates tracing, and users still have such modules."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    return torch.jit.trace(module(), torch.zeros(1, 1, 8, 8))  # type: ignore[no-any-return, no-untyped-call]


CASES: tuple[tuple[str, Callable[[], Any], str], ...] = (
    ("estimator", lambda: run(DIGITS, [X], estimator="shrnk"), "prior:64"),
    ("class", lambda: run(DIGITS, [X], estimator=bn_ops.Shrink), r"such as Shrink\(\)"),  # type: ignore[call-overload]
    ("progress", lambda: run(DIGITS, [X], progress="yes"), "True to print"),  # type: ignore[call-overload]
    ("method", lambda: run(DIGITS, [X], method="exakt"), "choose from exact, batch"),
    ("array", lambda: run(DIGITS, X), "wrap it in a list"),
    ("one sample", lambda: run(DIGITS, [X[0]]), r"array\[None\]"),
    ("channels last", lambda: run(DIGITS, [X.transpose(0, 2, 3, 1)]), r"transpose\(0, 3, 1, 2\)"),
    ("float64", lambda: run(DIGITS, [X.astype("float64")]), r"astype\('float32'\)"),
    ("pairs", lambda: run(DIGITS, [(X, X)]), "select=lambda item"),
    ("path", lambda: run("gone.onnx", [X]), "gone.onnx"),
    ("traced", lambda: run(traced(), [X]), "TorchScript"),
    ("export", lambda: bn_ops.export(traced(), torch.zeros(1, 1, 8, 8)), "TorchScript|traced"),
    ("folder", lambda: run(DIGITS.parent, [X]), "is a folder; name the model file in it"),
    ("no batches", lambda: run(DIGITS, None), "takes an iterable of batches, got NoneType"),  # type: ignore[call-overload]
    ("no tensors", lambda: run(module(), 3), "takes an iterable of batches, got int"),  # type: ignore[call-overload]
    ("select", lambda: run(DIGITS, [X], select="x"), "select= takes a function, got 'x'"),  # type: ignore[call-overload]
    ("call", lambda: run(module(), [X], call=3), "call= takes a function, got 3"),  # type: ignore[call-overload]
    ("fold", lambda: bn_ops.fold(module()), "fold takes an ONNX model, not Sequential"),  # type: ignore[arg-type]
    ("prior", lambda: bn_ops.Prior("many"), "Prior needs a finite number .* got 'many'"),  # type: ignore[arg-type]
    ("momentum", lambda: bn_ops.Momentum("x"), r"a weight in \(0, 1\], got 'x'"),  # type: ignore[arg-type]
    ("metric", lambda: run(DIGITS, [X], metric=lambda _, __: 0.0), "evaluate="),
    ("call", lambda: run(DIGITS, [X], call=lambda m, b: m(b)), "call"),  # type: ignore[call-overload]
)


@pytest.mark.parametrize(("use", "says"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_wrong_use_raises_an_error_with_the_fix(use: Callable[[], Any], says: str) -> None:
    with pytest.raises(bn_ops.BnOpsError, match=says):
        use()


def test_missing_torch_names_the_extra() -> None:
    code = "import sys; sys.modules['torch'] = None; import bn_ops; bn_ops.export"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last == ('ModuleNotFoundError: bn_ops.export needs torch: pip install "bnrecal[torch]"')


def test_error_names_the_file_and_not_its_temporary_one(tmp_path: Path) -> None:
    target = tmp_path / "gone" / "folded.onnx"
    with pytest.raises(FileNotFoundError) as caught:
        bn_ops.fold(DIGITS).save(target)
    assert caught.value.filename == str(target)


def test_fold_takes_a_path_and_bytes() -> None:
    expected = bn_ops.fold(DIGITS).model
    assert bn_ops.fold(str(DIGITS)).model == bn_ops.fold(DIGITS.read_bytes()).model == expected
    assert {layer.status for layer in bn_ops.fold(DIGITS).layers} == {"folded"}
