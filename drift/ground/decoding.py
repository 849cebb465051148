"""Pictures as models see them: upright, in 8-bit RGB, whatever the file holds.

Needs Pillow and numpy alone: a registered model has this file beside its weights, where drift need not be installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

WHITES = (1, 255, 65535)
"""What wide values are taken to be scaled to: the smallest that none of them exceeds."""


def as_seen(image: Image.Image) -> Image.Image:
    """``image`` in RGB: turned as its EXIF says, wide values scaled to 8 bits, transparency laid on white.

    Upright opaque images of 8 bits come out as Pillow's ``convert("RGB")`` makes them. A 16-bit value v becomes
    255·v/65535. Integers of 32 bits and floats have no white of their own: it is the smallest of `WHITES` that no pixel
    exceeds; where one exceeds all, or is negative, the extremes are white and black. What is no number is black.
    Raises what Pillow raises, of a broken file many kinds; ValueError if no pixel is a number.
    """
    image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _grey(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # of broken EXIF Pillow raises many kinds; viewers show such a picture as it is stored
        return image
    return ImageOps.exif_transpose(image) if turned else image


def _grey(image: Image.Image) -> Image.Image:
    """8 bits of grey; Pillow's own conversion cuts wide values off at 255."""
    values = np.asarray(image).astype(np.float64)
    black, white = (0.0, 65535.0) if image.mode.startswith("I;16") else _extremes(values)
    levels = np.nan_to_num((values - black) * (255 / (white - black)), nan=0.0, posinf=255.0, neginf=0.0)
    grey = levels.clip(0, 255).round().astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey)


def _extremes(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """The values that are shown black and white."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("no pixel is a finite number")
    low, high = float(finite.min()), float(finite.max())
    if low < 0:
        return low, high if high > low else low + 1
    return 0.0, next((float(white) for white in WHITES if high <= white), high)
