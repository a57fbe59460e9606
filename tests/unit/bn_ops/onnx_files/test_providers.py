"""`providers=`: validated against the installed onnxruntime and passed to every session."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import numpy as np
import pytest

import bn_ops
from bn_ops.errors import EngineError, OptionError
from bn_ops.onnx_files import session as sessions
from bn_ops.onnx_files.session import CPU, onnxruntime, runs_on_cpu, use_providers
from examples.digits.data import load_sklearn_digits
from examples.digits.demo import MODEL as CHECKPOINT

IMAGES = load_sklearn_digits().images[:64]


@pytest.mark.parametrize(
    ("providers", "message"),
    [
        ("CPUExecutionProvider", "takes a list"),
        ([], "takes a list"),
        ([3], "a name or a pair"),
        (["NoSuchProvider"], "'NoSuchProvider' is not available; the installed onnxruntime .* has"),
        ([("NoSuchProvider", {})], "'NoSuchProvider' is not available"),
    ],
)
def test_wrong_providers_are_refused(providers: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        bn_ops.recalibrate(CHECKPOINT, [IMAGES], providers=providers)


def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that receives the providers of every session."""
    seen: list[Any] = []
    original = onnxruntime().InferenceSession

    def record(*args: Any, providers: Any, **options: Any) -> Any:
        seen.append([name for name, _ in providers])
        return original(*args, providers=[CPU], **options)

    monkeypatch.setattr(onnxruntime(), "InferenceSession", record)
    return seen


def test_every_session_of_a_run_uses_the_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    available = onnxruntime().get_available_providers()
    other = next(name for name in available if name != CPU)
    seen = opened(monkeypatch)
    monkeypatch.setattr(sessions, "_started", lambda inner: [*available, inner and CPU])
    artifact = bn_ops.adapt(CHECKPOINT, [IMAGES], providers=[other], allow_mismatch=True)
    assert artifact.report.parity is not None
    assert seen
    assert {tuple(names) for names in seen} == {(other, CPU)}
    assert runs_on_cpu()


def test_a_provider_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_started", lambda _: [CPU])
    other = next(name for name in onnxruntime().get_available_providers() if name != CPU)
    with pytest.raises(EngineError, match=f"could not start {other}"):
        bn_ops.adapt(CHECKPOINT, [IMAGES], providers=[other], allow_mismatch=True)


def test_the_cpu_by_name_gives_the_same_bytes() -> None:
    runs = [
        bn_ops.recalibrate(CHECKPOINT, [IMAGES], providers=given, allow_mismatch=True)
        for given in (None, [CPU])
    ]
    assert runs[0].model.SerializeToString() == runs[1].model.SerializeToString()


def test_a_module_takes_no_providers() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(OptionError, match="needs an ONNX model"):
        bn_ops.recalibrate(torch.nn.BatchNorm1d(2), [np.zeros((2, 2), np.float32)], providers=[CPU])


def test_tf32_is_off_unless_asked_for() -> None:
    assert sessions._with_options("CUDAExecutionProvider")[1] == {"use_tf32": "0"}
    assert sessions._with_options(("CUDAExecutionProvider", {"device_id": 1}))[1] == {
        "device_id": 1
    }


def test_two_distributions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"onnxruntime", "onnxruntime-gpu"}

    def version(name: str) -> str:
        if name in installed:
            return "1.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(
        OptionError, match="onnxruntime and onnxruntime-gpu are installed and overw"
    ):
        use_providers(["NoSuchProvider"]).__enter__()


def test_an_onnxruntime_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(EngineError, match="install `onnxruntime`, or one distribution"):
        onnxruntime.__wrapped__()
