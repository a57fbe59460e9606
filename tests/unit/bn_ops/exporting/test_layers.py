"""BatchNorm in the exported model: preserved, named, not shared, in inference mode."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from bn_ops import recalibrate
from bn_ops.exporting import export
from tests.support.onnx_run import run_onnx
from tests.support.torch_oracle import stored
from tests.support.zoo import ZOO
from tests.support.zoo_blocks import FrozenBatchNorm2d, SharedNorm, conv_bn


def layers(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if node.op_type == "BatchNormalization"]


def tensors(proto: onnx.ModelProto) -> dict[str, Any]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def test_equal_statistics_are_not_shared() -> None:
    """Equal tensors are not deduplicated, so that an update of one layer affects no other."""
    model = nn.Sequential(*[m for _ in range(3) for m in (nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))])
    proto = export(model, torch.randn(2, 2, 4, 4))
    read = [name for node in layers(proto) for name in node.input[3:]]
    assert sorted(read) == sorted(f"{i}.running_{s}" for i in (1, 3, 5) for s in ("mean", "var"))
    assert all(len(node.output) == 1 for node in layers(proto))


def test_parameter_names_and_bits() -> None:
    model = next(a for a in ZOO if a.name == "residual").build()
    proto = export(model, torch.randn(2, 2, 10, 10))
    found = tensors(proto)
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(found[name], value.numpy(), strict=True)


def test_calls_of_shared_layer_become_layers() -> None:
    proto = export(SharedNorm(), torch.randn(2, 2, 4, 4))
    assert [node.name for node in layers(proto)] == ["bn", "bn#2", "last.1"]
    first, second, _ = layers(proto)
    assert list(second.input[3:]) == ["bn#2.running_mean", "bn#2.running_var"]
    # Scale and shift are parameters of the module and stay shared.
    assert first.input[1:3] == second.input[1:3] == ["bn.weight", "bn.bias"]


class Functional(nn.Module):
    """Functional calls in the root and in a child, with and without scale."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mu", torch.tensor([0.5, 1.0]))
        self.register_buffer("sigma2", torch.tensor([2.0, 3.0]))
        self.child = _Child()

    def forward(self, x: torch.Tensor) -> Any:
        y = functional.batch_norm(x, self.get_buffer("mu"), self.get_buffer("sigma2"))
        return self.child(torch.relu(y))


class _Child(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("m", "v", "w", "b"):
            self.register_buffer(name, torch.tensor([1.0, 2.0]))

    def forward(self, x: torch.Tensor) -> Any:
        m, v, w, b = (self.get_buffer(name) for name in "mvwb")
        return functional.batch_norm(functional.batch_norm(x, m, v, w, b, eps=0.1), m, v)


def test_functional_calls_are_layers() -> None:
    proto = export(Functional(), torch.randn(3, 2, 4))
    assert [node.name for node in layers(proto)] == ["batch_norm", "child", "child#2"]
    stored_in_file = tensors(proto)
    np.testing.assert_array_equal(stored_in_file["batch_norm.running_var"], [2.0, 3.0])
    np.testing.assert_array_equal(stored_in_file["child#2.running_mean"], [1.0, 2.0])
    x = torch.randn(5, 2, 4)
    wanted = Functional()(x).numpy()
    found = run_onnx(proto, {"x": x.numpy()})[0]
    np.testing.assert_allclose(found.astype(np.float64), wanted, atol=1e-5)


def test_frozen_batchnorm_is_a_layer() -> None:
    model = nn.Sequential(conv_bn(1, 2), FrozenBatchNorm2d(2, eps=1e-3))
    proto = export(model, torch.randn(2, 1, 4, 4))
    assert [node.name for node in layers(proto)] == ["0.1", "1"]
    eps = next(a.f for a in layers(proto)[1].attribute if a.name == "epsilon")
    assert eps == pytest.approx(1e-3)
    assert "forward" not in model[1].__dict__


def test_missing_scale_is_written_as_ones() -> None:
    proto = export(nn.Sequential(nn.BatchNorm2d(3, affine=False)), torch.randn(2, 3, 4, 5))
    np.testing.assert_array_equal(tensors(proto)["0.weight"], np.ones(3, np.float32))
    np.testing.assert_array_equal(tensors(proto)["0.bias"], np.zeros(3, np.float32))


def test_convolution_biases_are_preserved() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Conv2d(1, 1, 1))
    nn.init.zeros_(model[2].bias)  # type: ignore[arg-type]
    proto = export(model, torch.randn(2, 1, 3, 3))
    without, with_zeros = (n for n in proto.graph.node if n.op_type == "Conv")
    assert len(without.input) == 2
    assert list(with_zeros.input)[2] == "2.bias"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes_are_preserved(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).to(dtype)
    proto = export(model, torch.randn(2, 1, 3, 3, dtype=dtype))
    assert {array.dtype for array in tensors(proto).values()} == {
        np.dtype(str(dtype).removeprefix("torch."))
    }


def test_model_has_no_machine_specific_metadata() -> None:
    proto = export(nn.Sequential(conv_bn(1, 2)), torch.randn(2, 1, 3, 3))
    text = proto.SerializeToString()
    assert b".py" not in text
    assert b"/home" not in text
    assert not proto.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)


def test_deterministic_bytes() -> None:
    model, x = next(a for a in ZOO if a.name == "unet").build(), torch.randn(2, 2, 8, 8)
    assert export(model, x).SerializeToString() == export(model, x).SerializeToString()


def test_recalibration_of_model_and_module_agree() -> None:
    import bn_ops

    network = next(a for a in ZOO if a.name == "dense")
    data = network.inputs(12)
    assert isinstance(data, tuple)
    model = network.build()
    proto = export(model, data)
    recalibrate(model, [data[0][:5], data[0][5:]])
    done = bn_ops.recalibrate(proto, [data[0][:7].numpy(), data[0][7:].numpy()])
    for name, (mean, var) in stored(model).items():
        np.testing.assert_allclose(done.statistics[name].mean, mean.numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(done.statistics[name].var, var.numpy(), rtol=1e-4)


def test_no_output_and_no_onnxruntime() -> None:
    code = """
        import sys, torch
        from bn_ops.exporting import export
        export(torch.nn.Sequential(torch.nn.BatchNorm1d(2)), torch.zeros(2, 2))
        assert "onnxruntime" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        check=False,
        text=True,
        timeout=200,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
