"""Preprocessing from bnrecal's JSON, transformers' and timm's configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bn_ops
from bnrecal_client import OptionError
from bnrecal_client.cli.data.preprocess_files import read_preprocess

SHAPES = [("N", 3, 224, 224)]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def read(folder: Path, config: dict[str, Any]) -> bn_ops.Preprocess:
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return bn_ops.preprocess_from_json(read_preprocess(path, lambda: SHAPES))


def test_own_form_is_unchanged(tmp_path: Path) -> None:
    form = {"resize": 256, "crop": 224, "mean": MEAN, "std": STD}
    path = tmp_path / "p.json"
    path.write_text(json.dumps(form))
    assert read_preprocess(path, lambda: pytest.fail("the model is not needed")) == form


# From google/vit-base-patch16-224, microsoft/resnet-50 (older form) and apple/mobilevit-small.
VIT = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 224, "width": 224},
}
RESNET = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": MEAN,
    "image_std": STD,
    "resample": 3,
    "size": 224,
}
MOBILEVIT = {
    "crop_size": {"height": 256, "width": 256},
    "do_center_crop": True,
    "do_flip_channel_order": True,
    "do_rescale": True,
    "do_resize": True,
    "image_processor_type": "MobileViTImageProcessor",
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 288},
}


def test_hugging_face_configurations(tmp_path: Path) -> None:
    vit = read(tmp_path, VIT)
    assert vit.resize == bn_ops.Resize(size=(224, 224), interpolation="bilinear")
    assert (vit.crop, vit.mean, vit.std, vit.color) == (None, (0.5,) * 3, (0.5,) * 3, "rgb")
    assert vit.scale == pytest.approx(1 / 255)
    resnet = read(tmp_path, RESNET)
    assert resnet.resize == bn_ops.Resize(size=256, interpolation="bicubic")
    assert (resnet.crop, resnet.mean) == ((224, 224), tuple(MEAN))
    mobilevit = read(tmp_path, MOBILEVIT)
    assert mobilevit.resize == bn_ops.Resize(size=288)
    assert (mobilevit.crop, mobilevit.color, mobilevit.mean) == ((256, 256), "bgr", (0.0,))


def test_hugging_face_without_sizes_takes_those_of_the_model(tmp_path: Path) -> None:
    found = read(tmp_path, {"do_resize": False, "do_rescale": False, "do_normalize": False})
    assert found.resize == bn_ops.Resize(size=(224, 224))
    assert found.scale == 1.0


# From timm/resnet50.a1_in1k and a model with a test size.
TIMM: dict[str, Any] = {
    "architecture": "resnet50",
    "num_classes": 1000,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": MEAN,
        "std": STD,
    },
}


def test_timm_configurations(tmp_path: Path) -> None:
    found = read(tmp_path, TIMM)
    # As in timm: the floor of 224 / 0.95.
    assert found.resize == bn_ops.Resize(size=235, interpolation="bicubic")
    assert (found.crop, found.mean, found.std) == ((224, 224), tuple(MEAN), tuple(STD))
    flat = {**TIMM["pretrained_cfg"], "test_input_size": [3, 288, 288], "test_crop_pct": 1.0}
    larger = read(tmp_path, flat)
    assert larger.resize == bn_ops.Resize(size=288, interpolation="bicubic")
    assert larger.crop == (288, 288)
    gray = {**TIMM["pretrained_cfg"], "input_size": [1, 28, 28], "mean": [0.1], "std": [0.3]}
    assert read(tmp_path, gray).color == "gray"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({**VIT, "resample": 9}, "resample 9"),
        ({**VIT, "size": {"longest_edge": 9, "shortest_edge": 5}}, "longest_edge"),
        ({**VIT, "image_mean": "x"}, "image_mean is 'x'"),
        ({**TIMM["pretrained_cfg"], "input_size": 224}, "input_size is 224"),
        ({**TIMM["pretrained_cfg"], "crop_mode": "border"}, "crop_mode 'border'"),
        ({**TIMM["pretrained_cfg"], "mean": None}, "mean is None"),
    ],
)
def test_unknown_values_are_refused(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        read(tmp_path, config)


def test_missing_file_names_the_presets(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"not one of imagenet, .* no such file"):
        read_preprocess(tmp_path / "none.json", list)
