"""The cost of a recalibration: what is measured, and the arithmetic on it."""

from __future__ import annotations

import struct

import onnx
import pytest

import bn_ops
from bn_ops.core.estimators import Replace
from bn_ops.core.frontier import commit_layers
from bn_ops.core.options import Budget, silent
from bn_ops.engines.onnx import OnnxFrontier, prepare
from bn_ops.errors import OptionError
from bn_ops.pipeline.cost import Machine, SampleCost, measure_cost
from tests.support.networks import GraphBuilder, images, residual_network

SHAPE = (3, 12, 12)


def chain() -> onnx.ModelProto:
    """Return three layers of 16 channels, so that blocks of the optimized layout are full."""
    g = GraphBuilder(2)
    x = "x"
    for level, (c_in, stride) in enumerate([(3, 1), (16, 2), (16, 1)]):
        x = g.op("Relu", g.bn(g.conv(x, c_in, 16, stride=stride), 16, f"bn{level}"))
    return g.model([("x", ["N", 3, "H", "W"])], [x])


def test_bytes_are_those_of_the_tensors_between_levels() -> None:
    cost = measure_cost(chain(), shape=SHAPE)
    assert cost.input_bytes == 3 * 12 * 12 * 4
    # The input of bn0, then that of bn1 at half the size; that of bn2 is measured, not kept.
    first, second = 16 * 12 * 12 * 4, 16 * 6 * 6 * 4
    assert cost.stored_bytes == first + second
    assert cost.waiting_bytes == pytest.approx(first, rel=0.05)
    assert (cost.levels, cost.channels) == (3, 48)
    assert sum(stored for _, stored in cost.level_bytes) == cost.stored_bytes
    assert [waiting for waiting, _ in cost.level_bytes] == [first, second, 0]
    assert cost.core_seconds >= 0
    assert cost.start_seconds >= 0


def test_predicted_memory_is_that_of_a_longer_run() -> None:
    cost = measure_cost(residual_network(width=16), shape=SHAPE)
    prepared = prepare(residual_network(width=16))
    with OnnxFrontier(
        prepared,
        [{"x": images(100)}],
        layers=prepared.eligible,
        budget=Budget(),
        progress=silent,
        threads=1,
    ) as frontier:
        commit_layers(frontier, prepared.eligible, Replace())
    assert frontier.store.peak_memory_bytes == pytest.approx(100 * cost.waiting_bytes, rel=0.05)


def test_predicted_files_are_those_of_a_longer_run() -> None:
    cost = measure_cost(residual_network(width=16), shape=SHAPE)
    budget = 100 * cost.waiting_bytes // 2
    predicted = cost.run(100, Machine(cores=1, memory_bytes=budget), nodes=1)
    prepared = prepare(residual_network(width=16))
    with OnnxFrontier(
        prepared,
        [{"x": images(100)}],
        layers=prepared.eligible,
        budget=Budget(memory_bytes=budget),
        progress=silent,
        threads=1,
    ) as frontier:
        commit_layers(frontier, prepared.eligible, Replace())
    assert predicted.spill_bytes > 0
    assert frontier.store.peak_spill_bytes == pytest.approx(predicted.spill_bytes, rel=0.25)


def test_models_with_fixed_sizes_need_no_shape() -> None:
    g = GraphBuilder(1)
    y = g.bn(g.conv("x", 2, 4), 4, "a")
    model = g.model([("x", ["N", 2, 5, 5])], [y])
    assert measure_cost(model).input_bytes == 2 * 5 * 5 * 4
    with pytest.raises(OptionError, match="leaves sizes of its input 'x' free"):
        measure_cost(residual_network())


COST = SampleCost(
    input_bytes=602_112,
    waiting_bytes=6_420_000,
    stored_bytes=65_800_000,
    core_seconds=0.17,
    start_seconds=1.5,
    level_bytes=((4_000_000, 4_000_000), (6_420_000, 2_420_000), (2_000_000, 2_000_000)),
    channels=26_560,
)
WORKING = 16 << 25  # of the tensors within a segment, for 16 cores


def test_many_machines_keep_every_tensor_in_memory() -> None:
    machine = Machine(cores=16, memory_bytes=100 * 10**9)
    run = COST.run(10**6, machine)
    assert run.nodes == run.nodes_in_memory == 65  # 6.42 TB in 0.1 TB each
    assert (run.spill_bytes, run.spill_seconds) == (0, 0)
    assert run.memory_bytes <= machine.memory_bytes - WORKING
    assert run.compute_seconds == pytest.approx(1.5 + 10**6 * 0.17 / (65 * 16))
    assert run.seconds == run.compute_seconds
    assert run.to_json()["seconds"] == run.seconds


def test_few_machines_spill_the_rest() -> None:
    machine = Machine(cores=16, memory_bytes=100 * 10**9, disk_bytes_per_second=2e9)
    run = COST.run(10**6, machine, nodes=8)
    assert run.nodes_in_memory == 65
    usable = machine.memory_bytes - WORKING
    assert run.memory_bytes == usable
    assert run.memory_bytes + run.spill_bytes == pytest.approx(6.42e12 / 8, abs=1)
    # 500, 802.5 and 250 GB wait after the levels. The second keeps all that the first has stored.
    written = (500e9 - usable) + (802.5e9 - 500e9) + (250e9 - usable)
    assert run.file_bytes == pytest.approx(2 * written, rel=1e-9)
    assert run.spill_seconds == pytest.approx(2 * written / 2e9)
    assert run.seconds == run.compute_seconds + run.spill_seconds


def test_small_budgets_reserve_a_quarter() -> None:
    run = COST.run(1000, Machine(memory_bytes=1 << 30), nodes=1)
    assert run.memory_bytes == 3 << 28


def test_levels_that_fit_write_nothing() -> None:
    # 6 of 8 GiB hold 6.42 GB for 1,000 samples, and not for 1,100: 7.06 GB, 0.62 of them in files.
    machine = Machine(cores=128, memory_bytes=8 << 30)
    assert COST.run(1000, machine, nodes=1).file_bytes == 0
    run = COST.run(1100, machine, nodes=1)
    assert run.file_bytes == 2 * run.spill_bytes == 2 * (1100 * 6_420_000 - (6 << 30))


def test_messages_bound_what_shards_send() -> None:
    """A shard sends what the model predicts, or less."""
    model, x = residual_network(), images(330, size=6)
    cost = measure_cost(model, shape=(3, 6, 6))
    plan = bn_ops.plan_measurement(model)
    parts = [(0, x[:192]), (192, x[192:])]
    shards = [bn_ops.open_shard(model, [p], plan, start=s, allow_mismatch=True) for s, p in parts]
    sent: list[int] = []

    def counted(shard: bn_ops.Shard[object, object], settled: bytes | None) -> bytes:
        form = shard.step(settled)
        for message in (form, settled or b""):
            header = struct.unpack_from("<I", message, 8)[0] if message else 0
            sent.append(max(0, len(message) - 12 - header))
        return form

    calls = [lambda settled, own=shard: counted(own, settled) for shard in shards]
    bn_ops.Conductor(plan, calls).run()
    for shard in shards:
        shard.close()
    predicted = cost.run(330, Machine(), nodes=2).message_bytes
    assert predicted / 2 <= sum(sent) <= predicted


@pytest.mark.parametrize(
    "wrong", [{"cores": 0}, {"memory_bytes": 0}, {"disk_bytes_per_second": 0.0}]
)
def test_machines_without_anything_are_rejected(wrong: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="a machine has"):
        Machine(**wrong)


def test_runs_without_samples_are_rejected() -> None:
    with pytest.raises(OptionError):
        COST.run(0, Machine())
    with pytest.raises(OptionError):
        COST.run(1, Machine(), nodes=0)
