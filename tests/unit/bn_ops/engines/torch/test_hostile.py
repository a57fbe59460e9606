"""Unusual modules and callers that conflict with one coroutine per batch."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bn_ops import recalibrate
from bn_ops.core.options import Budget
from bn_ops.errors import EngineError, ModelUnsupportedError
from tests.support.torch_oracle import exact_statistics, residual, stored

BATCHES = [torch.randn(4, 2, generator=torch.Generator().manual_seed(i)) + i for i in range(3)]
WHOLE = torch.cat(BATCHES)
TOLERANCE = 1e-5


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.BatchNorm1d(2), nn.Linear(2, 3), nn.Tanh(), nn.BatchNorm1d(3), nn.Linear(3, 2)
    ).eval()


def wanted() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return exact_statistics(network(), WHOLE)


def hooks_of(model: nn.Module) -> list[tuple[int, int]]:
    return [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in model.modules()]


@pytest.mark.parametrize("budget", [None, Budget(memory_bytes=0)], ids=["free", "spilled"])
@pytest.mark.parametrize("kind", ["pre", "post"])
def test_failing_user_hook_restores_module(kind: str, budget: Budget | None) -> None:
    model = network()

    def hook(*_: object) -> None:
        raise RuntimeError("from the user's hook")

    if kind == "pre":
        model[3].register_forward_pre_hook(hook)
    else:
        model[3].register_forward_hook(hook)
    before, hooks = copy.deepcopy(model.state_dict()), hooks_of(model)
    with pytest.raises(EngineError, match="from the user's hook"):
        recalibrate(model, BATCHES, budget=budget)
    assert hooks_of(model) == hooks
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())
    assert torch.is_grad_enabled()


class Lazily(nn.Module):
    """A forward that consumes a generator, which runs the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def steps(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        for layer in self.body:
            x = layer(x)
            yield x

    def forward(self, x: torch.Tensor) -> Any:
        return [*self.steps(x)][-1]


def test_layers_inside_generator() -> None:
    model = Lazily()
    recalibrate(model, BATCHES)
    assert residual(stored(model.body), wanted()) < TOLERANCE


def test_generator_forward_with_custom_call() -> None:
    class Yields(Lazily):
        def forward(self, x: torch.Tensor) -> Any:
            yield from self.steps(x)

    model = Yields()
    statuses = {layer.status for layer in recalibrate(model, BATCHES).report.layers}
    assert statuses == {"unreached"}
    recalibrate(model, BATCHES, call=lambda m, batch: list(m(batch)))
    assert residual(stored(model.body), wanted()) < TOLERANCE


class Recursive(nn.Module):
    """A recursive module, whose layer is called several times per forward."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(2)

    def forward(self, x: torch.Tensor, depth: int = 2) -> Any:
        y = torch.tanh(self.bn(x))
        return y if depth == 0 else self(y + x, depth - 1)


def test_recursive_module_reaches_fixed_point() -> None:
    model = Recursive()
    oracle = exact_statistics(model, WHOLE, passes=60)
    done = recalibrate(model, BATCHES, shared_passes=60, shared_tolerance=1e-7)
    assert residual(stored(model), oracle) < TOLERANCE
    assert done.report.layers[0].residual_mean is not None


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


def test_wrappers_in_same_thread() -> None:
    for wrap in (nn.DataParallel, compiled):
        model = network()
        recalibrate(wrap(model), BATCHES)
        assert residual(stored(model), wanted()) < TOLERANCE


def test_compiled_submodule_runs_eagerly() -> None:
    model = network()
    holder = nn.Sequential(compiled(model[:2]), model[2:])
    recalibrate(holder, BATCHES)
    assert residual(stored(model), wanted()) < TOLERANCE


@pytest.mark.parametrize("budget", [None, Budget(memory_bytes=0)], ids=["free", "spilled"])
def test_inference_tensors_as_batches_and_as_weights(budget: Budget | None) -> None:
    with torch.inference_mode():
        model = network()
        batches = [batch.clone() for batch in BATCHES]
    done = recalibrate(model, batches, budget=budget, compare=True)
    assert residual(stored(model), wanted()) < TOLERANCE
    done.undo()
    assert torch.equal(model[0].get_buffer("running_mean"), torch.zeros(2))


class TakesGradients(nn.Module):
    """A forward that differentiates through a layer (a score or energy network)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, x: torch.Tensor) -> Any:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            energy = self.body(leaf).square().sum()
            (slope,) = torch.autograd.grad(energy, leaf)
        return slope


@pytest.mark.parametrize("budget", [None, Budget(memory_bytes=2**20)], ids=["free", "budget"])
def test_forward_with_gradients(budget: Budget | None) -> None:
    model = TakesGradients()
    recalibrate(model, BATCHES, budget=budget)
    assert residual(stored(model.body), wanted()) < TOLERANCE


def test_saved_tensors_are_not_spilled() -> None:
    torch.manual_seed(1)
    model = TakesGradients()
    large = [torch.randn(2000, 2) + i for i in range(3)]
    free = copy.deepcopy(model)
    recalibrate(free, large)
    # Several tensors of 48 kB wait; tensors saved for gradients stay in memory.
    recalibrate(model, large, budget=Budget(memory_bytes=2 * 2**20))
    assert residual(stored(model.body), stored(free.body)) == 0


def test_checkpointed_parts_are_counted_once() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: torch.Tensor) -> Any:
            return checkpoint(self.body, x, use_reentrant=False)

    model = Checkpointed()
    recalibrate(model, BATCHES)
    assert residual(stored(model.body), wanted()) < TOLERANCE


def test_run_in_another_thread() -> None:
    model = network()
    caught: list[BaseException] = []

    def run() -> None:
        try:
            recalibrate(model, BATCHES)
        except BaseException as error:  # noqa: BLE001 - carried to the test's thread
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert caught == []
    assert residual(stored(model), wanted()) < TOLERANCE


def test_meta_device() -> None:
    with torch.device("meta"):
        whole, part = network(), nn.BatchNorm1d(2)
    for model in (whole, nn.Sequential(network(), part)):
        with pytest.raises(ModelUnsupportedError, match="meta"):
            recalibrate(model, BATCHES)


def test_vectorized_layer_is_rejected() -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm1d(2)

        def forward(self, x: torch.Tensor) -> Any:
            return torch.func.vmap(self.bn)(x.unsqueeze(0))

    model = Mapped()
    with pytest.raises(ModelUnsupportedError, match="'bn'"):
        recalibrate(model, BATCHES)
    assert torch.equal(model.bn.get_buffer("running_mean"), torch.zeros(2))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_layers_inside_torchscript_are_reported() -> None:
    scripted = torch.jit.script(network())
    with pytest.raises(ModelUnsupportedError, match="TorchScript"):
        recalibrate(scripted, BATCHES)
    traced = torch.jit.trace(network().eval(), BATCHES[0])  # type: ignore[no-untyped-call]
    with pytest.raises(ModelUnsupportedError, match="traced or scripted"):
        recalibrate(traced, BATCHES)
    mixed = nn.Sequential(scripted, nn.BatchNorm1d(2))
    done = recalibrate(mixed, BATCHES)
    assert [layer.status for layer in done.report.layers].count("recalibrated") == 1


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_cuda
@pytest.mark.parametrize("method", ["exact", "batch"])
def test_cuda_agrees_with_cpu(method: str) -> None:
    ours, reference = network().cuda(), network()
    recalibrate(reference, BATCHES, method=method)
    # Batches are moved from the CPU; autocast state and grad mode are also per batch on CUDA.
    done = recalibrate(ours, BATCHES, method=method, compare=True)
    # TF32 is off by default for matrix products; float32 sums have a different order.
    on_cpu = {n: (mean.cpu(), var.cpu()) for n, (mean, var) in stored(ours).items()}
    assert residual(on_cpu, stored(reference)) < TOLERANCE
    assert done.report.stream.samples == len(WHOLE)
    done.undo()
    assert not bool(ours[0].get_buffer("running_mean").any())


@needs_cuda
def test_autocast_state_per_batch_on_cuda() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: torch.Tensor) -> Any:
            with torch.autocast("cuda", dtype=torch.float16):
                y = self.body(x)
                assert torch.is_autocast_enabled("cuda")
            assert not torch.is_autocast_enabled("cuda")
            return y

    recalibrate(Mixed().cuda(), BATCHES)
    assert not torch.is_autocast_enabled("cuda")
