"""Labels that come with the batches: never sent, and used for the comparison on request."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, TensorDataset

import bn_ops
from bnrecal_client import BatchError, Client, Images, OptionError
from bnrecal_client._encoding.batches import encode, split_labels
from tests.support.client_server import MODEL, ClientServer
from tests.support.fake_time import FakeTime
from tests.support.played_clients import Calls, check_statistics, played, stream

DIGITS = Path(__file__).parents[3] / "examples" / "digits" / "mnist_resnet.onnx"
X = np.zeros((4, 3), np.float32)
Y = np.arange(4)


@pytest.mark.parametrize(
    ("item", "inputs", "batch", "labels"),
    [
        (X, ["x"], X, None),
        ((X, Y), ["x"], X, Y),
        ([X, torch.arange(4)], ["x"], X, torch.arange(4)),
        ((X, X, Y), ["a", "b"], (X, X), Y),
        (((X, X), Y), ["a", "b"], (X, X), Y),
        (({"a": X, "b": X}, Y), ["a", "b"], {"a": X, "b": X}, Y),
        ((X, X), ["a", "b"], (X, X), None),
        # Token ids and a mask, of which the model takes both.
        ((Y[:, None], Y[:, None]), ["ids", "mask"], (Y[:, None], Y[:, None]), None),
        # Two float arrays for one input are a mistake, not labels.
        ((X, X), ["x"], (X, X), None),
        ((X, ["cat", "dog", "cat", "dog"]), ["x"], X, ["cat", "dog", "cat", "dog"]),
        ({"x": X, "labels": Y}, ["x"], {"x": X}, Y),
        ({"x": X, "label": Y}, ["x", "label"], {"x": X, "label": Y}, None),
        ({"x": X, "mask": Y}, ["x"], {"x": X, "mask": Y}, None),
        ((Images(items=(("a", b"x"),)), [3]), ["x"], Images(items=(("a", b"x"),)), [3]),
    ],
)
def test_split(item: Any, inputs: list[str], batch: Any, labels: Any) -> None:
    found, rest = split_labels(item, inputs)
    assert str(found) == str(batch)
    assert str(rest) == str(labels)


def digests(batches: list[NDArray[np.float32]]) -> list[str]:
    """Return the digests of batches that hold nothing but the input."""
    return [encode({"x": batch}, ["x"], index=0).sha256 for batch in batches]


class Batch(UserDict[str, Any]):
    """A mapping that is not a dict, like `BatchEncoding` of transformers."""


class Columns:
    """Has the methods of a Hugging Face `datasets.Dataset` that are used.

    The real one needs a newer numpy than the lowest that is supported: tests/e2e/test_data_sets.py.
    """

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self._rows = rows
        self._format = ""

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter({"x": row.tolist(), "label": 1} for row in self._rows)

    def with_format(self, kind: str) -> Columns:
        other = Columns(self._rows)
        other._format = kind
        return other

    def iter(self, batch_size: int) -> Iterator[dict[str, Any]]:
        assert self._format == "numpy"
        for start in range(0, len(self._rows), batch_size):
            rows = self._rows[start : start + batch_size]
            yield {"x": rows, "label": np.ones(len(rows), np.int64)}


class Elements:
    """Has the methods of a `tf.data.Dataset` of batches that are used."""

    def __init__(self, batches: list[Any]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("its tensors are converted one by one")

    def as_numpy_iterator(self) -> Iterator[Any]:
        return iter(self._batches)


class Tensor:
    """An array of another library, as TensorFlow's, which numpy converts by its protocol."""

    def __init__(self, array: NDArray[np.generic]) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> NDArray[np.generic]:
        return np.array(self._array, dtype=dtype, copy=copy)


def shapes_of_a_stream(tmp_path: Path) -> dict[str, Any]:
    batches = stream()
    labels = [np.zeros(len(batch), np.int64) for batch in batches]
    whole = np.concatenate(batches)
    mapped = np.memmap(tmp_path / "x.raw", np.float32, "w+", shape=whole.shape)
    mapped[:] = whole
    set_ = TensorDataset(torch.from_numpy(whole), torch.zeros(len(whole), dtype=torch.int64))
    return {
        "pairs": list(zip(batches, labels, strict=True)),
        "DataLoader": DataLoader(set_, batch_size=5),
        "dicts": [{"x": one, "labels": two} for one, two in zip(batches, labels, strict=True)],
        "BatchEncoding": [
            Batch(x=one, labels=two) for one, two in zip(batches, labels, strict=True)
        ],
        "datasets.Dataset": Columns(whole),
        "tf.data.Dataset": Elements(list(zip(batches, labels, strict=True))),
        "tensors of TensorFlow": [
            (Tensor(one), Tensor(two)) for one, two in zip(batches, labels, strict=True)
        ],
        "memmap": mapped,
        "memmap in parts": np.array_split(mapped, 4),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "pairs",
        "DataLoader",
        "dicts",
        "BatchEncoding",
        "datasets.Dataset",
        "tf.data.Dataset",
        "tensors of TensorFlow",
        "memmap",
        "memmap in parts",
    ],
)
def test_streams_of_other_libraries(
    client: Calls, server: ClientServer, tmp_path: Path, kind: str
) -> None:
    batches = shapes_of_a_stream(tmp_path)[kind]
    result = client.recalibrate(MODEL, batches)
    check_statistics(result, stream())
    # 20 samples are one batch.
    whole = kind in {"datasets.Dataset", "memmap"}
    expected = digests([np.concatenate(stream())] if whole else stream())
    assert list(server.stored(server.id).values()) == expected


def test_samples_of_a_data_set_are_sent_in_batches(
    server: ClientServer, time: FakeTime, tmp_path: Path
) -> None:
    whole = np.concatenate(stream(15))
    mapped = np.memmap(tmp_path / "x.raw", np.float32, "w+", shape=whole.shape)
    mapped[:] = whole
    for samples in (Columns(whole), mapped):
        steps: list[Any] = []
        with played(server.transport, time) as client:
            check_statistics(client.recalibrate(MODEL, samples, progress=steps.append), [whole])
        # 75 samples in batches of 32, announced before the first is read.
        assert {one.total for one in steps if one.phase == "sending"} == {3}


def test_two_float_arrays_for_one_input_are_still_an_error(client: Calls) -> None:
    with pytest.raises(BatchError, match="select=lambda item"):
        client.recalibrate(MODEL, [(X, X)])


def digits(seed: int, count: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.normal(0.2, 0.4, (count, 1, 28, 28)).astype(np.float32)


def test_labels_of_the_batches_are_kept_for_the_comparison(
    server: ClientServer, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnrecal_client import _library

    compared: list[Any] = []

    def compare(self: Any, result: Any, *_: Any) -> Any:
        compared.extend(self.pairs)
        return result

    monkeypatch.setattr(_library.LabeledSamples, "compare", compare)
    batches = stream(300)
    pairs = [(one, np.full(len(one), number)) for number, one in enumerate(batches)]
    with played(server.transport, time) as client:
        client.recalibrate(MODEL, pairs, evaluate="batches")
    # 1,024 samples in batches of 5.
    assert len(compared) == 205
    assert [int(labels[0]) for _, labels in compared] == list(range(205))
    np.testing.assert_array_equal(compared[3][0], batches[3])


def test_missing_labels_are_an_error(server: ClientServer, time: FakeTime) -> None:
    with played(server.transport, time) as client:
        with pytest.raises(OptionError, match="no labeled sample"):
            client.recalibrate(MODEL, stream(), evaluate="batches")
        with pytest.raises(OptionError, match="'batch'"):
            client.recalibrate(MODEL, stream(), evaluate="batch")


def test_the_library_leaves_the_same_labels_out() -> None:
    batches = [digits(seed, 16) for seed in range(3)]
    labels = [np.zeros(len(batch), np.int64) for batch in batches]
    expected = bn_ops.recalibrate(DIGITS, batches, allow_mismatch=True)
    for labeled in (
        list(zip(batches, labels, strict=True)),
        [{"image": one, "label": two} for one, two in zip(batches, labels, strict=True)],
    ):
        found = bn_ops.recalibrate(DIGITS, labeled, allow_mismatch=True)
        for name, statistics in expected.statistics.items():
            np.testing.assert_array_equal(found.statistics[name].mean, statistics.mean)
            np.testing.assert_array_equal(found.statistics[name].var, statistics.var)


def module() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).eval()


def test_a_module_takes_the_pairs_of_a_loader() -> None:
    batches = [torch.from_numpy(batch) for batch in stream()]
    expected = bn_ops.recalibrate(module(), batches)
    pairs = [(batch, torch.zeros(len(batch), dtype=torch.int64)) for batch in batches]
    found = bn_ops.recalibrate(module(), pairs)
    for name, statistics in expected.statistics.items():
        np.testing.assert_array_equal(found.statistics[name].mean, statistics.mean)
    with pytest.raises(bn_ops.BnOpsError, match="select=lambda"):
        bn_ops.recalibrate(module(), [(batch, batch) for batch in batches])


def test_a_module_is_exported_without_the_labels(server: ClientServer, time: FakeTime) -> None:
    batches = [torch.from_numpy(batch) for batch in stream()]
    pairs = [(batch, torch.zeros(len(batch), dtype=torch.int64)) for batch in batches]
    server.executor.inputs = ("input",)
    with played(server.transport, time) as client:
        assert isinstance(client, Client)
        check_statistics(client.recalibrate(module(), pairs), stream())
