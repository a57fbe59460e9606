"""`call=`: the arguments of the call are sent, and the module is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bnrecal_client import OptionError
from tests.support.client_server import MODEL, ClientServer
from tests.support.fake_time import FakeTime
from tests.support.played_clients import Calls, check_statistics, played, stream


class Network(torch.nn.Module):
    """Takes a scaled input and a mask; counts how often its first layer runs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3, 3)
        self.norm = torch.nn.BatchNorm1d(3)
        self.runs = 0
        self.linear.register_forward_hook(self._count)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None = None, scale: float = 1.0
    ) -> torch.Tensor:
        found: torch.Tensor = self.norm(self.linear(x * scale))
        return found if mask is None else found * mask

    def _count(self, *_: object) -> None:
        self.runs += 1


def pairs() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.from_numpy(one), torch.arange(len(one))) for one in stream()]


@pytest.mark.parametrize("training", [True, False])
def test_arguments_of_the_call_are_sent(
    server: ClientServer, time: FakeTime, *, training: bool
) -> None:
    network = Network().train(training)
    network.linear.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    server.executor.inputs = ("x",)
    with played(server.transport, time) as client:
        result = client.recalibrate(network, pairs(), call=lambda module, one: module(one[0] / 4))
    check_statistics(result, [batch / np.float32(4) for batch in stream()])
    assert network.training == network.norm.training == training
    assert not network.linear.training
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_only_the_first_batch_runs_through_the_module(server: ClientServer, time: FakeTime) -> None:
    network = Network()
    server.executor.inputs = ("x",)
    runs: list[int] = []

    def call(module: Network, batch: Any) -> object:
        found = module(batch[0])
        runs.append(module.runs)
        return found

    with played(server.transport, time) as client:
        client.recalibrate(network, pairs(), call=call)
    assert len(runs) == 1


def test_keywords_are_inputs_by_name(server: ClientServer, time: FakeTime) -> None:
    server.executor.inputs = ("x", "mask")

    def call(module: Network, batch: Any) -> object:
        return module(mask=torch.ones(len(batch[0]), 3), x=batch[0])

    with played(server.transport, time) as client:
        check_statistics(client.recalibrate(Network(), pairs(), call=call), stream())


def test_labels_are_those_of_the_batches(
    server: ClientServer, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnrecal_client import _library

    compared: list[Any] = []

    def compare(self: Any, result: Any, *_: Any) -> Any:
        compared.extend(self.pairs)
        return result

    monkeypatch.setattr(_library.LabeledSamples, "compare", compare)
    server.executor.inputs = ("x",)
    with played(server.transport, time) as client:
        client.recalibrate(
            Network(), pairs(), call=lambda module, one: module(2 * one[0]), evaluate="batches"
        )
    for (inputs, labels), (x, y) in zip(compared, pairs(), strict=True):
        np.testing.assert_array_equal(inputs, 2 * x)
        np.testing.assert_array_equal(labels, y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda module, one: module.linear(one[0]), "0 times for a batch"),
        (lambda module, one: module.forward(one[0]), "0 times for a batch"),
        (lambda module, one: module(one[0]) + module(-one[0]), "2 times for a batch"),
        (lambda module, one: module(one[0], scale=2.0), "scale=2.0, which is no array"),
    ],
)
def test_other_calls_are_refused_before_anything_is_sent(
    server: ClientServer,
    time: FakeTime,
    call: Callable[[Any, Any], object],
    message: str,
) -> None:
    network = Network()
    with played(server.transport, time) as client, pytest.raises(OptionError, match=message):
        client.submit(network, pairs(), call=call)
    assert server.transport.requests == []
    assert network.training
    assert not network._forward_pre_hooks


def test_call_is_for_modules(client: Calls) -> None:
    with pytest.raises(OptionError, match="is for an nn"):
        client.recalibrate(MODEL, stream(), call=lambda module, batch: module(batch))


def test_error_of_the_call_is_the_callers_own(server: ClientServer, time: FakeTime) -> None:
    network = Network()
    with played(server.transport, time) as client, pytest.raises(ZeroDivisionError):
        client.recalibrate(network, pairs(), call=lambda module, one: module(one[0] / (1 // 0)))
    assert network.training
    assert not network._forward_pre_hooks
