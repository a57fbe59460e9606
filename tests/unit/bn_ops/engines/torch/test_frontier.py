"""Control flow, thread state and restoration of the module."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bn_ops import recalibrate
from bn_ops.core.options import Budget, Progress
from bn_ops.engines.torch.shared_layers import VisitOrder
from bn_ops.errors import (
    CancelledError,
    EngineError,
    LayerNotFiniteError,
    ModelUnsupportedError,
    SpillLimitError,
)
from tests.support.torch_oracle import exact_statistics, residual, stored
from tests.support.zoo_blocks import conv_bn


class Experts(nn.Module):
    """The sign of a batch selects one of two experts; a common head follows."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high, self.never = conv_bn(1, 2), conv_bn(1, 2), conv_bn(1, 2)
        self.head = conv_bn(2, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head((self.high if float(x.mean()) > 0 else self.low)(x))


def test_branches_that_rejoin() -> None:
    torch.manual_seed(0)
    model = Experts()
    twin = copy.deepcopy(model).double().eval()
    batches = [torch.randn(3, 1, 6, 6) + sign for sign in (2, -2, 2, -2)]
    done = recalibrate(model, batches)
    # Oracle: each expert on its own batches, the head on the outputs of all batches.
    outputs: dict[int, torch.Tensor] = {}
    for expert, chosen in ((twin.high, (0, 2)), (twin.low, (1, 3))):
        x = torch.cat([batches[i] for i in chosen]).double()
        wanted = exact_statistics(expert, x)["1"]
        expert[1].get_buffer("running_mean").copy_(wanted[0])
        expert[1].get_buffer("running_var").copy_(wanted[1])
        outputs |= dict(zip(chosen, torch.split(expert(x).detach(), 3), strict=True))
    wanted = exact_statistics(twin.head, torch.cat([outputs[i] for i in range(4)]))["1"]
    assert residual({"1": stored(model)["head.1"]}, {"1": wanted}) < 1e-5
    statuses = {layer.name: layer.status for layer in done.report.layers}
    assert statuses.pop("never.1") == "unreached"
    assert set(statuses.values()) == {"recalibrated"}


class BothWays(nn.Module):
    """Two layers; half of the batches call them in reverse order."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.BatchNorm1d(1), nn.BatchNorm1d(1)

    def forward(self, x: torch.Tensor) -> Any:
        first, second = (self.a, self.b) if float(x.mean()) > 0 else (self.b, self.a)
        return second(torch.tanh(first(x)))


def test_opposite_call_orders_reach_fixed_point() -> None:
    torch.manual_seed(1)
    model = BothWays()
    batches = [torch.randn(8, 1) + 3, torch.randn(8, 1) - 3]
    recalibrate(model, batches, shared_tolerance=1e-7, shared_passes=50)
    model.eval()
    seen: dict[str, list[torch.Tensor]] = {"a": [], "b": []}
    for name, layer in (("a", model.a), ("b", model.b)):
        layer.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0]))
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for name, xs in seen.items():
        pooled = torch.cat(xs).double()
        assert float((stored(model)[name][0] - pooled.mean()).abs()) < 1e-5


def test_call_order_of_previous_pass() -> None:
    order = VisitOrder(["a", "b", "c"])
    assert order.first({"a", "c"}) == "a"
    order.learn(["c", "b"])
    order.learn(["b", "a"])
    assert order.first({"a", "c"}) == "c"
    order.learn(["a", "c"])
    assert order.first({"a", "c"}) == "a"


def test_shared_layer_without_convergence() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm1d(1)

        def forward(self, x: torch.Tensor) -> Any:
            return self.bn(5 * self.bn(x).abs())

    torch.manual_seed(2)
    done = recalibrate(Twice(), [torch.randn(16, 1)], shared_passes=1)
    report = done.report.layers[0]
    assert report.residual_mean is not None
    assert report.residual_mean > 1e-5
    assert any("several times" in warning for warning in done.report.warnings)


class Stateful(nn.Module):
    """A forward that changes the torch state of the thread around its layers."""

    def __init__(self, state: Callable[[], Any]) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        self.linear = nn.Linear(3, 3)
        self.state = state
        self.seen: set[tuple[bool, bool, bool]] = set()

    def forward(self, x: torch.Tensor) -> Any:
        with self.state():
            y = self.linear(self.first(x))
            self.seen.add(
                (
                    torch.is_autocast_enabled("cpu"),
                    torch.is_inference_mode_enabled(),
                    torch.is_grad_enabled(),
                )
            )
        assert not torch.is_autocast_enabled("cpu")
        assert not torch.is_inference_mode_enabled()
        return self.second(y.float())


@pytest.mark.parametrize(
    ("state", "inside"),
    [
        (lambda: torch.autocast("cpu", dtype=torch.bfloat16), (True, False, False)),
        (torch.inference_mode, (False, True, False)),
        (torch.enable_grad, (False, False, True)),
        (lambda: torch.inference_mode(mode=False), (False, False, True)),
    ],
)
def test_thread_state_per_batch(state: Callable[[], Any], inside: tuple[bool, bool, bool]) -> None:
    torch.manual_seed(3)
    model = Stateful(state)
    outside = (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"))
    done = recalibrate(model, [torch.randn(4, 3) for _ in range(3)])
    assert model.seen == {inside}
    assert (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")) == outside
    assert not torch.is_inference_mode_enabled()
    assert len(done.statistics) == 2


def test_caller_in_inference_mode_or_autocast() -> None:
    for state in (torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16)):
        with state:
            model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
            enabled = torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()
            recalibrate(model, [torch.randn(4, 2), torch.randn(3, 2)])
            after = torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()
            assert after == enabled


def network() -> nn.Sequential:
    torch.manual_seed(4)
    model = nn.Sequential(
        conv_bn(1, 2), nn.Dropout(0.5), conv_bn(2, 2), nn.Flatten(), nn.Linear(72, 2)
    )
    model.train()
    model[2].eval()
    model.get_submodule("0.1").momentum = None  # type: ignore[assignment]
    model.get_submodule("2.1").register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    return model


Fingerprint = list[tuple[str, Any]]


def fingerprint(model: nn.Module) -> Fingerprint:
    """Return all state of a module that must not change, as comparable values."""
    found: Fingerprint = []
    for name, module in model.named_modules():
        found.append((name, module.training))
        found.append((name, sorted(module.__dict__)))
        found.append((name, len(module._forward_pre_hooks) + len(module._forward_hooks)))
        found.append((name, getattr(module, "momentum", None)))
    found.extend((name, value.numpy().tobytes()) for name, value in model.state_dict().items())
    return found


BATCHES = [torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(i)) for i in range(4)]


def raising_stream(error: BaseException) -> Iterator[torch.Tensor]:
    yield from BATCHES[:2]
    raise error


def raising_call(error: BaseException) -> Callable[[nn.Module, torch.Tensor], Any]:
    """Fail in the head, after all layers have been updated."""

    def call(model: nn.Module, batch: torch.Tensor) -> Any:
        model(batch)
        raise error

    return call


def raising_progress(error: BaseException) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.phase == "measuring":
            raise error

    return report


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit(), ValueError("stream")])
@pytest.mark.parametrize("method", ["exact", "batch"])
def test_failing_stream_restores_module(error: BaseException, method: str) -> None:
    model = network()
    before = fingerprint(model)
    with pytest.raises(type(error)):
        recalibrate(model, raising_stream(error), method=method)
    assert fingerprint(model) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit(), ValueError("forward")])
@pytest.mark.parametrize("method", ["exact", "batch"])
def test_failing_forward_restores_module(error: BaseException, method: str) -> None:
    model = network()
    before = fingerprint(model)
    wanted = EngineError if isinstance(error, Exception) else type(error)
    with pytest.raises(wanted):
        recalibrate(model, BATCHES, method=method, call=raising_call(error))
    assert fingerprint(model) == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("method", ["exact", "batch"])
def test_canceled_run_restores_module(method: str) -> None:
    model = network()
    before = fingerprint(model)
    with pytest.raises(CancelledError):
        recalibrate(
            model, BATCHES, method=method, progress=raising_progress(CancelledError("stop"))
        )
    assert fingerprint(model) == before


def test_success_changes_only_statistics() -> None:
    model = network()
    before = fingerprint(model)
    done = recalibrate(model, BATCHES, layers=["0.*"])
    changed = [
        name for (name, new), (_, old) in zip(fingerprint(model), before, strict=True) if new != old
    ]
    assert changed == ["0.1.running_mean", "0.1.running_var"]
    assert done.report.frozen.unchanged
    done.undo()
    assert fingerprint(model) == before


def test_pre_hook_of_caller() -> None:
    model = network()
    recalibrate(model, BATCHES, layers=["2.1"])
    twin = network()
    seen: list[torch.Tensor] = []
    twin.get_submodule("2.1").register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    twin.eval()(torch.cat(BATCHES))
    wanted = seen[0].double().mean([0, 2, 3])
    torch.testing.assert_close(stored(model)["2.1"][0], wanted, rtol=1e-5, atol=1e-6)


def test_abandoned_forwards_run_finally() -> None:
    ended: list[int] = []

    def call(model: nn.Module, item: int) -> None:
        try:
            if item == 2:
                raise ValueError("the third batch fails before any layer")
            model(BATCHES[item])
        finally:
            ended.append(item)

    with pytest.raises(EngineError, match="third batch"):
        recalibrate(network(), range(4), call=call)
    assert sorted(ended) == [0, 1, 2]


def test_nan_names_the_layer() -> None:
    class Divides(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1 / (x - x.amax(0, keepdim=True))

    model = nn.Sequential(nn.BatchNorm1d(2), Divides(), nn.BatchNorm1d(2))
    before = fingerprint(model)
    with pytest.raises(LayerNotFiniteError) as caught:
        recalibrate(model, [torch.randn(4, 2), torch.randn(4, 2) * 9])
    assert caught.value.details()["layer"] == "2"
    assert fingerprint(model) == before


def test_layer_called_from_another_thread() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    caught: list[Exception] = []

    def call(inner: nn.Module, batch: torch.Tensor) -> None:
        def run() -> None:
            try:
                inner(batch)
            except ModelUnsupportedError as error:
                caught.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if caught:
            raise caught[0]

    with pytest.raises(ModelUnsupportedError, match="another thread"):
        recalibrate(model, [torch.randn(4, 2)], call=call)


def test_module_is_usable_between_steps() -> None:
    model = network()
    outputs: list[torch.Tensor] = []
    recalibrate(model, BATCHES, progress=lambda _: outputs.append(model(BATCHES[0])))
    assert len(outputs) == len(BATCHES) + 2


def test_progress_phases() -> None:
    steps: list[Progress] = []
    recalibrate(network(), BATCHES, progress=steps.append)
    assert [s.phase for s in steps] == ["reading"] * 4 + ["measuring"] * 2
    assert [s.done for s in steps] == [1, 2, 3, 4, 1, 2]
    assert steps[-1].total == 2


def test_attributes_set_by_forward_are_removed() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm1d(2)
            self.register_buffer("calls", torch.zeros(()))
            self.last: torch.Tensor | None = None

        def forward(self, x: torch.Tensor) -> Any:
            self.last = x
            self.get_buffer("calls").add_(1)
            return self.bn(x)

    model = Remembers()
    recalibrate(model, [torch.randn(4, 2)])
    assert model.last is None
    assert float(model.get_buffer("calls")) == 0


def test_numpy_error_state_is_kept() -> None:
    states: list[str] = []

    def call(model: nn.Module, batch: torch.Tensor) -> None:
        states.append(np.geterr()["over"])
        model(batch)

    with np.errstate(over="raise"):
        recalibrate(network(), BATCHES, call=call)
    assert set(states) == {"raise"}
    assert len(states) >= len(BATCHES)


def test_activation_budget() -> None:
    model = nn.Sequential(nn.Conv2d(1, 16, 1), nn.BatchNorm2d(16))
    before = fingerprint(model)
    # 16 MiB of activations per batch.
    large = (torch.zeros(4, 1, 256, 256) for _ in range(8))
    small = Budget(memory_bytes=20 * 2**20, spill_bytes=0)
    with pytest.raises(SpillLimitError, match="0 bytes of files"):
        recalibrate(model, large, budget=small)
    assert fingerprint(model) == before
    recalibrate(model, BATCHES, budget=small)


def test_compiled_module_runs_eagerly() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.compile(backend="eager")
    recalibrate(model, [torch.randn(4, 2), torch.randn(5, 2)])
    assert not torch.equal(model[1].get_buffer("running_mean"), torch.zeros(2))
