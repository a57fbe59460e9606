"""Capital letters in Debian's fonts: data of 26 classes that took no part in setting the rule.

Printed fonts (`fonts-liberation`, `fonts-dejavu-extra`, `fonts-dejavu-core`) train the networks.
Streams and tests have letters of other printed fonts (`fonts-freefont-ttf`), or of fonts that
imitate handwriting. Every letter is drawn at a random size, place and angle.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from examples.digits.data import LabeledImages

__all__ = ["CLASSES", "FONTS", "draw_letters"]

CLASSES = len(string.ascii_uppercase)

_FOLDER = Path("/usr/share/fonts")

FONTS: Mapping[str, Sequence[str]] = {
    "train": ("truetype/liberation/*.ttf", "truetype/dejavu/DejaVuS*.ttf"),
    "print": ("truetype/freefont/*.ttf",),
    "hand": (
        *("truetype/breip/*.ttf", "opentype/bwht/*.otf", "truetype/femkeklaver/*.ttf"),
        *("opentype/dancingscript/*.otf", "truetype/fifthhorseman/*.ttf"),
        *("truetype/humor-sans/*.ttf", "opentype/comic-neue/*.otf", "opentype/havana/*.otf"),
    ),
}
"""Patterns of the files of each set of fonts."""

_PACKAGES = (
    "fonts-liberation fonts-dejavu-core fonts-dejavu-extra fonts-freefont-ttf fonts-breip "
    "fonts-bwht fonts-femkeklaver fonts-dancingscript fonts-dkg-handwriting fonts-humor-sans "
    "fonts-comic-neue fonts-havana"
)

_CANVAS, _SIZE = 84, 28  # drawn three times as large as needed, then reduced
_FONT_SIZES = (42, 66)
_LARGEST_SHIFT, _LARGEST_ANGLE = 7, 12  # pixels of the canvas, degrees


def draw_letters(fonts: str, count: int, *, seed: int) -> LabeledImages:
    """Draw random letters, white on black.

    Args:
        fonts: a key of `FONTS`.
        count: number of letters.
        seed: of classes, fonts, sizes, places and angles.

    Raises:
        FileNotFoundError: a font is not installed; the message names the packages.
    """
    paths = []
    for pattern in FONTS[fonts]:
        found = sorted(_FOLDER.glob(pattern))
        if not found:
            raise FileNotFoundError(f"no {_FOLDER / pattern}: install Debian's {_PACKAGES}")
        paths += found
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    images = np.stack(
        [_draw(paths[random.integers(len(paths))], int(label), random) for label in labels]
    )
    return LabeledImages(images=images[:, None], labels=labels)


def _draw(path: Path, label: int, random: np.random.Generator) -> NDArray[np.float32]:
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    font = ImageFont.truetype(str(path), int(random.integers(*_FONT_SIZES)))
    shift = random.integers(-_LARGEST_SHIFT, _LARGEST_SHIFT + 1, 2)
    x, y = (int(_CANVAS // 2 + value) for value in shift)
    ImageDraw.Draw(canvas).text(
        (x, y), string.ascii_uppercase[label], fill=255, font=font, anchor="mm"
    )
    turned = canvas.rotate(
        float(random.uniform(-_LARGEST_ANGLE, _LARGEST_ANGLE)), Image.Resampling.BICUBIC
    )
    small = turned.resize((_SIZE, _SIZE), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / np.float32(255)
