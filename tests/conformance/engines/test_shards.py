"""A measurement that is shared by shards gives the bytes of one process, wherever it is cut."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bn_ops
from bn_ops.core.estimators import as_estimator
from bn_ops.core.frontier import commit_layers
from bn_ops.core.moment_tree import CHUNK_SAMPLES
from bn_ops.core.options import Budget, Execution, silent
from bn_ops.core.sharding import MeasurementPlan, ShardCall, ShardedResult, ShardMoments
from bn_ops.engines.onnx import OnnxFrontier, prepare
from bn_ops.errors import (
    BatchNotFiniteError,
    LayerNotFiniteError,
    OptionError,
    ShardError,
    ShardMismatchError,
    StreamEmptyError,
)
from bn_ops.result import encode_statistics
from tests.support.networks import GraphBuilder, images, residual_network
from tests.support.oracle import oracle_statistics, residual
from tests.support.zoo import ZOO, ZooNetwork

SHARDS = (1, 2, 4, 7, 11)
SAMPLES = 11 * CHUNK_SAMPLES + 5

# Passes over shared layers, fewer than by default to save time.
PASSES = 3

Network = onnx.ModelProto | torch.nn.Module


def zoo(name: str) -> ZooNetwork:
    return next(network for network in ZOO if network.name == name)


def fixed_batch() -> onnx.ModelProto:
    """Return a network that takes sixteen samples at a time."""
    g = GraphBuilder(5)
    y = g.op("Relu", g.bn(g.conv("x", 3, 6), 6, "a"))
    return g.model([("x", [16, 3, "H", "W"])], [g.bn(g.conv(y, 6, 4), 4, "b")])


def onnx_in_process(
    model: onnx.ModelProto, batches: Sequence[Any], execution: Execution, estimator: str
) -> bytes:
    prepared = prepare(model)
    with OnnxFrontier(
        prepared,
        iter([{"x": batch} for batch in batches]),
        layers=prepared.eligible,
        budget=Budget(),
        progress=silent,
        threads=1,
        executor=execution,
    ) as frontier:
        updates = commit_layers(frontier, prepared.eligible, as_estimator(estimator))
    return encode_statistics({name: update.statistics for name, update in updates.items()})


@dataclass(frozen=True, slots=True)
class Case:
    """A network, and how it runs."""

    name: str
    model: Callable[[], Network]
    execution: Execution = "auto"

    def inputs(self, samples: int) -> np.ndarray:
        if self.name.startswith("onnx"):
            return images(samples, size=6)
        found = zoo(self.name.removeprefix("torch ")).inputs(samples)
        assert isinstance(found, tuple)
        return np.asarray(found[0].numpy())

    def in_process(self, batches: Sequence[Any], estimator: str) -> bytes:
        model = self.model()
        if isinstance(model, onnx.ModelProto):
            return onnx_in_process(model, batches, self.execution, estimator)
        done = bn_ops.recalibrate(
            model, batches, estimator=estimator, shared_passes=PASSES, allow_mismatch=True
        )
        return encode_statistics(done.statistics)

    def __str__(self) -> str:
        return self.name


CASES = [
    Case("onnx optimized", residual_network, "optimized"),
    Case("onnx graph", residual_network, "graph"),
    Case("onnx fixed batch", fixed_batch, "graph"),
    *(Case(f"torch {name}", zoo(name).build) for name in ("residual", "dense", "shared")),
]


def measured(
    model: Callable[[], Network],
    parts: Sequence[tuple[int, Sequence[Any]]],
    plan: MeasurementPlan,
    **options: Any,
) -> ShardedResult:
    # A second thread only waits for the first one in networks of this size.
    threads = 1 if plan.engine == "onnx" else None
    with ExitStack() as stack:
        shards = [
            stack.enter_context(
                bn_ops.open_shard(
                    model(), part, plan, start=start, threads=threads, allow_mismatch=True
                )
            )
            for start, part in parts
        ]
        return bn_ops.Conductor(plan, [shard.step for shard in shards], **options).run()


def planned(model: Network, **options: Any) -> MeasurementPlan:
    plan: MeasurementPlan = bn_ops.plan_measurement(model, **options)
    return plan


def cut(x: np.ndarray, size: int) -> list[np.ndarray]:
    return [x[start : start + size] for start in range(0, len(x), size)]


def parts_of(
    batches: Sequence[np.ndarray], borders: Sequence[int]
) -> list[tuple[int, list[np.ndarray]]]:
    """Return start and batches of each part; a border is the index of a batch."""
    starts = [0, *np.cumsum([len(batch) for batch in batches]).tolist()]
    return [(starts[a], list(batches[a:b])) for a, b in pairwise([0, *borders, len(batches)])]


def chunk_borders(batches: Sequence[np.ndarray], *, whole_batches: bool) -> list[int]:
    """Return the batches that a shard can begin with: no chunk has batches before and after it.

    Where batches run as they are, a batch belongs to the chunk of its first sample.
    """
    starts = [0, *np.cumsum([len(batch) for batch in batches]).tolist()]
    return [
        index
        for index in range(1, len(batches))
        if starts[index] % CHUNK_SAMPLES == 0
        or (whole_batches and starts[index] // CHUNK_SAMPLES > starts[index - 1] // CHUNK_SAMPLES)
    ]


@pytest.mark.parametrize("case", CASES, ids=str)
@given(data=st.data())
@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
def test_bytes_are_those_of_one_process(case: Case, data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([16, 20, 64, 128]))
    estimator = data.draw(st.sampled_from(["replace", "prior:16", "shrink"]))
    batches = cut(case.inputs(SAMPLES), size)
    wanted = case.in_process(batches, estimator)
    model = case.model()
    own: dict[str, Any] = (
        {"execution": case.execution}
        if isinstance(model, onnx.ModelProto)
        else {"shared_passes": PASSES}
    )
    plan = planned(model, estimator=estimator, **own)
    as_they_are = case.name in {"onnx graph", "torch residual", "torch dense", "torch shared"}
    possible = chunk_borders(batches, whole_batches=as_they_are)
    for shards in SHARDS:
        borders = data.draw(st.permutations(possible))[: shards - 1]
        found = measured(case.model, parts_of(batches, sorted(borders)), plan)
        assert encode_statistics(found.statistics) == wanted, (shards, borders)
        assert found.samples == SAMPLES


@pytest.mark.parametrize("case", CASES, ids=str)
def test_model_is_that_of_one_process(case: Case) -> None:
    batches = cut(case.inputs(150), 16)
    plan = planned(case.model())
    found = measured(case.model, parts_of(batches, [4, 8]), plan)
    model: Any = case.model()
    whole: Any = bn_ops.recalibrate(model, batches, allow_mismatch=True).model
    if isinstance(whole, onnx.ModelProto):
        stored = bn_ops.store_statistics(model, found.statistics)
        assert stored.SerializeToString(deterministic=True) == whole.SerializeToString(
            deterministic=True
        )
    else:
        other: Any = case.model()
        assert bn_ops.store_statistics(other, found.statistics) is other
        for name, tensor in other.state_dict().items():
            assert torch.equal(tensor, whole.state_dict()[name]), name


def test_shards_agree_with_the_float64_oracle() -> None:
    model, x = residual_network(), images(200, size=6)
    plan = bn_ops.plan_measurement(model)
    found = measured(residual_network, parts_of(cut(x, 8), [8, 16]), plan).statistics
    stored = {name: (new.mean, new.var) for name, new in found.items()}
    assert residual(stored, oracle_statistics(model, {"x": x})) <= 1e-5


def test_order_of_shards_has_no_effect() -> None:
    parts = parts_of(cut(images(300, size=6), 16), [4, 8, 12])
    plan = bn_ops.plan_measurement(residual_network())
    forward = measured(residual_network, parts, plan)
    backward = measured(residual_network, parts[::-1], plan)
    assert encode_statistics(forward.statistics) == encode_statistics(backward.statistics)


def test_cutting_a_sites_samples_further_changes_nothing() -> None:
    """Each site starts at a position of its own; gaps between sites have no effect."""
    x, site = images(300, size=6), 1 << 40
    plan = bn_ops.plan_measurement(residual_network())
    first, second = cut(x[:130], 10), cut(x[130:], 16)
    two = measured(residual_network, [(0, first), (site, second)], plan)
    three = measured(
        residual_network, [(0, first), (site, second[:4]), (site + 64, second[4:])], plan
    )
    assert encode_statistics(two.statistics) == encode_statistics(three.statistics)
    near = bn_ops.recalibrate(residual_network(), [*first, *second], allow_mismatch=True)
    for name, found in two.statistics.items():
        np.testing.assert_allclose(found.mean, near.statistics[name].mean, rtol=1e-4, atol=1e-5)


def test_threads_and_budget_do_not_change_the_bytes() -> None:
    x = images(200, size=6)
    batches = cut(x, 20)
    plan = bn_ops.plan_measurement(residual_network())
    wanted = measured(residual_network, [(0, batches)], plan)
    with ExitStack() as stack:
        shards = [
            stack.enter_context(
                bn_ops.open_shard(
                    residual_network(),
                    iter(cut(x[start:stop], 20)),
                    plan,
                    start=start,
                    threads=threads,
                    budget=Budget(memory_bytes=0),
                    allow_mismatch=True,
                )
            )
            for threads, (start, stop) in ((1, (0, 64)), (2, (64, 200)))
        ]
        calls: list[ShardCall] = [shard.step for shard in shards]
        found = bn_ops.Conductor(plan, calls, concurrent=True).run()
    assert encode_statistics(found.statistics) == encode_statistics(wanted.statistics)


def test_torch_shards_run_in_threads() -> None:
    case = CASES[3]
    parts = parts_of(cut(case.inputs(130), 16), [4])
    plan = planned(case.model())
    one = measured(case.model, parts, plan)
    with ExitStack() as stack:
        shards = [
            stack.enter_context(
                bn_ops.open_shard(case.model(), part, plan, start=start, allow_mismatch=True)
            )
            for start, part in parts
        ]
        calls: list[ShardCall] = [shard.step for shard in shards]
        two = bn_ops.Conductor(plan, calls, concurrent=True).run()
    assert encode_statistics(one.statistics) == encode_statistics(two.statistics)


@pytest.mark.parametrize("case", CASES[:4:3], ids=str)
def test_shards_without_samples_and_with_one(case: Case) -> None:
    batches = cut(case.inputs(65), 16)
    wanted = case.in_process(batches, "replace")
    plan = planned(case.model())
    parts = [(0, []), (0, batches[:4]), (64, batches[4:]), (128, [])]
    found = measured(case.model, parts, plan)
    assert encode_statistics(found.statistics) == wanted
    assert (found.samples, len(found.digests[0])) == (65, 4)
    with pytest.raises(StreamEmptyError, match="no shard holds a sample"):
        measured(case.model, [(0, []), (64, [])], plan)


def test_dead_channels() -> None:
    def network() -> onnx.ModelProto:
        g = GraphBuilder(3)
        y = g.op("Relu", g.bn(g.conv("x", 3, 8), 8, "a"))
        weight = g.weight(8, 8, 3, 3)
        y = g.op("Conv", y, weight, pads=[1, 1, 1, 1])
        dead = g.rng.permutation(8)[:4]
        for tensor in g.tensors:
            if tensor.name == weight:
                values = onnx.numpy_helper.to_array(tensor).copy()
                values[dead] = 0
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, weight))
        return g.model([("x", ["N", 3, "H", "W"])], [g.bn(y, 8, "b")])

    batches = cut(images(160, size=6), 16)
    plan = bn_ops.plan_measurement(network(), estimator="shrink")
    found = measured(network, parts_of(batches, [4]), plan)
    assert (found.updates["b"].moments.sum_sq_dev == 0).sum() == 4
    whole = bn_ops.recalibrate(network(), batches, estimator="shrink", allow_mismatch=True)
    assert encode_statistics(found.statistics) == encode_statistics(whole.statistics)


class Dying:
    """A call of a shard that fails once, after some steps."""

    def __init__(self, call: ShardCall, steps: int) -> None:
        self._call, self._left = call, steps

    def __call__(self, settled: bytes | None) -> bytes:
        if self._left == 0:
            raise ConnectionResetError("the worker is gone")
        self._left -= 1
        return self._call(settled)


@pytest.fixture
def shards() -> Iterator[Callable[..., bn_ops.Shard[Any, Any]]]:
    """Open shards that are closed at the end of the test."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(
            bn_ops.open_shard(*args, allow_mismatch=True, **kwargs)
        )


Opened = Callable[..., bn_ops.Shard[Any, Any]]


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_dead_shard_is_replaced(shards: Opened, steps: int) -> None:
    parts = parts_of(cut(images(200, size=6), 16), [4, 8])
    plan = bn_ops.plan_measurement(residual_network())
    wanted = measured(residual_network, parts, plan)

    def opened(index: int) -> ShardCall:
        start, batches = parts[index]
        return shards(residual_network(), batches, plan, start=start).step

    calls: list[ShardCall] = [opened(0), Dying(opened(1), steps), opened(2)]
    found = bn_ops.Conductor(plan, calls, replace=opened).run()
    assert found.replaced == 1
    assert found.digests == wanted.digests
    assert encode_statistics(found.statistics) == encode_statistics(wanted.statistics)


def test_replacement_with_other_samples_is_rejected(shards: Opened) -> None:
    parts = parts_of(cut(images(200, size=6), 16), [4])
    plan = bn_ops.plan_measurement(residual_network())

    def opened(index: int, seed: int = 1) -> ShardCall:
        start, batches = parts[index]
        if seed != 1:
            batches = [batch + np.float32(1e-3) for batch in batches]
        return shards(residual_network(), batches, plan, start=start).step

    calls: list[ShardCall] = [opened(0), Dying(opened(1), 2)]
    with pytest.raises(ShardMismatchError, match="shard 1 was replaced and measured other moments"):
        bn_ops.Conductor(plan, calls, replace=lambda index: opened(index, seed=2)).run()


def test_replacements_are_bounded(shards: Opened) -> None:
    plan = bn_ops.plan_measurement(residual_network())
    batches = cut(images(20, size=6), 16)
    asked: list[int] = []

    def dead(index: int) -> ShardCall:
        asked.append(index)
        return Dying(shards(residual_network(), batches, plan).step, 0)

    conductor = bn_ops.Conductor(plan, [dead(0)], replace=dead, max_replacements=2)
    with pytest.raises(ConnectionResetError):
        conductor.run()
    assert asked == [0, 0, 0]
    with pytest.raises(ConnectionResetError):
        bn_ops.Conductor(plan, [dead(0)]).run()
    with pytest.raises(ShardError, match="at least one shard"):
        bn_ops.Conductor(plan, []).run()


def test_settled_levels_can_be_replayed() -> None:
    batches = cut(images(100, size=6), 16)
    plan = bn_ops.plan_measurement(residual_network())
    wanted = measured(residual_network, [(0, batches)], plan)
    for level in range(len(wanted.levels) + 1):
        moments = bn_ops.measure_shard(
            residual_network(), batches, plan, wanted.levels[:level], allow_mismatch=True
        )
        assert (moments.level, moments.sha256) == (level, wanted.digests[level][0])
    assert not moments.layers


def test_errors_of_the_data_are_not_retried() -> None:
    plan = bn_ops.plan_measurement(residual_network())
    batches = cut(images(130, size=6), 16)
    batches[6][3, 0, 0, 0] = np.nan
    parts = parts_of(batches, [4])
    with pytest.raises(BatchNotFiniteError, match="batch 2"):
        measured(residual_network, parts, plan, replace=pytest.fail)


def test_nan_inside_the_network_is_not_retried(shards: Opened) -> None:
    def network() -> onnx.ModelProto:
        g = GraphBuilder(4)
        y = g.op("Log", g.bn(g.conv("x", 3, 4), 4, "a"))
        return g.model([("x", ["N", 3, "H", "W"])], [g.bn(y, 4, "b")])

    plan = bn_ops.plan_measurement(network())
    batches = cut(images(20, size=6), 16)
    with pytest.raises(LayerNotFiniteError, match="layer 'b'"):
        measured(network, [(0, batches)], plan, replace=pytest.fail)
    shard = shards(network(), batches, plan)
    level = plan.settle(shard.advance())
    with pytest.raises(LayerNotFiniteError):
        shard.advance(level)
    with pytest.raises(ShardError, match="a step has failed"):
        shard.advance(level)


def test_steps_out_of_order_are_rejected(shards: Opened) -> None:
    batches = cut(images(70, size=6), 16)
    plan = bn_ops.plan_measurement(residual_network())
    levels = measured(residual_network, [(0, batches)], plan).levels
    shard = shards(residual_network(), batches, plan)
    with pytest.raises(ShardError, match="has not measured a level yet"):
        shard.advance(levels[0])
    first = shard.advance()
    assert shard.advance() == first  # asked again
    with pytest.raises(ShardError, match="level 1, but the shard has measured level 0"):
        shard.advance(levels[1])
    second = shard.advance(levels[0])
    assert shard.advance(levels[0]) is second
    with pytest.raises(ShardError, match="passed its first level"):
        shard.advance()
    with pytest.raises(ShardMismatchError, match="the shard measured the layers"):
        shard.advance(bn_ops.SettledLevel(plan=plan.sha256, level=1, statistics={}))
    short = {
        name: bn_ops.RunningStatistics(mean=np.zeros(2), var=np.ones(2))
        for name in levels[1].statistics
    }
    with pytest.raises(ShardMismatchError, match="channels, its statistics 2"):
        shard.advance(bn_ops.SettledLevel(plan=plan.sha256, level=1, statistics=short))
    with pytest.raises(ShardMismatchError, match="another plan"):
        shard.advance(bn_ops.SettledLevel(plan="0", level=1, statistics=levels[1].statistics))
    assert shard.advance(levels[1]).level == 2
    shard.close()
    with pytest.raises(ShardError, match="closed"):
        shard.advance(levels[2])


def test_finished_shard_takes_no_more_statistics(shards: Opened) -> None:
    batches = cut(images(20, size=6), 16)
    plan = bn_ops.plan_measurement(residual_network())
    shard, moments = shards(residual_network(), batches, plan), None
    levels = measured(residual_network, [(0, batches)], plan).levels
    for level in (None, *levels):
        moments = shard.advance(level)
    assert moments is not None
    assert not moments.layers
    with pytest.raises(ShardError, match="every layer has been measured"):
        shard.advance(bn_ops.SettledLevel(plan=plan.sha256, level=moments.level, statistics={}))


def first_levels(parts: Sequence[tuple[int, Sequence[Any]]]) -> list[ShardMoments]:
    plan = bn_ops.plan_measurement(residual_network())
    return [
        bn_ops.measure_shard(residual_network(), part, plan, start=start, allow_mismatch=True)
        for start, part in parts
    ]


def altered(moments: ShardMoments, **kernels: str) -> ShardMoments:
    return ShardMoments(
        plan=moments.plan,
        kernels={**moments.kernels, **kernels},
        level=moments.level,
        samples=moments.samples,
        layers=moments.layers,
    )


def test_mixed_cluster_is_rejected() -> None:
    one, two = first_levels(parts_of(cut(images(100, size=6), 16), [4]))
    assert {"bnrecal", "numpy", "onnxruntime", "processor", "execution"} <= one.kernels.keys()
    with pytest.raises(ShardMismatchError) as caught:
        bn_ops.merge_moments([one, altered(two, onnxruntime="1.0", processor="other")])
    assert "shards 0 and 1 differ in onnxruntime (" in caught.value.message
    assert "and 1.0), processor (" in caught.value.message
    merged = bn_ops.merge_moments([one, altered(two, onnxruntime="1.0")], allow_mixed=True)
    assert merged.samples == 100
    assert "onnxruntime" not in merged.kernels
    plan = bn_ops.plan_measurement(residual_network())
    with pytest.raises(ShardMismatchError, match="allow_mixed=True"):
        plan.settle(one, altered(two, numpy="1"))


def test_parts_that_do_not_fit_are_rejected() -> None:
    batches = cut(images(100, size=6), 16)
    one, two = first_levels(parts_of(batches, [4]))
    (again,) = first_levels([(0, batches[:2])])
    with pytest.raises(ShardMismatchError, match="shards 0 and 1 both hold samples of the 64 pos"):
        bn_ops.merge_moments([one, again])
    plan = bn_ops.plan_measurement(residual_network(), layers=["block*"])
    with pytest.raises(ShardMismatchError, match="another plan"):
        plan.update(one)
    other = bn_ops.measure_shard(
        residual_network(), batches[4:], plan, start=64, allow_mismatch=True
    )
    with pytest.raises(ShardMismatchError, match="shard 1 measured by another plan"):
        bn_ops.merge_moments([one, other])
    with pytest.raises(ShardError, match="no moments"):
        bn_ops.merge_moments([])
    assert bn_ops.merge_moments([bn_ops.merge_moments([one]), two]).samples == 100


def test_shard_of_another_model_or_plan_is_rejected() -> None:
    plan = bn_ops.plan_measurement(residual_network())
    with pytest.raises(ShardMismatchError, match="is not the one of the plan"):
        bn_ops.open_shard(residual_network(seed=1), [], plan)
    with pytest.raises(ShardMismatchError, match="for the engine 'onnx'"):
        bn_ops.open_shard(zoo("plain").build(), [], plan)
    module = zoo("plain").build()
    torch_plan = bn_ops.plan_measurement(module)
    changed = copy.deepcopy(module)
    with torch.no_grad():
        next(changed.buffers()).add_(1)
    with pytest.raises(ShardMismatchError, match="is not the one of the plan"):
        bn_ops.open_shard(changed, [], torch_plan)
    with pytest.raises(ShardError, match="position in the stream"):
        bn_ops.open_shard(residual_network(), [], plan, start=-64)


def test_plan_rejects_what_cannot_be_shared() -> None:
    with pytest.raises(OptionError, match="Auto compares predictions"):
        bn_ops.plan_measurement(residual_network(), estimator="auto")
    with pytest.raises(OptionError, match="ONNX model"):
        bn_ops.plan_measurement(zoo("plain").build(), execution="graph")


class Branches(torch.nn.Module):
    """Batches with a positive mean take another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = (self.left if x.mean() > 0 else self.right)(x)
        return found


def test_data_dependent_branches_are_rejected() -> None:
    model = Branches()
    plan = bn_ops.plan_measurement(model)
    up, down = torch.rand(4, 2, 3, 3), -torch.rand(4, 2, 3, 3)
    with pytest.raises(ShardMismatchError, match="branches that depend on the data"):
        measured(lambda: Branches().eval(), [(0, [up]), (64, [down])], plan)


def test_shard_restores_its_module() -> None:
    model = zoo("residual").build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (batch,) = zoo("residual").inputs(8)
    plan = bn_ops.plan_measurement(model)
    with bn_ops.open_shard(model, [batch], plan, allow_mismatch=True) as shard:
        level = plan.settle(shard.advance())
        shard.advance(level)
        assert shard.samples == 8
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_store_statistics_checks_layers() -> None:
    good = bn_ops.RunningStatistics(mean=np.zeros(8), var=np.ones(8))
    with pytest.raises(OptionError, match="no layer 'other'"):
        bn_ops.store_statistics(residual_network(), {"other": good})
    short = bn_ops.RunningStatistics(mean=np.zeros(2), var=np.ones(2))
    with pytest.raises(OptionError, match="8 channels"):
        bn_ops.store_statistics(residual_network(), {"stem.bn": short})


@pytest.mark.parametrize(("samples", "shards"), [(0, 1), (5, 3), (64, 2), (1000, 7), (10_000, 11)])
def test_ranges_cover_all_samples(samples: int, shards: int) -> None:
    ranges = bn_ops.shard_ranges(samples, shards)
    assert [index for found in ranges for index in found] == list(range(samples))
    assert len(ranges) == shards
    assert all(found.start % CHUNK_SAMPLES == 0 for found in ranges if len(found))
    lengths = [len(found) for found in ranges]
    assert max(lengths) - min(lengths) <= 2 * CHUNK_SAMPLES
    with pytest.raises(OptionError):
        bn_ops.shard_ranges(samples, 0)
