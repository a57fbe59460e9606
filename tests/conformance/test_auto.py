"""The estimator Auto in whole runs: what is measured, chosen, stored and said."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import bn_ops
from bn_ops.diagnostics.report import Candidate, ReasonCode, VerdictCode
from bn_ops.errors import OptionError

CLASSES = 10


def network() -> nn.Sequential:
    """Return a network that answers with the brightest of ten bands, and fits N(0, 1) inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 1, groups=4),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 2, 1),
        nn.BatchNorm2d(2),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d((CLASSES, 1)),
        nn.Flatten(),
        nn.Linear(2 * CLASSES, CLASSES),
    )
    head = model[9]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.bias[0] = 8  # the answer where the contrast is lost
        head.weight[:, :CLASSES] = 25 * torch.eye(CLASSES)
        for layer in model:
            if isinstance(layer, nn.Conv2d):
                layer.weight.abs_()  # brighter in, larger out
        model.train()
        for layer in model:
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None
        model(images(range(200)))
        model.eval()
    return model


def images(labels: Any, *, seed: int = 0) -> torch.Tensor:
    """Return one image per label: noise, with one of ten horizontal bands brighter."""
    random = torch.Generator().manual_seed(seed)
    numbers = torch.as_tensor(list(labels)) % CLASSES
    x = 0.2 * torch.randn(len(numbers), 1, CLASSES, 6, generator=random)
    x[torch.arange(len(numbers)), 0, numbers] += 2
    return x


def shifted(x: torch.Tensor) -> torch.Tensor:
    """Return images of another domain, on which the network is uncertain."""
    return 0.2 * x + 1.5


def probe(x: torch.Tensor, samples: int = 64) -> torch.Tensor:
    digests = [hashlib.sha256(row.numpy().tobytes()).digest() for row in x]
    return x[sorted(range(len(x)), key=digests.__getitem__)[:samples]]


VARIED = shifted(images(range(120), seed=1))


def run(x: torch.Tensor, engine: str = "torch", **options: Any) -> bn_ops.Recalibration[Any]:
    batches = list(torch.split(x, 25))
    if engine == "torch":
        return bn_ops.recalibrate(network(), batches, **{"estimator": "auto", **options})
    model = bn_ops.export(network(), x[:2])
    arrays = [part.numpy() for part in batches]
    return bn_ops.recalibrate(model, arrays, **{"estimator": "auto", **options})


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_varied_shifted_stream_is_recalibrated(engine: str) -> None:
    done = run(VARIED, engine)
    assert done.report.choice is not None
    assert done.report.choice.candidate is Candidate.REPLACE
    # `EARLY` could not be taken, so it was not measured.
    assert [one.candidate for one in done.report.choice.scores] == [Candidate.REPLACE]
    assert done.report.choice.varied
    assert {layer.status for layer in done.report.layers} == {"recalibrated"}
    assert done.verdict is not None
    assert done.verdict.code is VerdictCode.DEPLOY


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_stream_that_is_declared_varied_is_replaced(engine: str) -> None:
    done = run(VARIED, engine, estimator="auto:varied")
    exact = run(VARIED, engine, estimator="replace")
    choice, verdict = done.report.choice, done.verdict
    assert choice is not None
    assert choice.candidate is Candidate.REPLACE
    assert (choice.samples, choice.classes) == (64, CLASSES)
    assert choice.varied
    for name, found in exact.statistics.items():
        assert done.statistics[name].mean.tobytes() == found.mean.tobytes()
        assert done.statistics[name].var.tobytes() == found.var.tobytes()
    assert verdict is not None
    assert verdict.code is VerdictCode.DEPLOY
    assert [reason.code for reason in verdict.reasons] == [ReasonCode.CLEAR_GAIN]


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_stream_of_one_class_keeps_the_source(engine: str) -> None:
    done = run(shifted(images([3] * 120, seed=1)), engine)
    assert done.report.choice is not None
    assert done.report.choice.candidate is Candidate.SOURCE
    for layer in bn_ops.inspect(network()):
        assert layer.statistics is not None
        name = next(key for key in done.statistics if key.endswith(layer.name))
        assert done.statistics[name].mean.tobytes() == layer.statistics.mean.tobytes()
        assert done.statistics[name].var.tobytes() == layer.statistics.var.tobytes()
    assert {layer.status for layer in done.report.layers} == {"unchanged"}
    assert done.verdict is not None
    assert done.verdict.code is VerdictCode.CHECK_WITH_LABELS
    assert done.verdict.reasons[0].code is ReasonCode.FEW_CLASSES_IN_STREAM


def test_source_domain_keeps_the_source_and_says_so() -> None:
    done = run(images(range(120), seed=1))
    assert done.report.choice is not None
    assert done.report.choice.candidate is Candidate.SOURCE
    assert done.verdict is not None
    assert done.verdict.code is VerdictCode.DO_NOT_DEPLOY
    assert done.verdict.sentence.startswith("Keep the source model")


def test_artifact_of_a_kept_source_computes_as_the_source() -> None:
    x = images(range(120), seed=1)
    model = bn_ops.export(network(), x[:2])
    artifact = bn_ops.adapt(model, [x.numpy()])
    assert artifact.verdict is artifact.report.verdict
    for source, kept in zip(
        sorted(model.graph.initializer, key=lambda tensor: tensor.name),
        sorted(artifact.unfolded.graph.initializer, key=lambda tensor: tensor.name),
        strict=True,
    ):
        np.testing.assert_array_equal(
            onnx.numpy_helper.to_array(source), onnx.numpy_helper.to_array(kept)
        )


def class_probabilities(model: nn.Module, x: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(torch.softmax(model(x.double()), 1).numpy())


def criterion(p: np.ndarray) -> np.ndarray:
    logs = np.log(p)
    divergence = (p * (logs - np.log(p.mean(0)))).sum(1)
    return np.asarray(divergence + (p * logs).sum(1) / 2)


def mixed_network(shares: list[float], measured: list[torch.Tensor]) -> nn.Sequential:
    """Return the float64 network with a share of the target in each BatchNorm layer.

    Args:
        shares: one per layer.
        measured: for each layer, the samples that its moments are measured on.
    """
    model = network().double()
    layers = [index for index, layer in enumerate(model) if isinstance(layer, nn.BatchNorm2d)]
    for index, share, samples in zip(layers, shares, measured, strict=True):
        layer = model[index]
        assert isinstance(layer, nn.BatchNorm2d)
        with torch.no_grad():
            seen = model[:index](samples.double())
        var, mean = torch.var_mean(seen, dim=(0, 2, 3), correction=0)
        old_mean, old_var = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
        moved = mean - old_mean
        old_var.copy_((1 - share) * old_var + share * var + share * (1 - share) * moved**2)
        old_mean.add_(share * moved)
    return model


def test_scores_follow_the_definition_of_the_candidates() -> None:
    done = run(VARIED, estimator=bn_ops.Auto(varied=False))
    x = probe(VARIED)
    networks = {
        # One of three layers has the statistics of the whole stream.
        Candidate.EARLY: mixed_network([1, 0.1, 0.1], [VARIED, x, x]),
        Candidate.REPLACE: mixed_network([1, 1, 1], [VARIED] * 3),
    }
    before = criterion(class_probabilities(network().double(), x))
    assert done.report.choice is not None
    found = {one.candidate: one for one in done.report.choice.scores}
    assert found.keys() == networks.keys()
    for candidate, model in networks.items():
        rise = (criterion(class_probabilities(model, x)) - before) / math.log(CLASSES)
        assert found[candidate].gain == pytest.approx(rise.mean(), abs=2e-5)
        error = rise.std(ddof=1) / math.sqrt(len(x))
        assert found[candidate].gain_error == pytest.approx(error, abs=2e-5)


def test_candidates_of_part_of_the_way_are_exact_on_the_probe() -> None:
    done = run(VARIED, estimator=bn_ops.Auto(varied=False))
    assert done.report.choice is not None
    x = probe(VARIED)
    shares = {
        Candidate.EARLY: ([1, 0.1, 0.1], [VARIED, x, x]),
        Candidate.SMALL: ([0.02] * 3, [x] * 3),
    }
    candidate = done.report.choice.candidate
    assert candidate in shares
    model = mixed_network(*shares[candidate])
    for name, found in done.statistics.items():
        layer = model.get_submodule(name)
        wanted = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
        np.testing.assert_allclose(found.mean, wanted[0].numpy(), atol=1e-5)
        np.testing.assert_allclose(found.var, wanted[1].numpy(), rtol=1e-4)


@given(st.randoms(use_true_random=False), st.integers(1, 120))
@settings(max_examples=8, deadline=None)
def test_choice_depends_neither_on_order_nor_on_batches(random: Any, size: int) -> None:
    order = list(range(len(VARIED)))
    random.shuffle(order)
    whole = run(VARIED)
    cut = bn_ops.recalibrate(network(), list(torch.split(VARIED[order], size)), estimator="auto")
    assert whole.report.choice is not None
    assert cut.report.choice is not None
    assert cut.report.choice.candidate is whole.report.choice.candidate
    for one, other in zip(whole.report.choice.scores, cut.report.choice.scores, strict=True):
        assert one.gain == pytest.approx(other.gain, abs=2e-6)
    for name, found in whole.statistics.items():
        np.testing.assert_allclose(cut.statistics[name].mean, found.mean, rtol=0, atol=1e-6)
        np.testing.assert_allclose(cut.statistics[name].var, found.var, rtol=1e-5)


@pytest.mark.parametrize(
    ("samples", "reason"), [(7, ReasonCode.TOO_FEW_SAMPLES), (2, ReasonCode.TOO_FEW_SAMPLES)]
)
def test_few_samples_change_nothing(samples: int, reason: ReasonCode) -> None:
    done = run(VARIED[:samples])
    assert done.report.choice is not None
    assert done.report.choice.candidate is Candidate.SOURCE
    assert done.report.choice.scores == ()
    assert done.verdict is not None
    assert done.verdict.reasons[0].code is reason


def test_unset_statistics_are_replaced() -> None:
    model = network()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    done = bn_ops.recalibrate(model, [VARIED], estimator="auto")
    assert done.report.choice is not None
    assert done.report.choice.candidate is Candidate.REPLACE
    assert done.verdict is not None
    assert done.verdict.reasons[0].code is ReasonCode.SOURCE_STATISTICS_UNSET


def test_outputs_without_classes_keep_the_source() -> None:
    layer = nn.BatchNorm1d(4)
    layer.get_buffer("running_mean").fill_(1)
    model = nn.Sequential(layer, nn.Linear(4, 1)).eval()
    done = bn_ops.recalibrate(model, [torch.randn(40, 4) + 2], estimator="auto")
    assert done.report.choice is not None
    assert done.report.choice.candidate is Candidate.SOURCE
    assert done.verdict is not None
    assert done.verdict.code is VerdictCode.CHECK_WITH_LABELS
    assert done.verdict.reasons[0].code is ReasonCode.OUTPUTS_NOT_CLASSES


def test_score_maps_are_never_deployed_without_labels() -> None:
    head = nn.Conv2d(2, 12, 1)
    with torch.no_grad():
        head.weight.mul_(30)
    model = nn.Sequential(*list(network())[:7], head).eval()
    for estimator in ("auto", "replace"):
        done = bn_ops.recalibrate(model, [VARIED], estimator=estimator, compare=True)
        assert done.verdict is not None
        assert done.verdict.code is not VerdictCode.DEPLOY


def test_every_failure_restores_the_source_statistics() -> None:
    calls = 0
    limit = math.inf

    def call(model: nn.Module, batch: torch.Tensor) -> object:
        nonlocal calls
        calls += 1
        if calls == limit:
            raise ValueError("no")
        return model(batch)

    estimator = bn_ops.Auto(varied=False)  # measures more than one candidate
    options: dict[str, Any] = {"estimator": estimator, "compare": True, "call": call}
    bn_ops.recalibrate(network(), [VARIED], **options)
    total = calls
    assert total > 5
    failed = 0
    for limit in range(1, total + 1):  # noqa: B007 - read by `call`
        calls = 0
        model = network()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        try:
            bn_ops.recalibrate(model, [VARIED], **options)
        except bn_ops.BnOpsError:
            failed += 1
            after = model.state_dict()
            assert all(torch.equal(after[name], value) for name, value in before.items())
    assert failed >= total - 1  # the input check, one call, is left out where it fails


def labeled(samples: int, *, wrong: bool = False) -> list[tuple[torch.Tensor, torch.Tensor]]:
    labels = torch.arange(samples) % CLASSES
    return [(shifted(images(range(samples), seed=5)), (labels + 3) % CLASSES if wrong else labels)]


def test_labels_decide() -> None:
    narrow = shifted(images([3, 5] * 60, seed=1))
    done = run(VARIED, estimator=bn_ops.Auto(varied=False), evaluate=labeled(100))
    assert done.report.choice is not None
    scores = {one.candidate: one.score for one in done.report.choice.labeled}
    assert list(scores) == [
        Candidate.SOURCE,
        Candidate.EARLY,
        Candidate.SHRINK,
        Candidate.REPLACE,
    ]
    assert done.report.evaluation is not None
    best = done.report.choice.candidate
    assert (
        scores[best]
        == max(scores.values())
        == pytest.approx(1 - done.report.evaluation.error_after)
    )
    assert done.verdict is not None
    assert done.verdict.code is VerdictCode.DEPLOY
    assert done.verdict.reasons[0].code is ReasonCode.LABELS_BETTER
    kept = run(narrow, evaluate=[(images(range(100)), torch.arange(100) % CLASSES)])
    assert kept.report.choice is not None
    assert kept.report.choice.candidate is Candidate.SOURCE
    assert kept.verdict is not None
    assert kept.verdict.code is VerdictCode.DO_NOT_DEPLOY


def test_metric_decides() -> None:
    seen: list[tuple[int, ...]] = []

    def accuracy(scores: np.ndarray, names: list[str]) -> float:
        seen.append(scores.shape)
        return float(
            np.mean([str(row.argmax()) == name for row, name in zip(scores, names, strict=True)])
        )

    pairs = [(x, [str(int(label)) for label in labels]) for x, labels in labeled(40)]
    done = run(VARIED, evaluate=pairs, metric=accuracy)
    found = done.report.metric
    assert found is not None
    assert done.report.evaluation is None
    assert set(seen) == {(40, CLASSES)}
    assert found.after > found.before
    assert found.change_low is not None
    assert found.change_low > 0
    assert done.verdict is not None
    assert done.verdict.code is VerdictCode.DEPLOY


def test_own_estimator_that_is_worse_on_labels() -> None:
    contrasty = 30 * images(range(120), seed=1)
    clean = [(images(range(100)), torch.arange(100) % CLASSES)]
    done = run(contrasty, estimator="replace", evaluate=clean, compare=True, allow_mismatch=True)
    assert done.report.choice is None
    assert done.verdict is not None
    assert done.verdict.code is VerdictCode.DO_NOT_DEPLOY
    assert ReasonCode.LABELS_WORSE in {reason.code for reason in done.verdict.reasons}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "batch"}, "Auto needs"),
        ({"metric": lambda *_: 1.0}, "evaluate="),
        ({"max_drop": -0.1}, "max_drop="),
        ({"metric": lambda *_: math.nan, "evaluate": labeled(4)}, "metric= returned nan"),
        ({"metric": lambda *_: 1.0, "evaluate": [(VARIED[:3], [1, 2])]}, "3 samples and 2 labels"),
        ({"metric": lambda *_: 1.0, "evaluate": []}, "no samples"),
        ({"metric": lambda *_: 1.0, "evaluate": [VARIED[:3]]}, "takes pairs"),
    ],
)
def test_invalid_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        run(VARIED, **options)


@pytest.mark.parametrize(
    ("text", "value", "form"),
    [
        ("auto", bn_ops.Auto(), {"name": "auto"}),
        ("auto:varied", bn_ops.Auto(varied=True), {"name": "auto", "varied": True}),
    ],
)
def test_forms_of_the_estimator(text: str, value: bn_ops.Auto, form: dict[str, Any]) -> None:
    assert bn_ops.estimator_from_string(text) == value == bn_ops.estimator_from_json(form)
    assert dict(value.to_json()) == form
    with pytest.raises(OptionError, match="boolean"):
        bn_ops.estimator_from_json({"name": "auto", "varied": 3})


def test_batch_method_keeps_replace_as_the_default_of_adapt() -> None:
    model = bn_ops.export(network(), VARIED[:2])
    artifact = bn_ops.adapt(model, [VARIED.numpy()], method="batch")
    assert artifact.report.estimator == {"name": "replace"}
    assert artifact.verdict is not None
