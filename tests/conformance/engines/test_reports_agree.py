"""Both engines give the same report for the same network, and the report is correct."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import bn_ops
from bn_ops.diagnostics.report import Report
from bn_ops.errors import OptionError
from bn_ops.result import Recalibration
from tests.support.torch_oracle import double_copy, exact_statistics

# float32 in two runtimes, through three layers
TOLERANCE = 1e-4

CLASSES = 5


def network() -> nn.Sequential:
    """Return two convolutions and a classification head, with random source statistics."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    ).eval()
    for index in (1, 4):
        model[index].get_buffer("running_mean").uniform_(-0.5, 0.5)
        model[index].get_buffer("running_var").uniform_(0.3, 2)
    return model


def stream(samples: int = 300) -> torch.Tensor:
    """Return a correlated stream: each image resembles the previous one."""
    torch.manual_seed(1)
    x = torch.randn(samples, 2, 9, 9)
    level = torch.randn(samples // 20 + 1, 2, 1, 1).repeat_interleave(20, 0)[:samples]
    return x + 2 * level + 1


X = stream()
LABELS = torch.randint(0, CLASSES, (40,), generator=torch.Generator().manual_seed(2))


@cache
def exported() -> onnx.ModelProto:
    return bn_ops.export(network(), X[:2])


def both(**options: Any) -> tuple[Recalibration[Any], Recalibration[Any]]:
    module = network()
    torch_run = bn_ops.recalibrate(module, list(torch.split(X, 16)), **options)
    arrays = [part.numpy() for part in torch.split(X, 16)]
    return torch_run, bn_ops.recalibrate(exported(), arrays, threads=1, **options)


@pytest.fixture(scope="module")
def reports() -> tuple[Report, Report]:
    first, second = both(compare=True, evaluate=[(X[:25], LABELS[:25]), (X[25:40], LABELS[25:])])
    return first.report, second.report


def assert_near(one: object, other: object, where: str = "") -> None:
    """Compare two trees of values: numbers within the tolerance, everything else exactly."""
    if isinstance(one, float) and isinstance(other, float):
        assert one == pytest.approx(other, rel=TOLERANCE, abs=TOLERANCE), where
    elif isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_near(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_near(a, b, f"{where}[{number}]")
    else:
        assert one == other, where


@pytest.mark.parametrize("part", ["stream", "layers", "prediction_shift", "evaluation", "warnings"])
def test_engines_agree(reports: tuple[Report, Report], part: str) -> None:
    one, other = (asdict(report)[part] for report in reports)
    assert one is not None
    assert_near(one, other, part)


def test_correlation_is_reported(reports: tuple[Report, Report]) -> None:
    for report in reports:
        assert report.stream.correlation is not None
        assert report.stream.correlation.suspicious
        assert any("neighboring samples are correlated" in text for text in report.warnings)


def answers(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(x.double())).argmax(1)


def recalibrated() -> nn.Module:
    """Return the recalibrated network in float64, computed by the oracle."""
    twin = double_copy(network())
    for name, (mean, var) in exact_statistics(network(), X).items():
        twin.get_submodule(name).get_buffer("running_mean").copy_(mean)
        twin.get_submodule(name).get_buffer("running_var").copy_(var)
    return twin


def test_errors_match_direct_count(reports: tuple[Report, Report]) -> None:
    before = answers(double_copy(network()), X[:40]) != LABELS
    after = answers(recalibrated(), X[:40]) != LABELS
    found = reports[0].evaluation
    assert found is not None
    assert (found.output, found.samples, found.labels) == ("output", 40, 40)
    assert found.error_before == pytest.approx(float(before.double().mean()))
    assert found.error_after == pytest.approx(float(after.double().mean()))
    assert found.newly_wrong == int((after & ~before).sum())
    assert found.newly_right == int((before & ~after).sum())


def probe(samples: int) -> torch.Tensor:
    """Return the samples with the smallest sha256 of their bytes."""
    digests = [hashlib.sha256(x.numpy().tobytes()).digest() for x in X]
    return X[sorted(range(len(X)), key=digests.__getitem__)[:samples]]


def test_predictions_of_the_probe(reports: tuple[Report, Report]) -> None:
    found = reports[0].prediction_shift
    assert found is not None
    x = probe(64)
    old, new = answers(double_copy(network()), x), answers(recalibrated(), x)
    assert (found.samples, found.classes) == (64, CLASSES)
    assert found.agreement == pytest.approx(float((old == new).double().mean()))


@pytest.mark.parametrize("state", ["before", "after"])
def test_activations_by_depth(reports: tuple[Report, Report], state: str) -> None:
    twin = double_copy(network()) if state == "before" else recalibrated()
    seen: dict[str, torch.Tensor] = {}
    for name in ("1", "4"):
        watched = twin.get_submodule(name)
        watched.register_forward_pre_hook(lambda _, args, n=name: seen.update({n: args[0]}))
    answers(twin, probe(32))
    for layer in reports[0].layers:
        assert layer.activations is not None
        assert layer.activations.samples == 32
        x, stored = seen[layer.name].detach(), twin.get_submodule(layer.name)
        mean, var = x.mean([0, 2, 3]), x.var([0, 2, 3], correction=0)
        divisor = (stored.get_buffer("running_var") + 1e-5).sqrt()
        shift = (mean - stored.get_buffer("running_mean")).abs() / divisor
        found = getattr(layer.activations, state)
        assert found.mean == pytest.approx(float(mean.mean()), abs=TOLERANCE)
        assert found.spread == pytest.approx(float(var.mean().sqrt()), rel=TOLERANCE)
        # For an even count, torch returns the lower median.
        assert found.normalized_shift == pytest.approx(np.median(shift.numpy()), abs=TOLERANCE)
        assert found.normalized_spread == pytest.approx(
            np.median((var.sqrt() / divisor).numpy()), rel=TOLERANCE
        )


def test_no_second_pass_without_comparison() -> None:
    calls: list[int] = []

    def call(model: nn.Module, batch: torch.Tensor) -> Any:
        calls.append(len(batch))
        return model(batch)

    done = bn_ops.recalibrate(network(), list(torch.split(X, 100)), call=call)
    # Three batches, and the first one once more for the input check.
    assert calls == [100] * 4
    assert done.report.prediction_shift is None
    assert done.report.evaluation is None
    assert all(layer.activations is None for layer in done.report.layers)


def test_comparison_uses_the_custom_call() -> None:
    def call(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"scores": model(batch["image"])}

    module = network()
    batches = [{"image": part, "id": torch.arange(len(part))} for part in torch.split(X, 20)]
    done = bn_ops.recalibrate(
        module, batches, call=call, compare=True, evaluate=[(batches[0], LABELS[:20])]
    )
    assert done.report.prediction_shift is not None
    assert (done.report.prediction_shift.output, done.report.prediction_shift.samples) == (
        "scores",
        80,  # whole batches until they hold the 64 samples of the probe
    )
    assert done.report.evaluation is not None
    assert done.report.stream.correlation is not None


class Segmenter(nn.Module):
    """A network with one class per pixel and a second output that is not a head."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.head = nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.bn(x)
        return {"features": y, "classes": self.head(y)}


def test_labels_per_position_ignore_negative() -> None:
    torch.manual_seed(3)
    module = Segmenter().eval()
    labels = torch.randint(0, 3, (6, 9, 9))
    labels[2, :4] = -100
    model = bn_ops.export(module, X[:2])
    wrong = [(module(X[:6])["classes"].argmax(1) != labels)[labels >= 0]]
    pairs = [(X[:6], labels)]
    done = bn_ops.recalibrate(model, [X.numpy()], evaluate=[(X[:6].numpy(), labels.numpy())])
    own = bn_ops.recalibrate(module, [X], evaluate=pairs)
    wrong.append((module(X[:6])["classes"].argmax(1) != labels)[labels >= 0])
    for report in (done.report, own.report):
        found = report.evaluation
        assert found is not None
        assert (found.output, found.samples, found.labels) == ("classes", 6, 6 * 81 - 36)
        assert found.error_before == pytest.approx(float(wrong[0].double().mean()))
        assert found.error_after == pytest.approx(float(wrong[1].double().mean()))
        assert found.p_value is None


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([], "no label"),
        ([(X[:3], torch.full((3,), -1))], "no label"),
        ([X[:3]], "takes pairs"),
        ([(X[:3], torch.zeros(3))], "expected integers"),
        ([(X[:3], torch.tensor([0, 1, 9]))], "classes 0 to 9"),
        ([(X[:3], torch.tensor([0, 1]))], "no output has scores"),
        ([(X[:3] * float("nan"), torch.tensor([0, 1, 2]))], "batch 0"),
        ([(X[:0], torch.tensor([1]))], "no sample"),
    ],
)
@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_invalid_labels_are_rejected_before_the_stream(
    pairs: list[Any], words: str, engine: str
) -> None:
    module = network()
    model = module if engine == "torch" else exported()
    before = copy.deepcopy(module.state_dict())
    read: list[int] = []

    def batches() -> Any:
        read.append(1)
        yield X

    with pytest.raises(OptionError, match=words):
        bn_ops.recalibrate(model, batches(), evaluate=pairs)
    assert not read
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("where", ["trial", "labels"])
def test_failed_comparison_undoes_recalibration(where: str) -> None:
    module = network()
    before = copy.deepcopy(module.state_dict())
    calls: list[int] = []
    limit = {"trial": 4, "labels": 3}[where]

    def call(model: nn.Module, batch: torch.Tensor) -> Any:
        calls.append(1)
        if len(calls) == limit:
            raise ValueError("no")
        return model(batch)

    options: dict[str, Any] = {"compare": True} if where == "trial" else {}
    options |= {"evaluate": [(X[:40], LABELS)]}
    with pytest.raises(bn_ops.BnOpsError, match="forward failed"):
        bn_ops.recalibrate(module, [X], call=call, **options)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("form", ["module", "program", "onnx"])
def test_adapt_compares_every_model_form(form: str, reports: tuple[Report, Report]) -> None:
    module = network()
    forms: dict[str, Callable[[], Any]] = {
        "module": lambda: module,
        "program": lambda: torch.export.export(
            module, (X[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
        ),
        "onnx": exported,
    }
    batches = [part if form == "module" else part.numpy() for part in torch.split(X, 50)]
    found = bn_ops.adapt(
        forms[form](), batches, estimator="replace", evaluate=[(X[:40], LABELS)]
    ).report
    wanted = reports[0]
    assert found.prediction_shift is not None
    assert wanted.prediction_shift is not None
    assert found.prediction_shift.agreement == wanted.prediction_shift.agreement
    assert found.evaluation == wanted.evaluation
    assert_near(
        [asdict(layer)["activations"] for layer in found.layers],
        [asdict(layer)["activations"] for layer in wanted.layers],
    )


@pytest.mark.parametrize("sizes", [16, 100, 7])
def test_digest_of_the_stream_does_not_depend_on_batches(sizes: int) -> None:
    expected = hashlib.sha256()
    for x in X:
        expected.update(hashlib.sha256(x.numpy().tobytes()).digest())
    arrays = [part.numpy() for part in torch.split(X, sizes)]
    onnx_run = bn_ops.recalibrate(exported(), arrays, threads=1, compare=True)
    torch_run = bn_ops.recalibrate(network(), list(torch.split(X, sizes)), compare=True)
    assert onnx_run.report.stream.sha256 == expected.hexdigest()
    assert torch_run.report.stream.sha256 == expected.hexdigest()


def test_report_names_when_and_from_what_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(exported(), path)
    before = datetime.now(UTC).replace(microsecond=0)
    origin = bn_ops.adapt(path, [X.numpy()], threads=1).report.origin
    assert origin.created is not None
    assert before <= datetime.fromisoformat(origin.created) <= datetime.now(UTC)
    assert origin.model_name == "net.onnx"
    described = bn_ops.recalibrate(network(), [X]).report.described(data_name="photos/")
    assert (described.origin.model_name, described.origin.data_name) == (None, "photos/")
    assert described.to_json()["origin"] == {
        "created": described.origin.created,
        "model_name": None,
        "data_name": "photos/",
        "command": None,
    }


@pytest.mark.parametrize("engine", ["torch", "onnx"])
@pytest.mark.parametrize("method", ["exact", "batch"])
def test_each_layer_is_reported_once(engine: str, method: str) -> None:
    """With the drift of the report, and in exact runs before the next layer is measured."""
    seen: list[bn_ops.LayerDrift] = []
    measured: list[int] = []

    def note(step: bn_ops.Progress) -> None:
        if step.phase == "measuring":
            measured.append(len(seen))

    batches = list(torch.split(X, 100))
    model: Any = network() if engine == "torch" else exported()
    report = bn_ops.recalibrate(
        model, batches, method=method, on_layer=seen.append, progress=note
    ).report
    found = {one.name: one.drift.wasserstein for one in report.layers if one.drift is not None}
    assert [(one.name, one.drift) for one in seen] == list(found.items())
    assert [one.total for one in seen] == [2, 2]
    assert (1 in measured) == (method == "exact")


def test_callback_of_layers_can_cancel_the_run() -> None:
    def stop(layer: bn_ops.LayerDrift) -> None:
        raise bn_ops.CancelledError(layer.name)

    module = network()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(bn_ops.CancelledError):
        bn_ops.recalibrate(module, [X[:16]], on_layer=stop)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
