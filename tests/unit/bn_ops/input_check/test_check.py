"""The input check on small networks: engines agree, faults raise, plausible input passes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import bn_ops
from bn_ops.errors import InputMismatchError, OptionError, StreamEmptyError

RNG = np.random.default_rng(0)
KERNELS = RNG.normal(0, 0.3, (12, 3, 3, 3)).astype(np.float32)


def photographs(samples: int = 24, seed: int = 1) -> NDArray[np.uint8]:
    """Return smooth color images with a warm cast; (n, 3, 32, 32)."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.rfftfreq(32)[None])
    frequency[0, 0] = frequency[0, 1]
    planes = np.fft.irfft2(rng.normal(size=(samples, 3, *frequency.shape)) / frequency, s=(32, 32))
    shared = planes[:, :1]
    planes = shared / shared.std() + 0.4 * planes / planes.std()
    warm = np.array([135, 120, 112])[:, None, None]
    return np.asarray(np.clip(warm + 55 * planes, 0, 255), dtype=np.uint8)


PIXELS = photographs()


class Start(nn.Module):
    """Convolution, BatchNorm and a head, with statistics of normalized photographs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(torch.relu(self.bn(self.conv(x))).mean((2, 3)))
        return scores


def normalized(name: str, pixels: NDArray[np.uint8] = PIXELS) -> NDArray[np.float32]:
    preset = bn_ops.Preprocess.preset(name)
    levels = preset.levels()
    planes = pixels[:, ::-1] if preset.color == "bgr" else pixels
    return np.stack([levels[c][planes[:, c]] for c in range(3)], axis=1)


def module(name: str) -> nn.Module:
    network = Start().eval()
    with torch.no_grad():
        network.conv.weight.copy_(torch.from_numpy(KERNELS))
    bn_ops.recalibrate(network, [normalized(name)])
    return network


def model(name: str) -> onnx.ModelProto:
    """Return the same network as a hand-written ONNX model."""
    network = module(name)
    tensors = {
        "w": KERNELS,
        "gamma": np.ones(12, np.float32),
        "beta": np.zeros(12, np.float32),
        "mean": network.get_buffer("bn.running_mean").numpy(),
        "var": network.get_buffer("bn.running_var").numpy(),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["z"], pads=[1, 1, 1, 1]),
        helper.make_node(
            "BatchNormalization", ["z", "gamma", "beta", "mean", "var"], ["y"], name="bn"
        ),
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "start",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 12, "h", "w"])],
            [numpy_helper.from_array(value, key) for key, value in tensors.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def test_matching_input_passes() -> None:
    found = bn_ops.check_input(model("imagenet"), [normalized("imagenet")])
    assert found.plausible
    assert found.distance is not None
    assert found.distance < 1e-3
    assert found.layers == ("bn",)
    assert (found.samples, found.channels) == (24, 12)


def test_distance_equals_independent_computation() -> None:
    other = normalized("imagenet", photographs(seed=5)) * np.float32(1.3)
    found = bn_ops.check_input(model("imagenet"), [other[:5], other[5:]])
    network = module("imagenet")
    with torch.no_grad():
        z = nn.functional.conv2d(
            torch.from_numpy(other).double(), torch.from_numpy(KERNELS).double(), padding=1
        ).numpy()
    sigma = np.sqrt(network.get_buffer("bn.running_var").double().numpy())
    shift = (z.mean((0, 2, 3)) - network.get_buffer("bn.running_mean").double().numpy()) / sigma
    exact = np.median(np.hypot(shift, z.std((0, 2, 3)) / sigma - 1))
    assert found.distance == pytest.approx(float(exact), rel=1e-5)


def test_engines_agree() -> None:
    for other in (normalized("imagenet"), normalized("none"), normalized("unit")):
        onnx_check = bn_ops.check_input(model("imagenet"), [other], allow_mismatch=True)
        torch_check = bn_ops.check_input(
            module("imagenet"), [torch.from_numpy(other)], allow_mismatch=True
        )
        assert torch_check.distance == pytest.approx(onnx_check.distance, rel=1e-4, abs=1e-5)
        assert [f.cause for f in torch_check.findings] == [f.cause for f in onnx_check.findings]
        assert [s.name for s in torch_check.ranking] == [s.name for s in onnx_check.ranking]


def twice_normalized() -> NDArray[np.float32]:
    preset = bn_ops.Preprocess.preset("imagenet")
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (preset.mean, preset.std))
    return np.asarray((normalized("imagenet") - mean) / std, dtype=np.float32)


FAULTS = [
    (normalized("none"), "scale"),
    (normalized("unit"), "not-normalized"),
    (normalized("imagenet") / np.float32(255), "scale"),
    (np.zeros_like(normalized("unit")), "constant-images"),
    (normalized("imagenet") * np.array([1, 1, 0], np.float32)[:, None, None], "blank-channel"),
    (normalized("imagenet").transpose(0, 2, 3, 1).reshape(24, 3, 32, 32), "layout"),
    (twice_normalized(), "normalized-twice"),
]


@pytest.mark.parametrize(("images", "cause"), FAULTS)
def test_mismatched_input_raises_with_cause(images: NDArray[np.float32], cause: str) -> None:
    with pytest.raises(InputMismatchError) as caught:
        bn_ops.check_input(model("imagenet"), [np.ascontiguousarray(images)])
    assert caught.value.cause == cause
    assert caught.value.suggestion in caught.value.message
    assert caught.value.code == "input-mismatch"
    assert caught.value.details()["cause"] == cause


def test_preprocessings_are_compared_on_the_same_images() -> None:
    # The ranking reads every second of 64 images. The others are nearer to the stored statistics.
    pixels = photographs(64, seed=2).astype(float)
    ranked = np.zeros(64, dtype=bool)
    ranked[0:48:2] = True
    pixels[ranked] += 42
    pixels[~ranked] *= 0.1
    images = normalized("unit", np.clip(pixels, 0, 255).astype(np.uint8))
    found = bn_ops.check_input(model("imagenet"), [images], allow_mismatch=True)
    distances = {score.name: score.distance for score in found.ranking}
    assert found.distance is not None
    assert distances["imagenet"] > 0.6 * found.distance
    assert distances["imagenet"] < 0.6 * distances["unit"]
    assert [finding.cause for finding in found.findings] == ["not-normalized"]


def test_double_normalization() -> None:
    with pytest.raises(InputMismatchError, match="twice") as caught:
        bn_ops.check_input(model("imagenet"), [twice_normalized()])
    assert caught.value.cause == "normalized-twice"
    assert "'imagenet'" in caught.value.suggestion


def test_mismatch_can_be_allowed() -> None:
    found = bn_ops.check_input(model("imagenet"), [normalized("none")], allow_mismatch=True)
    assert not found.plausible
    assert found.distance is not None
    assert found.distance > found.threshold
    assert found.ranking[0].name == "imagenet"
    assert found.to_json()["ranking"]


@pytest.mark.parametrize("name", ["unit", "tf", "imagenet", "caffe", "none"])
def test_ranking_of_preprocessings(name: str) -> None:
    images = PIXELS.transpose(0, 2, 3, 1)
    for network in (model(name), module(name)):
        best, *others = bn_ops.rank_preprocessings(network, images)
        assert best.name == name
        assert best.distance < 0.05
        assert all(best.distance <= other.distance for other in others)


def test_color_order_of_gray_few_and_similar_pictures_is_undecided() -> None:
    images = PIXELS.transpose(0, 2, 3, 1)
    gray = np.repeat(images.mean(axis=3, keepdims=True), 3, axis=3).astype(np.uint8)
    # The pictures have the same palette, as frames of one camera have.
    for pictures in (gray, images[:4], images):
        best = bn_ops.rank_preprocessings(model("imagenet"), pictures)[0]
        assert (best.color_order, best.preprocess.color) == ("undecided", "rgb")


def test_module_is_not_modified() -> None:
    network = module("imagenet").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    bn_ops.check_input(network, [normalized("imagenet")])
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.bn._forward_pre_hooks  # type: ignore[union-attr]


def test_only_first_samples_are_read() -> None:
    read = 0

    def stream() -> object:
        nonlocal read
        for _ in range(100):
            read += 1
            yield normalized("imagenet")

    found = bn_ops.check_input(model("imagenet"), stream())  # type: ignore[arg-type]
    assert (found.samples, read) == (64, 3)


def test_empty_stream() -> None:
    with pytest.raises(StreamEmptyError):
        bn_ops.check_input(model("imagenet"), [])


def test_custom_call() -> None:
    found = bn_ops.check_input(
        module("imagenet"),
        [{"image": torch.from_numpy(normalized("imagenet"))}],
        call=lambda network, batch: network(batch["image"]),
    )
    assert found.plausible
    with pytest.raises(OptionError, match="call="):
        bn_ops.check_input(model("imagenet"), [], call=lambda network, batch: network(batch))


@pytest.mark.parametrize(
    "images", [np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 8, 8, 4), np.uint8), [1, 2]]
)
def test_ranking_requires_8_bit_images(images: object) -> None:
    with pytest.raises(OptionError):
        bn_ops.rank_preprocessings(model("imagenet"), images)


def test_run_rejects_failed_check() -> None:
    network = module("imagenet")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    batches = [normalized("none")[:10], normalized("none")[10:]]
    for target in (model("imagenet"), network):
        with pytest.raises(InputMismatchError):
            bn_ops.recalibrate(target, batches)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_run_reports_accepted_findings() -> None:
    for target in (model("imagenet"), module("imagenet")):
        report = bn_ops.recalibrate(target, [normalized("none")], allow_mismatch=True).report
        assert report.input_check is not None
        assert [finding.cause for finding in report.input_check.findings] == ["scale"]
        assert report.input_check.findings[0].message in report.warnings[0]


@pytest.mark.parametrize("estimator", ["auto", "replace", "shrink"])
@pytest.mark.parametrize(("images", "cause"), FAULTS)
def test_accepted_fault_is_not_deployed(
    images: NDArray[np.float32], cause: str, estimator: str
) -> None:
    for target in (model("imagenet"), module("imagenet")):
        stream = [np.ascontiguousarray(images)]
        done = bn_ops.recalibrate(
            target, stream, estimator=estimator, compare=True, allow_mismatch=True
        )
        assert done.report.input_check is not None
        (finding,) = done.report.input_check.findings
        assert finding.cause == cause
        assert done.verdict is not None
        assert done.verdict.code == "do-not-deploy"
        assert done.verdict.reasons[0].code == "input-mismatch"
        assert finding.message in done.verdict.reasons[0].text
        assert (
            done.verdict.next_steps[0]
            == f"{finding.suggestion[:1].upper()}{finding.suggestion[1:]}."
        )


def test_the_report_of_a_run_holds_the_check() -> None:
    other = normalized("imagenet", photographs(40, seed=5))
    whole = bn_ops.check_input(model("imagenet"), [other[:32]])
    for method in ("exact", "batch"):
        for target in (model("imagenet"), module("imagenet")):
            report = bn_ops.recalibrate(target, [other[:20], other[20:]], method=method).report
            assert report.input_check is not None
            assert report.input_check.distance == pytest.approx(whole.distance, rel=1e-5)
            assert not report.input_check.findings


def test_a_network_without_training_is_not_checked() -> None:
    found = bn_ops.check_input(Start().eval(), [1e4 * normalized("imagenet")])
    assert (found.distance, found.channels, found.plausible) == (None, 0, True)
