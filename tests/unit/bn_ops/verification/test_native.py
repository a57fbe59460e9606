"""Models that are compared run sample by sample, over threads, without onnxruntime's own folds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from bn_ops.errors import EngineError
from bn_ops.verification.native import NativeModel
from bn_ops.verification.probes import Probe
from tests.conformance.fold.building import Graph

if TYPE_CHECKING:
    import onnx

SAMPLES = np.random.default_rng(0).standard_normal((7, 4, 9, 9)).astype(np.float32)


def _probe(*, synthetic: bool = False, samples: int = 7) -> Probe:
    return Probe(
        label="some", batch={"x": SAMPLES[:samples]}, synthetic=synthetic, given=not synthetic
    )


def _network(*, batch: int | str = "N", pooled: bool = False) -> onnx.ModelProto:
    """Return a convolution with BatchNorm; `pooled` averages over the samples at the end."""
    graph = Graph("network")
    x = graph.input("x", (batch, 4, 9, 9))
    conv = graph.add("Conv", x, graph.store(graph.array(4, 4, 3, 3)), pads=[1, 1, 1, 1])
    y = graph.add("Relu", graph.bn(conv, 4, "layer"))
    graph.output(graph.add("ReduceMean", y, axes=[0], keepdims=0) if pooled else y)
    return graph.model()


def _run(model: onnx.ModelProto, probe: Probe, *, threads: int = 1) -> np.ndarray:
    output = model.graph.output[0].name
    (found,) = NativeModel(model, threads=threads, optimize=True).run_all([output], [probe])
    assert not isinstance(found, EngineError)
    return found[0]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_samples_run_singly_give_the_outputs_of_the_whole_batch(threads: int) -> None:
    whole = _run(_network(), _probe(synthetic=True))
    singly = _run(_network(), _probe(), threads=threads)
    np.testing.assert_array_equal(singly, whole)


def test_an_output_without_a_row_per_sample_is_that_of_the_whole_batch() -> None:
    model = _network(pooled=True)
    whole = _run(model, _probe(synthetic=True))
    np.testing.assert_array_equal(_run(model, _probe()), whole)
    assert not np.allclose(whole, _run(model, _probe(samples=1)))


def test_a_model_that_rejects_single_samples_gets_the_whole_batch() -> None:
    found = _run(_network(batch=7), _probe())
    np.testing.assert_allclose(found, _run(_network(), _probe()), rtol=1e-5, atol=1e-6)


def test_a_sample_of_two_probes_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, runs = _network(), []
    native = NativeModel(model, threads=2, optimize=True)
    run = native._session.run

    def counted(outputs: list[str], batch: dict[str, np.ndarray]) -> list[np.ndarray]:
        runs.append(len(batch["x"]))
        return run(outputs, batch)

    monkeypatch.setattr(native._session, "run", counted)
    found = native.run_all([model.graph.output[0].name], [_probe(), _probe(samples=2)])
    assert runs == [1] * 7
    whole, part = (arrays[0] for arrays in found if not isinstance(arrays, EngineError))
    np.testing.assert_array_equal(whole[:2], part)


def test_a_batch_that_the_model_rejects_is_an_error_of_that_probe_alone() -> None:
    model = _network()
    wrong = Probe(label="wrong", batch={"x": SAMPLES[:, :3]})
    found = NativeModel(model, threads=2, optimize=True).run_all(
        [model.graph.output[0].name], [wrong, _probe()]
    )
    assert isinstance(found[0], EngineError)
    assert not isinstance(found[1], EngineError)
