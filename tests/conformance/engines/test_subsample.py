"""A choice of samples depends on their content and the seed alone, and so do the results."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import bn_ops
from bn_ops.core.options import Budget, silent
from bn_ops.core.subsample import OccurrenceCounter, SampleStore
from bn_ops.errors import BatchNotFiniteError, OptionError, SpillLimitError, StreamEmptyError
from bn_ops.pipeline.subsample import ChosenSamples
from bn_ops.result import encode_statistics
from tests.support.networks import images, residual_network
from tests.support.oracle import oracle_statistics, residual

Samples = NDArray[np.float32]


def oracle(samples: Samples, max_samples: int, seed: int) -> list[int]:
    """Return the positions of the chosen samples, in the order of their keys."""
    seen = Counter[bytes]()
    keys = []
    for index, sample in enumerate(samples):
        content = sample.tobytes()
        digest = hashlib.sha256(content).digest()
        keys.append(
            (
                hashlib.sha256(
                    seed.to_bytes(8, "big") + digest + seen[content].to_bytes(8, "big")
                ).digest(),
                index,
            )
        )
        seen[content] += 1
    return [index for _, index in sorted(keys)[:max_samples]]


def cut(samples: Samples, sizes: Sequence[int]) -> list[Samples]:
    """Cut samples into batches of the given sizes, repeated."""
    found, start, turn = [], 0, 0
    while start < len(samples):
        stop = start + sizes[turn % len(sizes)]
        found.append(samples[start:stop])
        start, turn = stop, turn + 1
    return found


def stream_with_repeats(count: int = 90, distinct: int = 60) -> Samples:
    found = images(distinct)
    return np.concatenate([found, found[: count - distinct]])


def tiny_module() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1)
    ).eval()


class Rows:
    """A `BatchAdapter` for arrays."""

    def digests(self, batch: Samples) -> list[bytes]:
        return [hashlib.sha256(row.tobytes()).digest() for row in batch]

    def pack(self, batch: Samples, index: int) -> tuple[Any, NDArray[np.uint8]]:
        return batch.shape[1:], batch[index].copy().reshape(-1).view(np.uint8)

    def unpack(self, form: Any, data: NDArray[np.uint8]) -> Samples:
        return data.view(np.float32).reshape(1, *form)

    def join(self, samples: Sequence[Samples]) -> list[Samples]:
        return [np.concatenate(samples)]


def run(model: Any, batches: Any, **options: Any) -> Any:
    source = copy.deepcopy(model) if isinstance(model, torch.nn.Module) else model
    if not isinstance(model, torch.nn.Module):
        options["threads"] = 1
    return bn_ops.recalibrate(source, batches, allow_mismatch=True, **options)


@pytest.mark.parametrize("model", [residual_network(), tiny_module()], ids=["onnx", "torch"])
@settings(max_examples=6, deadline=None)
@given(
    order=st.permutations(range(90)),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    count=st.sampled_from([1, 17, 89, 90, 200]),
    seed=st.integers(0, 3),
)
def test_any_order_and_any_batches_give_the_same_bytes(
    model: Any, order: list[int], sizes: list[int], count: int, seed: int
) -> None:
    samples = stream_with_repeats()
    options = {"max_samples": count, "seed": seed, "compare": True}
    once = run(model, [samples], **options)
    again = run(model, cut(samples[order], sizes), **options)
    assert encode_statistics(once.statistics) == encode_statistics(again.statistics)
    assert once.report.stream.sha256 == again.report.stream.sha256
    assert once.report.stream.subsample == again.report.stream.subsample
    assert once.report.prediction_shift == again.report.prediction_shift


@pytest.mark.parametrize("seed", [0, 7])
def test_chosen_samples_are_those_of_the_definition(seed: int) -> None:
    samples = stream_with_repeats()
    positions = oracle(samples, 25, seed)
    found = run(residual_network(), cut(samples, [7]), max_samples=25, seed=seed, compare=True)
    digests = hashlib.sha256()
    for position in positions:
        digests.update(hashlib.sha256(samples[position].tobytes()).digest())
    assert found.report.stream.sha256 == digests.hexdigest()
    expected = oracle_statistics(residual_network(), {"x": samples[positions]})
    measured = {name: (s.mean, s.var) for name, s in found.statistics.items()}
    assert residual(measured, expected) < 1e-5
    # The same samples as an ordinary stream give the same bytes.
    plain = run(residual_network(), cut(samples[positions], [16]))
    assert encode_statistics(plain.statistics) == encode_statistics(found.statistics)


def test_engines_choose_the_same_samples() -> None:
    module, samples = tiny_module(), stream_with_repeats()
    exported = bn_ops.export(module, samples[:2])
    options = {"max_samples": 20, "seed": 3, "compare": True}
    first = run(module, cut(samples, [8]), **options)
    second = run(exported, cut(samples, [11]), **options)
    assert first.report.stream.sha256 == second.report.stream.sha256


def test_report_has_the_choice() -> None:
    report = run(residual_network(), cut(images(50), [8]), max_samples=25, seed=5).report
    found = report.stream.subsample
    assert (found.max_samples, found.seed, found.seen, found.chosen) == (25, 5, 50, 25)
    assert found.standard_error == pytest.approx(0.2)
    assert (report.stream.samples, report.stream.batches) == (25, 2)
    assert report.to_json()["stream"]["subsample"]["seen"] == 50
    assert run(residual_network(), [images(4)]).report.stream.subsample is None


def test_correlation_is_that_of_the_order_of_the_stream() -> None:
    rng = np.random.default_rng(0)
    levels = np.repeat(rng.normal(0, 3, 20), 20)[:, None, None, None]
    samples = (rng.normal(0, 0.1, (400, 3, 16, 16)) + levels).astype(np.float32)
    assert run(residual_network(), [samples], max_samples=300).report.stream.correlation.suspicious
    mixed = samples[rng.permutation(400)]
    found = run(residual_network(), [mixed], max_samples=300).report.stream.correlation
    assert not found.suspicious


def test_every_sample_is_equally_likely() -> None:
    """Chi-square over 2,000 seeds, with a content that occurs twice."""
    samples = images(19, size=4)
    samples = np.concatenate([samples, samples[:1]])
    counts = np.zeros(20)
    for seed in range(2000):
        adapter: Any = Rows()
        chosen: ChosenSamples[Samples] = ChosenSamples(
            iter([samples]), adapter, max_samples=5, seed=seed, budget=Budget(), progress=silent
        )
        found = np.concatenate(list(chosen))
        assert len(found) == 5
        counts[chosen.positions] += 1
    # The draws of one seed are without replacement: a count has the variance n·p·(1 - p), and the
    # sum of squares 19/20 of that of independent counts.
    chi_square = float(((counts - 500) ** 2).sum()) / (2000 * 0.25 * 0.75) * 19 / 20
    assert chi_square < 43.8  # 0.999 quantile of 19 degrees of freedom


@given(st.lists(st.integers(0, 30), max_size=300))
def test_occurrences_are_counted(values: list[int]) -> None:
    counter, seen = OccurrenceCounter(), Counter[int]()
    for value in values:
        digest = hashlib.sha256(bytes([value])).digest()
        assert counter.count(digest) == seen[value]
        seen[value] += 1


def test_occurrences_are_counted_across_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bn_ops.core.subsample._MIN_PORTION", 8)
    counter = OccurrenceCounter()
    digests = [hashlib.sha256(value.to_bytes(4, "big")).digest() for value in range(500)]
    assert [counter.count(one) for one in digests] == [0] * 500
    assert [counter.count(one) for one in reversed(digests)] == [1] * 500
    assert counter.count(digests[3]) == 2


@pytest.mark.parametrize("model", [residual_network(), tiny_module()], ids=["onnx", "torch"])
def test_files_give_the_same_bytes(model: Any, tmp_path: Path) -> None:
    batches = cut(stream_with_repeats(), [8])
    memory = run(model, batches, max_samples=40)
    small = images(1).nbytes * 4 * 10  # ten samples stay in memory
    budget = Budget(memory_bytes=small, spill_folder=tmp_path)
    files = run(model, batches, max_samples=40, budget=budget)
    assert encode_statistics(memory.statistics) == encode_statistics(files.statistics)
    assert list(tmp_path.iterdir()) == []


def test_places_in_the_file_are_used_again(tmp_path: Path) -> None:
    with SampleStore(Budget(memory_bytes=0, spill_folder=tmp_path)) as store:
        first, second = (store.keep(np.full(100, n, np.uint8)) for n in (1, 2))
        store.drop(first)
        third = store.keep(np.full(100, 3, np.uint8))
        assert store.file_bytes == 200
        assert [store.take(place)[0] for place in (second, third)] == [2, 3]


def test_limits_of_the_budget_hold(tmp_path: Path) -> None:
    budget = Budget(memory_bytes=0, spill_bytes=images(1).nbytes * 3, spill_folder=tmp_path)
    with pytest.raises(SpillLimitError, match="lower max_samples"):
        run(residual_network(), [images(8)], max_samples=4, budget=budget)
    missing = Budget(memory_bytes=0, spill_folder=tmp_path / "missing")
    with pytest.raises(SpillLimitError, match="cannot write samples"):
        run(residual_network(), [images(8)], max_samples=4, budget=missing)


def test_inputs_of_all_kinds_are_chosen() -> None:
    rng = np.random.default_rng(0)

    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = torch.nn.BatchNorm1d(3)

        def forward(self, x: torch.Tensor, *, scale: float, mask: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.bn(x * scale * mask.unsqueeze(1).to(x.dtype))
            return y

    module = Two().eval()
    x = torch.from_numpy(rng.normal(0, 1, (40, 3)).astype(np.float32))
    mask = torch.from_numpy(rng.integers(0, 2, 40)).bool()
    batches = [{"x": x[i : i + 8], "mask": mask[i : i + 8], "scale": 2.0} for i in range(0, 40, 8)]
    found = run(module, batches, max_samples=40)
    expected = (x * 2 * mask.unsqueeze(1)).double()
    np.testing.assert_allclose(found.statistics["bn"].mean, expected.mean(0), atol=1e-6)


def test_progress_and_faults_name_the_batches_of_the_stream() -> None:
    steps: list[bn_ops.Progress] = []
    run(residual_network(), cut(images(40), [4]), max_samples=8, progress=steps.append)
    sampling = [step.done for step in steps if step.phase == "sampling"]
    assert sampling == list(range(1, 11))
    batches = cut(images(40), [4])
    batches[7][1] = np.nan
    with pytest.raises(BatchNotFiniteError, match="batch 7"):
        run(residual_network(), batches, max_samples=8)
    with pytest.raises(StreamEmptyError):
        run(residual_network(), [], max_samples=8)


@pytest.mark.parametrize(
    "options",
    [
        {"max_samples": 0},
        {"max_samples": True},
        {"max_samples": 2.5},
        {"max_samples": 4, "seed": -1},
        {"max_samples": 4, "seed": 1 << 53},
        {"seed": 1},
        {"max_samples": 4, "method": "batch"},
    ],
)
def test_invalid_options(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"max_samples|seed"):
        run(residual_network(), [images(8)], **options)


def test_batches_of_call_cannot_be_split() -> None:
    with pytest.raises(OptionError, match="call="):
        run(
            tiny_module(),
            [torch.from_numpy(images(4))],
            call=lambda m, b: m(b),
            max_samples=2,
        )


def test_any_number_of_shards_gives_the_same_bytes() -> None:
    """The chosen samples are an ordinary stream, which may be cut."""
    model, samples = residual_network(), images(400)
    whole = run(model, cut(samples, [32]), max_samples=200, seed=1)
    stream = samples[oracle(samples, 200, 1)]
    plan = bn_ops.plan_measurement(model)
    for count in (1, 2, 3):
        shards = [
            bn_ops.open_shard(
                model,
                cut(stream[part.start : part.stop], [16]),
                plan,
                start=part.start,
                threads=1,
                allow_mismatch=True,
            )
            for part in bn_ops.shard_ranges(len(stream), count)
        ]
        found = bn_ops.Conductor(plan, [shard.step for shard in shards]).run()
        for shard in shards:
            shard.close()
        assert encode_statistics(found.statistics) == encode_statistics(whole.statistics)
