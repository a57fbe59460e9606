"""`opset=` and `target=` of `adapt` and `export`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import defs, helper, numpy_helper

import bn_ops
from bn_ops.errors import OptionError, TargetError
from bn_ops.onnx_files.deployment import TARGETS, Target
from bn_ops.onnx_files.deployment import request as request_module
from bn_ops.onnx_files.deployment.opset import convert_opset
from bn_ops.onnx_files.deployment.request import Deployment
from bn_ops.onnx_files.traversal import standard_opset
from tests.support.deployment_networks import CHANNELS, SIDE, network
from tests.support.onnx_run import run_onnx

pytestmark = pytest.mark.xdist_group("deployment exports")

X = np.random.default_rng(0).normal(size=(40, CHANNELS, SIDE, SIDE)).astype(np.float32)
BATCHES = [X[:16], X[16:]]


def unread() -> Iterator[np.ndarray]:
    """A stream that must not be read."""
    yield from map(pytest.fail, ["the stream was read"])


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return bn_ops.export(network("clip"), torch.zeros(2, CHANNELS, SIDE, SIDE))


@pytest.mark.parametrize(
    ("asked", "opset"),
    [
        ({}, 20),
        ({"opset": 13}, 13),
        ({"target": "onnxruntime"}, 20),
        ({"target": "rknn"}, 19),
        ({"target": "tensorrt"}, 20),
        ({"target": "openvino", "opset": 11}, 11),
        ({"target": "coreml"}, 20),
    ],
)
def test_both_models_have_the_opset_and_parity_holds(
    model: onnx.ModelProto, asked: dict[str, Any], opset: int
) -> None:
    artifact = bn_ops.adapt(model, BATCHES, estimator="replace", allow_mismatch=True, **asked)
    assert standard_opset(artifact.model) == standard_opset(artifact.unfolded) == opset
    parity = artifact.report.parity
    assert parity is not None
    assert parity.passed
    assert parity.reference == "float64"
    deployed = artifact.report.deployed
    assert deployed is not None
    assert (deployed.opset, deployed.source_opset, deployed.target) == (
        opset, 20, asked.get("target"),
    )  # fmt: skip
    plain = bn_ops.adapt(model, BATCHES, estimator="replace", allow_mismatch=True)
    np.testing.assert_array_equal(
        run_onnx(artifact.model, {"x": X})[0], run_onnx(plain.model, {"x": X})[0]
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"target": "tflite"}, "target is 'tflite'; expected one of onnxruntime, tensorrt"),
        ({"opset": 6}, "opset is 6; the first that is supported is 7"),
        ({"opset": 999}, "opset is 999"),
        ({"opset": True}, "opset takes a whole number"),
        ({"opset": "17"}, "opset takes a whole number"),
        ({"opset": 11, "target": "rknn"}, "opset is 11; RKNN-Toolkit2 2.1 takes opsets 12 to 19"),
    ],
)
def test_wrong_values_are_refused_before_the_stream_is_read(
    model: onnx.ModelProto, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        bn_ops.adapt(model, unread(), **asked)
    with pytest.raises(OptionError, match=message):
        bn_ops.export(network("clip"), torch.zeros(2, CHANNELS, SIDE, SIDE), **asked)


def with_abs(source: onnx.ModelProto) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(source)
    last = model.graph.output[0].name
    model.graph.node.append(helper.make_node("Abs", [last], ["positive"], name="head/abs"))
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info("positive", 1, ["N", CHANNELS, SIDE, SIDE])
    )
    return model


def test_an_operator_that_the_target_lacks_is_refused_before_the_stream_is_read(
    model: onnx.ModelProto,
) -> None:
    with pytest.raises(TargetError) as error:
        bn_ops.adapt(with_abs(model), unread(), target="rknn")
    assert error.value.details() == {"operator": "Abs", "opset": 20, "target": "rknn"}
    for part in ("RKNN-Toolkit2 2.1 has no operator Abs", "'head/abs'", "custom operator", "https"):
        assert part in error.value.message


def test_a_module_with_such_an_operator_keeps_its_statistics() -> None:
    made = network("clip")
    after = made.after
    made.after = lambda n, x: after(n, x).abs()
    before = made.bn.running_mean.clone()  # type: ignore[union-attr]
    with pytest.raises(TargetError, match="Abs"):
        bn_ops.adapt(
            made, [torch.from_numpy(x) for x in BATCHES], target="rknn", allow_mismatch=True
        )
    assert torch.equal(made.bn.running_mean, before)  # type: ignore[arg-type]


def test_batchnorm_that_folding_removes_is_not_held_against_a_target(
    model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ML Program has no BatchNormalization, and the folded model has none either."""
    (program, _) = TARGETS["coreml"].tables
    assert not program.has("", "BatchNormalization")
    only = Target(
        name="coreml", title="t", opsets=(7, 20), tables=(program,), source="s", advice="a"
    )
    monkeypatch.setattr(request_module, "TARGETS", {"coreml": only})
    artifact = bn_ops.adapt(model, BATCHES, target="coreml", allow_mismatch=True)
    assert "BatchNormalization" not in {node.op_type for node in artifact.model.graph.node}
    # A layer that stays is.
    with pytest.raises(TargetError, match="BatchNormalization"):
        Deployment(target="coreml").check(model)


def test_operators_of_other_domains_are_refused_where_unknown(model: onnx.ModelProto) -> None:
    custom = with_abs(model)
    custom.graph.node[-1].domain = "my.company"
    custom.opset_import.append(helper.make_opsetid("my.company", 1))
    for target in TARGETS:
        with pytest.raises(TargetError, match=r"my\.company\.Abs"):
            Deployment(target=target).check(custom)


def test_a_conversion_that_changes_outputs_is_refused(
    model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_convert = convert_opset

    def wrong(source: onnx.ModelProto, opset: int) -> onnx.ModelProto:
        converted = true_convert(source, opset)
        tensor = converted.graph.initializer[0]
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.01, tensor.name))
        return converted

    monkeypatch.setattr(request_module, "convert_opset", wrong)
    with pytest.raises(TargetError, match=r"converted to opset 13 differs in its output .* by"):
        bn_ops.adapt(model, BATCHES, opset=13, allow_mismatch=True)


@pytest.mark.parametrize("target", TARGETS)
def test_tables_hold_operators_of_onnx_only(target: str) -> None:
    """A misspelled operator in a table would refuse every model that uses it."""
    known = {schema.name for schema in defs.get_all_schemas_with_history()}
    for table in TARGETS[target].tables:
        assert (table.operators or frozenset()) <= known
        assert {"Conv", "Relu", "Add", "Gemm", "MaxPool"} <= (table.operators or known)


@pytest.mark.parametrize("target", TARGETS)
def test_targets_state_their_source(target: str) -> None:
    assert TARGETS[target].source.startswith("https://")
    first, last = TARGETS[target].opsets
    assert 7 <= first < last <= defs.onnx_opset_version()


def test_labels_are_left_out_of_the_export() -> None:
    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 4, 3)
            self.bn = torch.nn.BatchNorm2d(4)

        def forward(
            self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None
        ) -> dict[str, torch.Tensor]:
            logits = self.bn(self.conv(pixel_values)).mean((2, 3))
            if labels is None:
                return {"logits": logits}
            loss = torch.nn.functional.cross_entropy(logits, labels)
            return {"loss": loss, "logits": logits}

    module = Classifier().eval()
    rows = [
        {"pixel_values": torch.randn(8, 1, 9, 9), "labels": torch.arange(8) % 4} for _ in range(3)
    ]
    exported = bn_ops.export(module, rows[0])
    assert [v.name for v in exported.graph.input] == ["pixel_values"]
    assert [v.name for v in exported.graph.output] == ["logits"]
    artifact = bn_ops.adapt(module, rows, allow_mismatch=True, opset=13)
    assert [v.name for v in artifact.model.graph.input] == ["pixel_values"]
    assert [v.name for v in artifact.model.graph.output] == ["logits"]
    assert artifact.report.parity is not None
    assert artifact.report.parity.samples > 0


def test_an_input_that_is_named_label_and_required_is_kept() -> None:
    class Conditional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = torch.nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.bn(x) + label
            return y

    example = {"x": torch.zeros(2, 4), "label": torch.zeros(2, 1)}
    exported = bn_ops.export(Conditional().eval(), example)
    assert [v.name for v in exported.graph.input] == ["x", "label"]
