"""What an exact run keeps of observed samples equals a forward pass with the new statistics.

The same holds for the pass with the source statistics that reuses the run's optimized graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from unittest import mock

import numpy as np
import onnx
import pytest

from bn_ops.core.estimators import Momentum, Replace
from bn_ops.core.frontier import commit_layers
from bn_ops.core.options import RecalibrateOptions
from bn_ops.diagnostics.forward_pass import ForwardPass
from bn_ops.diagnostics.probe import Probe, observed_probe, replayed_probe
from bn_ops.engines.onnx import frontier as frontier_module
from bn_ops.engines.onnx.engine import open_engine
from bn_ops.engines.onnx.forward import OnnxForward
from bn_ops.engines.onnx.optimized import executor
from bn_ops.engines.onnx.optimized.model import OptimizedModel, open_optimized
from bn_ops.engines.onnx.optimized.whole_pass import WholePass
from bn_ops.engines.onnx.prepare import prepare
from bn_ops.errors import EngineError
from tests.conformance.engines.test_onnx_executors import NETWORKS, fixed_batch, split
from tests.support.networks import GraphBuilder, images, residual_network

# float32 networks of a dozen layers, run in two ways.
TIGHT = 1e-5


def both_ways(
    model: onnx.ModelProto,
    batches: Sequence[np.ndarray],
    *,
    estimator: Replace | Momentum | None = None,
    probe_samples: int = 64,
    layers: Sequence[str] | None = None,
) -> tuple[ForwardPass | None, ForwardPass]:
    """Return the replay of a run, and a forward pass with the statistics that it committed."""
    options = RecalibrateOptions(estimator=estimator or Replace(), layers=layers)
    engine = open_engine(model, list(batches), options)
    probe = Probe(engine.adapter, size=probe_samples)

    def stream() -> object:
        for batch in engine.stream:
            probe.add(batch)
            yield batch

    infos = {info.name: info for info in engine.layers if info.name in engine.selected}
    with engine.frontier(stream(), observed=probe.positions) as frontier:  # type: ignore[arg-type]  # a generator
        updates = commit_layers(frontier, infos, options.estimator)
        replayed = replayed_probe(frontier, probe, probe.positions())
    engine.store({name: update.statistics for name, update in updates.items()})
    return replayed, observed_probe(engine.forward, probe)


def assert_equal(replayed: ForwardPass | None, forward: ForwardPass) -> None:
    assert replayed is not None
    assert replayed.tables.keys() == forward.tables.keys()
    assert replayed.maps.keys() == forward.maps.keys()
    for name, expected in {**forward.tables, **forward.maps}.items():
        found = {**replayed.tables, **replayed.maps}[name]
        np.testing.assert_allclose(found, expected, atol=TIGHT * np.abs(expected).max(), rtol=0)
    assert replayed.inputs.keys() == forward.inputs.keys()
    assert forward.inputs
    for name, wanted in forward.inputs.items():
        moments = replayed.inputs[name]
        assert (moments.samples, moments.count) == (wanted.samples, wanted.count)
        sigma = np.sqrt(wanted.var)
        assert (np.abs(moments.mean - wanted.mean) <= TIGHT * (sigma + np.abs(wanted.mean))).all()
        assert (np.abs(moments.var - wanted.var) <= TIGHT * wanted.var + TIGHT**2).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_replay_equals_a_forward_pass(name: str) -> None:
    assert_equal(*both_ways(NETWORKS[name](), split(images(21), 5)))


@pytest.mark.parametrize("size", [1, 7, 40])
def test_a_probe_smaller_than_the_stream(size: int) -> None:
    """Samples enter and leave the probe while the stream is read."""
    assert_equal(*both_ways(residual_network(), split(images(90), size), probe_samples=20))


def test_samples_of_different_sizes() -> None:
    sizes = [images(9), images(20, size=10, seed=2), images(9, seed=3)]
    assert_equal(*both_ways(residual_network(), sizes))


def test_statistics_that_are_not_the_moments() -> None:
    assert_equal(*both_ways(residual_network(), [images(20)], estimator=Momentum(0.3)))


def test_a_head_that_reads_inputs_and_early_tensors() -> None:
    g = GraphBuilder(3)
    early = g.op("Relu", g.conv("x", 3, 8))
    late = g.op("Relu", g.bn(g.conv(g.bn(early, 8, "first"), 8, 8), 8, "second"))
    pooled = [g.op("Flatten", g.op("GlobalAveragePool", y)) for y in ("x", early, late)]
    joined = g.op("Concat", *pooled, axis=1)
    model = g.model([("x", ["N", 3, "H", "W"])], [joined, early])
    assert_equal(*both_ways(model, split(images(40), 7), probe_samples=16))


def test_nothing_is_observed_where_it_would_take_too_much_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(executor, "MAX_OBSERVED_BYTES", 10_000)
    replayed, _ = both_ways(residual_network(), [images(20)])
    assert replayed is None


def test_nothing_is_observed_without_the_optimized_executor() -> None:
    replayed, _ = both_ways(fixed_batch(), [images(8)])
    assert replayed is None


def test_nothing_is_observed_where_a_layer_is_left_out() -> None:
    model = residual_network()
    first = model.graph.node[[n.op_type for n in model.graph.node].index("BatchNormalization")]
    replayed, _ = both_ways(model, [images(20)], layers=[f"!{first.name}"])
    assert replayed is None


def source_both_ways(
    model: onnx.ModelProto, batches: Sequence[np.ndarray], *, threads: int | None = None
) -> tuple[ForwardPass, ForwardPass, int]:
    """Return two passes with the source statistics: one after a run, which may reuse its graph.

    The last value is the number of batches that it ran through that graph.
    """
    options = RecalibrateOptions(estimator=Replace(), threads=threads)
    engine = open_engine(model, list(batches), options)
    probe = Probe(engine.adapter)

    def stream() -> object:
        for batch in engine.stream:
            probe.add(batch)
            yield batch

    infos = {info.name: info for info in engine.layers if info.name in engine.selected}
    with engine.frontier(stream(), observed=probe.positions) as frontier:  # type: ignore[arg-type]  # a generator
        commit_layers(frontier, infos, options.estimator)
    with mock.patch.object(WholePass, "run", autospec=True, side_effect=WholePass.run) as run:
        reused = observed_probe(engine.forward, probe)
    plain = observed_probe(OnnxForward(prepare(model), threads=threads), probe)
    return reused, plain, run.call_count


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_pass_through_the_uncut_graph_equals_a_pass_of_the_model(name: str, threads: int) -> None:
    reused, plain, batches = source_both_ways(
        NETWORKS[name](), split(images(40), 9), threads=threads
    )
    assert_equal(reused, plain)
    # The last of them only for its outputs.
    assert batches == 3


def test_the_uncut_graph_with_samples_of_different_sizes() -> None:
    sizes = [images(9), images(20, size=10, seed=2), images(9, seed=3)]
    reused, plain, batches = source_both_ways(residual_network(), sizes)
    assert_equal(reused, plain)
    assert batches >= 2


def test_other_statistics_are_not_run_through_the_uncut_graph() -> None:
    model, batches = residual_network(), [images(20)]
    options = RecalibrateOptions(estimator=Replace())
    engine = open_engine(model, batches, options)
    probe = Probe(engine.adapter)
    infos = {info.name: info for info in engine.layers if info.name in engine.selected}
    with engine.frontier(engine.stream, observed=lambda: range(20)) as frontier:
        updates = commit_layers(frontier, infos, options.estimator)
    probe.add({"x": batches[0]})
    engine.store({name: update.statistics for name, update in updates.items()})
    with mock.patch.object(WholePass, "run") as run:
        observed_probe(engine.forward, probe)
    assert run.call_count == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_of_known_statistics_are_not_measured_and_change_no_bytes(name: str) -> None:
    model, batches = NETWORKS[name](), split(images(40), 9)
    options = RecalibrateOptions(estimator=Replace())
    engine = open_engine(model, batches, options)
    infos = {info.name: info for info in engine.layers if info.name in engine.selected}
    with engine.frontier(engine.stream, observed=lambda: range(40)) as frontier:
        target = commit_layers(frontier, infos, Replace())
    known = dict(list(target.items())[: max(1, len(target) // 2)])
    statistics = {layer: update.statistics for layer, update in known.items()}
    found = []
    for given in (statistics, None):
        stream = [{"x": batch} for batch in batches]
        with engine.frontier(stream, observed=lambda: range(40), known=given) as frontier:
            updates = commit_layers(frontier, infos, Momentum(0.3), known=known)
            replay = frontier.replay()
            assert replay is not None
            rows: list[Mapping[str, np.ndarray]] = []
            replay([range(40)], on_outputs=rows.append)
        late = {layer: u.statistics for layer, u in updates.items() if layer not in known}
        arrays = [array for s in late.values() for array in (s.mean, s.var)]
        found.append((list(late), [a.tobytes() for a in (*arrays, *rows[0].values())]))
        assert bool(known.keys() & updates.keys()) == (given is None)
    assert found[0] == found[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_run_with_the_graph_of_an_earlier_one_measures_the_same_bytes(name: str) -> None:
    """As for the candidates of `Auto`: other samples, and known statistics of the first layers."""
    model, others = NETWORKS[name](), split(images(24, seed=8), 6)
    found = []
    for first in (split(images(40), 9), None):
        engine = open_engine(model, first or others, RecalibrateOptions(estimator=Replace()))
        infos = {info.name: info for info in engine.layers if info.name in engine.selected}
        opened = mock.patch.object(frontier_module, "open_optimized", side_effect=open_optimized)
        with opened as opening:
            if first is not None:
                with engine.frontier(engine.stream, observed=lambda: range(40)) as frontier:
                    commit_layers(frontier, infos, Replace())
            with engine.frontier(
                [{"x": batch} for batch in others], observed=lambda: range(24)
            ) as frontier:
                updates = commit_layers(frontier, infos, Momentum(0.3))
                replay = frontier.replay()
                assert replay is not None
                rows: list[Mapping[str, np.ndarray]] = []
                replay([range(24)], on_outputs=rows.append)
        assert opening.call_count == 1
        arrays = [a for u in updates.values() for a in (u.statistics.mean, u.statistics.var)]
        found.append([array.tobytes() for array in (*arrays, *rows[0].values())])
    assert found[0] == found[1]


@pytest.mark.parametrize("fails", ["whole", "reduce"])
def test_the_model_runs_where_the_uncut_graph_fails(
    fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        calls: list[object] = []

        def fail(*given: object) -> object:
            calls.append(given)
            raise EngineError("refused")

        if fails == "whole":
            patch.setattr(OptimizedModel, "whole", fail)
        else:
            patch.setattr(WholePass, "_reduce", fail)
        reused, plain, batches = source_both_ways(residual_network(), [images(20)])
    assert calls
    assert_equal(reused, plain)
    assert batches == 1


def test_nothing_is_run_through_the_uncut_graph_where_a_run_does_not_optimize() -> None:
    reused, plain, batches = source_both_ways(fixed_batch(), [images(8)])
    assert_equal(reused, plain)
    assert batches == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_outputs_of_samples_run_singly_equal_those_of_whole_batches(threads: int) -> None:
    prepared = prepare(residual_network())
    found = []
    for samplewise in (False, True):
        outputs: list[np.ndarray] = []  # one for each batch, as for labels of a batch
        run = OnnxForward(prepared, threads=threads, samplewise=samplewise)
        run(
            [{"x": images(7)}],
            on_outputs=lambda made, into=outputs: into.extend(made.values()),  # type: ignore[misc]  # a default
        )
        assert len(outputs) == 1
        found.append(outputs[0])
    np.testing.assert_array_equal(found[0], found[1])
