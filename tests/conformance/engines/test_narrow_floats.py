"""16-bit networks and batches: statistics in wider types, against the float64 oracle."""

from __future__ import annotations

import copy

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import bn_ops
from bn_ops import recalibrate
from bn_ops.core.batches import as_array
from tests.support.torch_oracle import population, residual, stored

NARROW = [torch.bfloat16, torch.float16]

# Precision of the buffers: half a unit in the last place of 8 and 11 bits.
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11}


def network(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
    )
    return model.to(dtype).eval()


def images(dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(20, 3, 12, 12, generator=generator) * 2 + 1).to(dtype)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_statistics_match_float64_oracle(dtype: torch.dtype) -> None:
    model, x = network(dtype), images(dtype)
    done = recalibrate(model, [x[:7], x[7:]])
    seen: dict[str, torch.Tensor] = {}
    twin = copy.deepcopy(model)
    for name in ("1", "4"):
        twin.get_submodule(name).register_forward_pre_hook(
            lambda _, args, n=name: seen.update({n: args[0].double()})
        )
    with torch.no_grad():
        twin(x)
    wanted = {name: population(found) for name, found in seen.items()}
    # Measured statistics have float32 precision; only the stored ones are rounded to the buffers.
    measured = {
        name: (torch.from_numpy(s.mean), torch.from_numpy(s.var))
        for name, s in done.statistics.items()
    }
    assert residual({"1": measured["1"]}, {"1": wanted["1"]}) < 1e-6
    # In deeper layers, the rounding of the convolutions depends on the split into batches.
    assert residual(measured, wanted) < ROUNDING[dtype]
    for name, (mean, var) in stored(model).items():
        rounding = ROUNDING[dtype]
        torch.testing.assert_close(mean, measured[name][0], rtol=rounding, atol=1e-6)
        torch.testing.assert_close(var, measured[name][1], rtol=rounding, atol=0)
    assert all(value.dtype != torch.float32 for value in model.state_dict().values())


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_comparison_keeps_the_dtype(dtype: torch.dtype) -> None:
    head = nn.Sequential(network(dtype), nn.Flatten(), nn.LazyLinear(4)).to(dtype)
    head(images(dtype)[:1])
    done = bn_ops.recalibrate(
        head,
        [images(dtype)],
        compare=True,
        evaluate=[(images(dtype), torch.zeros(20, dtype=torch.long))],
    )
    assert done.report.prediction_shift is not None
    assert done.report.evaluation is not None
    kept = done.calibration[0]["input"]
    assert kept.dtype == (ml_dtypes.bfloat16 if dtype == torch.bfloat16 else np.float16)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_tensor_to_array_round_trip(dtype: torch.dtype) -> None:
    x = images(dtype)
    for form in (x, x[:, :, ::2], x.contiguous(memory_format=torch.channels_last), x[0, 0, 0, 0]):
        np.testing.assert_array_equal(as_array(form).astype(np.float64), form.double().numpy())
    one, other = network(dtype), network(dtype)
    recalibrate(one, [x])
    recalibrate(other, [as_array(x)])
    assert residual(stored(one), stored(other)) == 0


def widening(element: int) -> onnx.ModelProto:
    """Return a model with a 16-bit input that computes in float32."""
    vectors = {"scale": 1.0, "shift": 0.0, "mean": 0.0, "var": 1.0}
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("BatchNormalization", ["wide", *vectors], ["y"], name="bn"),
        ],
        "widening",
        [helper.make_tensor_value_info("x", element, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor(n, TensorProto.FLOAT, [3], [v] * 3) for n, v in vectors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_onnx_engine_accepts_narrow_torch_batches(dtype: torch.dtype) -> None:
    element = TensorProto.BFLOAT16 if dtype == torch.bfloat16 else TensorProto.FLOAT16
    x = images(dtype)
    found = bn_ops.adapt(widening(element), [x[:7], x[7:]], estimator="replace")
    mean, var = population(x.double())
    np.testing.assert_allclose(found.statistics["bn"].mean, mean.numpy(), rtol=1e-6)
    np.testing.assert_allclose(found.statistics["bn"].var, var.numpy(), rtol=1e-6)
    assert found.report.parity is not None
    assert found.report.parity.passed
