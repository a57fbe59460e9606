"""Four sets of photographs, and fourteen corruptions that run on the device of the network.

* A: animals and plants, B: other subjects, of Debian's tuxpaint-stamps-default. The stamps are
  cut-out photographs, here on a uniform background of random color.
* C: crops of the wallpapers of mate-backgrounds, gnome-backgrounds and ukui-wallpapers.
* F: crops of the twenty ImageNet pictures of the foolbox wheel, with their true labels.

Stream and test are other pictures in A and B, and other crops of the same pictures in F. In C they
are other crops, mostly of the same pictures. Every picture has 192x192 pixels and was stored as
JPEG of quality 93.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from benchmarks.accuracy.photographs import PHOTO_FOLDER, Pixels
from tests.support.real_models import packaged

__all__ = ["CORRUPTIONS", "Pictures", "corrupt", "read_pictures"]

SIZE = 192
BACKGROUNDS = Path("/usr/share/backgrounds")

_JPEG_QUALITY = 93
_SMALLEST_STAMP = 60  # pixels
_CROPS = 230  # of wallpapers
_FOOLBOX_CROPS = 10  # per picture

_STAMPS = {
    "A": ("animals", "plants"),
    "B": (
        *("food", "town", "vehicles", "household", "clothes", "hobbies", "sports", "space"),
        *("seasonal", "military", "medical", "naturalforces"),
    ),
}

_WALLPAPERS = (
    *("2004default.jpg", "calla.png", "goldfish.png", "firstgeneration.jpg", "the-mouse.jpg"),
    *("string.jpg", "rhythm.jpg", "mate/abstract/Elephants.jpg", "gnome/wood-l.webp"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """A set of photographs.

    Attributes:
        pixels: RGB, shape (n, 192, 192, 3).
        labels: ImageNet classes, shape (n,), where the source has them.
        crops: number of consecutive crops of each picture, shared out between stream and test.
    """

    pixels: Pixels
    labels: NDArray[np.int64] | None = None
    crops: int = 1


def read_pictures(name: str) -> Pictures:
    """Read a set, A, B, C or F.

    Raises:
        FileNotFoundError: its package is not installed; the message names the package.
    """
    if name in _STAMPS:
        return Pictures(pixels=_stored(_stamps(_STAMPS[name])))
    if name == "C":
        return Pictures(pixels=_stored(_wallpaper_crops()))
    pixels, labels = zip(*_foolbox_crops(), strict=True)
    return Pictures(pixels=_stored(pixels), labels=np.array(labels), crops=_FOOLBOX_CROPS)


def _stored(images: Iterator[Image.Image] | tuple[Image.Image, ...]) -> Pixels:
    """Return pixels after JPEG compression."""
    found = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
        found.append(np.asarray(Image.open(buffer)))
    return np.stack(found)


def _stamps(groups: tuple[str, ...]) -> Iterator[Image.Image]:
    if not PHOTO_FOLDER.is_dir():
        raise FileNotFoundError("install Debian's tuxpaint-stamps-default for sets A and B")
    count = 0
    for path in sorted(PHOTO_FOLDER.rglob("*.png"), key=str):
        if path.relative_to(PHOTO_FOLDER).parts[0] not in groups or "cartoon" in str(path):
            continue
        with Image.open(path) as file:
            stamp = file.convert("RGBA")
        if min(stamp.size) < _SMALLEST_STAMP:
            continue
        random = np.random.default_rng(count)
        count += 1
        side = int(max(stamp.size) * 1.15)
        color = (*(int(v) for v in random.integers(90, 255, 3)), 255)
        ground = Image.new("RGBA", (side, side), color)
        ground.alpha_composite(stamp, ((side - stamp.width) // 2, (side - stamp.height) // 2))
        yield ground.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def _wallpaper_crops() -> Iterator[Image.Image]:
    files = [
        *sorted((BACKGROUNDS / "mate" / "nature").glob("*.jpg")),
        *(BACKGROUNDS / name for name in _WALLPAPERS),
    ]
    missing = [str(path) for path in files if not path.exists()]
    if missing or len(files) == len(_WALLPAPERS):
        raise FileNotFoundError(
            "install Debian's mate-backgrounds, gnome-backgrounds and ukui-wallpapers for set C; "
            f"missing: {', '.join(missing) or BACKGROUNDS / 'mate' / 'nature'}"
        )
    count, each = 0, -(-_CROPS // len(files))
    for path in files:
        with Image.open(path) as file:
            picture = file.convert("RGB")
        picture.thumbnail((1200, 1200))
        for crop in range(each):
            random = np.random.default_rng([count, crop])
            count += 1
            yield _crop(picture, int(min(picture.size) * random.uniform(0.35, 0.9)), random)


def _foolbox_crops() -> Iterator[tuple[Image.Image, int]]:
    try:
        folder = packaged("foolbox", "foolbox/data")
        files = sorted(folder.glob("imagenet_*.jpg"), key=lambda path: path.name)
    except PackageNotFoundError:
        files = []
    if not files:
        raise FileNotFoundError("set F: pip install --no-deps foolbox==3.3.4")
    for path in files:
        label = int(path.stem.rpartition("_")[2])
        with Image.open(path) as file:
            picture = file.convert("RGB")
        for crop in range(_FOOLBOX_CROPS):
            random = np.random.default_rng([label, crop])
            cut = _crop(picture, int(min(picture.size) * random.uniform(0.75, 1)), random)
            if crop % 2:
                cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            yield cut, label


def _crop(picture: Image.Image, side: int, random: np.random.Generator) -> Image.Image:
    """Cut a square at a random place and resize it."""
    left = int(random.integers(0, picture.width - side + 1))
    top = int(random.integers(0, picture.height - side + 1))
    cut = picture.crop((left, top, left + side, top + side))
    return cut.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def corrupt(images: Tensor, name: str, *, seed: int) -> Tensor:
    """Corrupt images (n, 3, h, w) with values in [0, 1]; a seed determines the noise.

    The noise is drawn by the generator of the images' device.
    """
    generator = torch.Generator(device=images.device).manual_seed(seed)
    return CORRUPTIONS[name](images, generator).clamp(0, 1)


Corruption = Callable[[Tensor, torch.Generator], Tensor]


def _noise(strength: float) -> Corruption:
    """Return Gaussian sensor noise."""
    return lambda x, generator: x + strength * _normal(x, generator)


def _normal(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=x.device)


def _pointwise(change: Callable[[Tensor], Tensor]) -> Corruption:
    """Return a corruption that draws nothing."""
    return lambda x, _: change(x)


def _camera(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, darkness and noise of a poor camera."""
    return _blurred(x, 1.5) * 0.55 + 0.05 * _normal(x, generator)


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, mirrored at the edges."""
    radius = int(3 * sigma + 1)
    steps = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-(steps**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    for weight, pad in (
        (kernel, (radius, radius, 0, 0)),
        (kernel.transpose(2, 3), (0, 0, radius, radius)),
    ):
        x = functional.conv2d(functional.pad(x, pad, "reflect"), weight, groups=x.shape[1])
    return x


def _tinted(x: Tensor) -> Tensor:
    return x * torch.tensor([0.45, 0.55, 0.8], device=x.device)[:, None, None]


def _pixelated(x: Tensor) -> Tensor:
    coarse = functional.interpolate(x, size=32, mode="area")
    return functional.interpolate(coarse, size=x.shape[-1], mode="nearest")


CORRUPTIONS: Mapping[str, Corruption] = {
    "clean": _pointwise(lambda x: x),
    "noise": _noise(0.15),
    "contrast": _pointwise(lambda x: 0.5 + 0.3 * (x - 0.5)),
    "tint": _pointwise(_tinted),
    "camera": _camera,
    "blur": _pointwise(lambda x: _blurred(x, 3.0)),
    "fog": _pointwise(lambda x: 0.45 * x + 0.5),
    "bright": _pointwise(lambda x: x**0.5 * 1.15),
    "dark": _pointwise(lambda x: x * 0.25),
    "gray": _pointwise(lambda x: x.mean(1, keepdim=True).expand_as(x)),
    "pixelate": _pointwise(_pixelated),
    "hue": _pointwise(lambda x: x[:, [2, 0, 1]]),
    "gamma": _pointwise(lambda x: x**2.2),
    "noise2": _noise(0.3),
}
