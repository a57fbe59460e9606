"""Trained networks with dead channels: both engines, the float64 oracle and folding."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import bn_ops
from bn_ops.exporting import export
from tests.support import real_models
from tests.support.oracle import Observed, residual, stored_statistics, tapped_statistics
from tests.support.torch_oracle import observed_statistics

# One xdist worker, which exports the networks once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real")]

SAMPLES = 6

# Networks of fifty layers in float32; the guarantee is 1e-4.
AGREEMENT = 1e-4


def pictures(size: int) -> torch.Tensor:
    """Return images with structure at every scale: pink noise of random level and contrast."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = frequency[0, 1]
    spectrum = rng.normal(size=(SAMPLES, 3, *frequency.shape)) + 1j * rng.normal(
        size=(SAMPLES, 3, *frequency.shape)
    )
    noise = np.fft.irfft2(spectrum / frequency, s=(size, size))
    noise /= noise.std(axis=(2, 3), keepdims=True)
    level, contrast = (
        rng.normal(0, 0.7, (SAMPLES, 3, 1, 1)),
        rng.uniform(0.4, 1.6, (SAMPLES, 1, 1, 1)),
    )
    return torch.from_numpy((level + contrast * noise).astype(np.float32))


def sound(length: int) -> torch.Tensor:
    time = torch.arange(length)[None] / 16_000
    pitch = torch.linspace(80, 900, SAMPLES)[:, None]
    tones = sum(torch.sin(2 * torch.pi * k * pitch * time) / k for k in (1, 2, 3))
    noise = 0.05 * torch.randn(SAMPLES, length, generator=torch.Generator().manual_seed(0))
    return tones + noise


MODELS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "mobilenet_v2": (real_models.mobilenet_v2, pictures(96)),
    "efficientnet_lite0": (real_models.efficientnet_lite0, pictures(96)),
    "crepe_tiny": (real_models.crepe_tiny, sound(1024)),
}


@cache
def adapted(name: str) -> bn_ops.Artifact:
    make, data = MODELS[name]
    return bn_ops.adapt(
        export(make(), (data[:2],)), [data[:1].numpy(), data[1:].numpy()], estimator="replace"
    )


def check_fixed_point(
    report: bn_ops.Report, stored: Observed, observed: Observed, eps: dict[str, float]
) -> None:
    """Check guarantee P1 for every channel not kept by a guard, in units of the layer's divisor.

    A channel whose spread is far below ε consists of float32 rounding of the preceding sums, also
    in the deployed network. Guarded channels keep the source variance but get the new mean.
    """
    for entry in report.layers:
        (mean, var), (seen_mean, seen_var) = stored[entry.name], observed[entry.name]
        divisor = seen_var + eps[entry.name]
        assert (np.abs(mean - seen_mean) <= AGREEMENT * np.sqrt(divisor)).all(), entry.name
        live = np.ones(len(mean), dtype=bool)
        live[[*entry.dead_channels, *entry.silenced_channels]] = False
        assert (np.abs(var - seen_var)[live] <= AGREEMENT * divisor[live]).all(), entry.name


@pytest.mark.parametrize("name", MODELS)
def test_torch_engine_matches_float64_oracle(name: str) -> None:
    make, data = MODELS[name]
    module = make()
    eps = {layer.name: layer.eps for layer in bn_ops.inspect(module)}
    result = bn_ops.recalibrate(module, [data[:4], data[4:]])
    seen = observed_statistics(module, data)
    observed = {layer: (mean.numpy(), var.numpy()) for layer, (mean, var) in seen.items()}
    stored = {layer: (s.mean, s.var) for layer, s in result.statistics.items()}
    check_fixed_point(result.report, stored, observed, eps)


@pytest.mark.parametrize("name", MODELS)
def test_onnx_engine_matches_node_inputs(name: str) -> None:
    _, data = MODELS[name]
    artifact = adapted(name)
    eps = {layer.name: layer.eps for layer in bn_ops.inspect(artifact.unfolded)}
    (feed,) = [info.name for info in bn_ops.describe(artifact.unfolded).inputs]
    observed = tapped_statistics(artifact.unfolded, {feed: data.numpy()})
    check_fixed_point(artifact.report, stored_statistics(artifact.unfolded), observed, eps)


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_lite0"])
def test_dead_channels_keep_their_variance(name: str) -> None:
    artifact = adapted(name)
    source = {layer.name: layer.statistics for layer in bn_ops.inspect(artifact.unfolded)}
    dead = 0
    for entry in artifact.report.layers:
        stored = source[entry.name]
        assert stored is not None
        for channel in entry.dead_channels:
            dead += 1
            assert stored.var[channel] < 1e-8
        assert entry.amplification is not None
    assert dead > 0


@pytest.mark.parametrize("name", MODELS)
def test_folded_model_is_verified(name: str) -> None:
    artifact = adapted(name)
    assert artifact.report.parity is not None
    assert artifact.report.parity.passed
    assert artifact.report.fold is not None
    if name != "crepe_tiny":  # convolution, ReLU, BatchNorm, padding: no exact fold exists
        assert {entry.status for entry in artifact.report.fold} == {"folded"}
        assert all(node.op_type != "BatchNormalization" for node in artifact.model.graph.node)


@pytest.mark.parametrize(
    ("file", "shape", "layers"),
    [
        ("ch_ppocr_mobile_v2.0_cls_infer.onnx", (3, 48, 192), 35),
        ("ch_PP-OCRv4_det_infer.onnx", (3, 96, 96), 3),
        ("ch_PP-OCRv4_rec_infer.onnx", (3, 48, 160), 6),
    ],
)
def test_models_of_other_frameworks(file: str, shape: tuple[int, ...], layers: int) -> None:
    x = np.random.default_rng(0).normal(0, 0.5, (5, *shape)).astype(np.float32)
    artifact = bn_ops.adapt(real_models.rapidocr(file), [x[:2], x[2:]], estimator="replace")
    assert len(artifact.statistics) == layers
    (name,) = [i.name for i in bn_ops.describe(artifact.unfolded).inputs]
    seen = tapped_statistics(artifact.unfolded, {name: x})
    guarded = [r for r in artifact.report.layers if r.dead_channels or r.silenced_channels]
    assert guarded == []
    assert residual(stored_statistics(artifact.unfolded), seen) <= AGREEMENT
    assert artifact.report.parity is not None
    assert artifact.report.parity.passed
    assert artifact.report.fold is not None
    # On noise, float32 rounding changes the outputs of these detectors by more than the tolerance,
    # folded or not; in float64 the folds are exact, and none is undone.
    assert [entry.status for entry in artifact.report.fold] == ["folded"] * layers
    for output in artifact.report.parity.outputs:
        assert output.exact_error is not None
        assert output.exact_error <= 1e-9
