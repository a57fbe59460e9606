from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from examples.digits.data import (
    enlarge,
    load_mnist,
    load_sklearn_digits,
    ragged_batches,
    split,
)

DIGITS = Path(__file__).parents[3] / "examples" / "digits"


def test_sets_share_form_and_range() -> None:
    for data, count in ((load_mnist(), 5_000), (load_sklearn_digits(), 1_797)):
        assert data.images.shape == (count, 1, 28, 28)
        assert data.images.dtype == np.float32
        assert (data.images.min(), data.images.max()) == (0.0, 1.0)
        assert data.labels.shape == (count,)
        assert set(data.labels.tolist()) == set(range(10))


def test_digits_have_mnist_border() -> None:
    images = load_sklearn_digits().images
    assert not images[..., :4, :].any()
    assert not images[..., -4:].any()
    inked = np.asarray(images.any(axis=(0, 1)))
    assert inked[4:24].any(axis=1).all()
    assert inked[:, 4:24].any(axis=0).all()


def test_enlarge_equals_torch_bilinear() -> None:
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(3).random((5, 8, 8))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(images)[:, None], size=20, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(enlarge(images, 20), expected[:, 0].numpy(), rtol=0, atol=1e-12)


def test_split_is_complete_and_deterministic() -> None:
    data = load_sklearn_digits()
    first, rest = split(data, 900)
    again, _ = split(data, 900)
    assert (len(first.labels), len(rest.labels)) == (900, 897)
    np.testing.assert_array_equal(first.images, again.images)
    both = np.concatenate([first.images, rest.images]).reshape(1_797, -1)
    whole = data.images.reshape(1_797, -1)
    np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(whole, axis=0))


def test_ragged_batches_keep_order() -> None:
    images = np.arange(900 * 784, dtype=np.float32).reshape(900, 1, 28, 28)
    batches = ragged_batches(images)
    np.testing.assert_array_equal(np.concatenate(batches), images)
    sizes = [len(batch) for batch in batches]
    assert len(set(sizes)) > 10
    assert max(sizes) <= 64


def test_readme_states_checkpoint_digest() -> None:
    content = (DIGITS / "mnist_resnet.onnx").read_bytes()
    note = (DIGITS / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(content).hexdigest() in note
    assert f"{len(content):,} bytes" in note
