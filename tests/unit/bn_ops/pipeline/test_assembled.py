"""A run whose stream is measured in shards gives what a run in one process gives, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import bn_ops
from bn_ops.adaptation import adapt_with
from bn_ops.core.estimators import as_estimator
from bn_ops.core.options import Execution, RecalibrateOptions
from bn_ops.errors import InputMismatchError, OptionError, ShardError, ShardMismatchError
from bn_ops.onnx_files.deployment.request import Deployment
from bn_ops.onnx_files.large_models import serialized
from bn_ops.pipeline.observation import ShardObservation, samples_from_bytes, samples_to_bytes
from bn_ops.pipeline.recorded_shard import RecordedShard, open_recorded_shard, try_execution
from bn_ops.result import Artifact, encode_statistics
from tests.support.networks import GraphBuilder, images, residual_network

Array = NDArray[np.generic]


def fixed_batch() -> onnx.ModelProto:
    """Return a network that takes sixteen samples at a time, so that its graph is not optimized."""
    g = GraphBuilder(5)
    y = g.op("Relu", g.bn(g.conv("x", 3, 6), 6, "a"))
    z = g.op("Flatten", g.op("GlobalAveragePool", g.op("Relu", g.bn(g.conv(y, 6, 5), 5, "b"))))
    return g.model([("x", [16, 3, "H", "W"])], [z])


NETWORKS = {"optimized": residual_network(), "graph": fixed_batch()}


class Shards:
    """Shards in this process, as a `ShardedStream`."""

    def __init__(self, shards: Sequence[RecordedShard], execution: Execution) -> None:
        self.execution = execution
        self._shards = shards

    def step(self, settled: bytes | None) -> list[bytes]:
        return [shard.step(settled) for shard in self._shards]

    def observations(self) -> list[bytes]:
        return [shard.observation() for shard in self._shards]

    def first_samples(self) -> bytes:
        return self._shards[0].first_samples()

    def samples(self, digests: Sequence[Sequence[bytes]]) -> list[bytes]:
        return [one.samples(asked) for one, asked in zip(self._shards, digests, strict=True)]


def batches_of(samples: Array, sizes: Sequence[int]) -> list[Array]:
    return np.split(samples, np.cumsum(sizes)[:-1])


def in_shards(
    file: Path,
    samples: Array,
    ranges: Sequence[range],
    *,
    execution: Execution,
    estimator: str = "auto",
    step: int = 32,
    **options: Any,
) -> Artifact:
    """Return what a run assembles from shards of consecutive ranges of samples."""
    with ExitStack() as stack:
        shards = [
            stack.enter_context(
                open_recorded_shard(
                    file,
                    [
                        samples[i : min(i + step, part.stop)]
                        for i in range(part.start, part.stop, step)
                    ],
                    RecalibrateOptions(threads=1, allow_mismatch=bool(number) or bool(options)),
                    start=part.start,
                    execution=execution,
                )
            )
            for number, part in enumerate(ranges)
        ]
        given = RecalibrateOptions(
            estimator=as_estimator(estimator),
            compare=True,
            threads=1,
            shards=Shards(shards, execution),
            **options,
        )
        return adapt_with(file, (), given, Deployment(), threads=1)


def report_of(artifact: Artifact) -> dict[str, Any]:
    """Return the report without its times."""
    found = artifact.report.to_json()
    found.pop("timings")
    found.pop("origin")
    return dict(found)


@pytest.fixture(params=NETWORKS)
def execution(request: pytest.FixtureRequest) -> Execution:
    found: Execution = request.param
    return found


@pytest.mark.parametrize(("shards", "estimator"), [(1, "auto"), (2, "shrink"), (4, "auto")])
def test_shards_give_the_artifact_of_one_process(
    tmp_path: Path, execution: Execution, shards: int, estimator: str
) -> None:
    file = tmp_path / "model.onnx"
    onnx.save(NETWORKS[execution], file)
    samples = images(300)
    samples[40] = samples[250]  # a sample that occurs in two shards counts once in the probe
    whole = bn_ops.adapt(
        file,
        batches_of(samples, [32] * 9 + [12]),
        estimator=estimator,
        threads=1,
        allow_mismatch=True,
    )
    found = in_shards(
        file,
        samples,
        bn_ops.shard_ranges(len(samples), shards),
        execution=execution,
        estimator=estimator,
        allow_mismatch=True,
    )
    assert encode_statistics(found.statistics) == encode_statistics(whole.statistics)
    assert serialized(found.model) == serialized(whole.model)
    assert serialized(found.unfolded) == serialized(whole.unfolded)
    assert report_of(found) == report_of(whole)


def test_implausible_samples_are_refused_as_in_one_process(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    onnx.save(NETWORKS["optimized"], file)
    samples = 1000 + 0 * images(130)
    with pytest.raises(InputMismatchError) as whole:
        bn_ops.adapt(file, batches_of(samples, [32] * 4 + [2]), threads=1)
    with pytest.raises(InputMismatchError) as found:
        in_shards(file, samples, bn_ops.shard_ranges(130, 2), execution="optimized")
    assert found.value.message == whole.value.message


def test_shards_with_other_samples_than_they_measured_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    onnx.save(NETWORKS["optimized"], file)
    options = RecalibrateOptions(threads=1, allow_mismatch=True)
    with open_recorded_shard(file, [images(70)], options, start=0, execution="optimized") as shard:

        class Forgetful(Shards):
            def observations(self) -> list[bytes]:
                (whole,) = map(ShardObservation.from_bytes, super().observations())
                part = ShardObservation(
                    batches=1, digests=whole.digests[1:], features=whole.features[1:]
                )
                return [part.to_bytes()]

        given = RecalibrateOptions(
            compare=True, allow_mismatch=True, shards=Forgetful([shard], "optimized")
        )
        with pytest.raises(ShardMismatchError, match="measured 70 samples and observed 69"):
            adapt_with(file, (), given, Deployment())


@pytest.mark.parametrize("other", [{"method": "batch"}, {"max_samples": 5}, {"source_batches": ()}])
def test_shards_do_not_serve_other_runs(other: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match='shards need method="exact", all samples'):
        RecalibrateOptions(shards=Shards([], "auto"), **other)


@pytest.mark.parametrize("execution", ["optimized", "graph"])
def test_trial_finds_execution_and_waiting_bytes(tmp_path: Path, execution: Execution) -> None:
    file = tmp_path / "model.onnx"
    onnx.save(NETWORKS[execution], file)
    found = try_execution(file, images(16), RecalibrateOptions(threads=1, allow_mismatch=True))
    assert found.execution == execution
    # At the widest level the outputs of a block's convolution and its input wait: 8 channels each.
    plane = 12 * 12 * 4
    assert plane * 5 <= found.waiting_bytes <= plane * 40


def test_a_shard_gives_only_samples_that_it_keeps(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    onnx.save(NETWORKS["optimized"], file)
    options = RecalibrateOptions(threads=1, allow_mismatch=True)
    with open_recorded_shard(file, [images(16)], options, start=0, execution="optimized") as shard:
        with pytest.raises(ShardError, match="observed no samples"):
            shard.observation()
        shard.step(None)
        with pytest.raises(ShardError, match="that the shard does not keep"):
            shard.samples([b"\0" * 32])


OBSERVATION = ShardObservation(
    batches=2, digests=(b"a" * 32, b"b" * 32, b"c" * 32), features=np.arange(6.0).reshape(3, 2)
).to_bytes()
SAMPLES = samples_to_bytes([{"x": np.arange(6, dtype=np.float32).reshape(2, 3)}])


@pytest.mark.parametrize("damaged", [OBSERVATION[:-1], OBSERVATION + b"0", b"", b"x" * 40])
def test_damaged_observations_are_refused(damaged: bytes) -> None:
    with pytest.raises(ShardError):
        ShardObservation.from_bytes(damaged)


@pytest.mark.parametrize(
    "damaged",
    [
        SAMPLES[:-1],
        SAMPLES + b"0",
        b"",
        SAMPLES.replace(b"float32", b"object_"),
        SAMPLES.replace(b"float32", b"\xff" * 7),
        SAMPLES.replace(b"[2, 3]", b"[-2,3]"),
    ],
)
def test_damaged_samples_are_refused(damaged: bytes) -> None:
    with pytest.raises(ShardError):
        samples_from_bytes(damaged)


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "int64", "bool"])
def test_samples_keep_their_bytes(kind: str) -> None:
    dtype = np.dtype(ml_dtypes.bfloat16) if kind == "bfloat16" else np.dtype(kind)
    given = [{"x": np.arange(12).reshape(4, 3).T.astype(dtype)}, {"x": np.zeros((0, 2), dtype)}]
    found = samples_from_bytes(samples_to_bytes(given))
    for one, other in zip(found, given, strict=True):
        assert one["x"].dtype == dtype
        np.testing.assert_array_equal(one["x"], other["x"])
