"""A scene as an image: four 28 x 28 px cells in a row, palettised, four shades each.

Cells come from a fixed set of renderings per (label, value), of which some are held out for the test
split. A cell has exactly four shades between its background and its ink, so a scene has sixteen colours and is
a 4-bit PNG without loss: what is trained on is what the files hold.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from drift.planning.miniature.world import LABELS, MODULUS, Scene, Split

CELL_PIXELS = 28
SHADES = 4
RENDERINGS = {Split.TRAIN: 24, Split.TEST: 8}  # per (label, value)
INKS = ((170, 20, 20), (15, 110, 30), (25, 45, 180), (120, 20, 130), (130, 75, 0), (20, 20, 20))


@dataclass(frozen=True)
class Cell:
    """One rendering. ``shade`` [28, 28] uint8 in 0..3, ``palette`` [4, 3] uint8 RGB from background to ink."""

    shade: np.ndarray
    palette: np.ndarray

    def image(self) -> Image.Image:
        return _palettised(self.shade, self.palette).convert("RGB")


@cache
def cells(split: Split) -> dict[tuple[str, int], list[Cell]]:
    """All renderings of the split, per (label, value); the same in every process and for every seed."""
    rng = random.Random(f"cells-{split}")
    keys = [(label, value) for label in LABELS for value in range(MODULUS)]
    return {key: [_draw_cell(*key, rng) for _ in range(RENDERINGS[split])] for key in keys}


def choose_cells(scene: Scene, split: Split, rng: random.Random) -> list[int]:
    """One rendering number per cell of the scene."""
    return [rng.randrange(RENDERINGS[split]) for _ in scene.cells]


def scene_image(scene: Scene, split: Split, choice: list[int]) -> Image.Image:
    """The scene as a palettised image of 112 x 28 px with the chosen renderings."""
    chosen = [cells(split)[key][number] for key, number in zip(scene.cells, choice, strict=True)]
    shades = [cell.shade + SHADES * place for place, cell in enumerate(chosen)]
    return _palettised(np.concatenate(shades, axis=1), np.concatenate([cell.palette for cell in chosen]))


def scene_png(scene: Scene, split: Split, rng: random.Random) -> bytes:
    """The scene as PNG bytes (about 0.6 KB) with random renderings of the split."""
    buffer = io.BytesIO()
    scene_image(scene, split, choose_cells(scene, split, rng)).save(buffer, "PNG", bits=4, optimize=True)
    return buffer.getvalue()


def _draw_cell(label: str, value: int, rng: random.Random) -> Cell:
    mask = Image.new("L", (CELL_PIXELS, CELL_PIXELS), 0)
    draw = ImageDraw.Draw(mask)
    x, y = rng.randint(-1, 1), rng.randint(-1, 1)
    draw.text((3 + x, 6 + y), label, fill=255, font=ImageFont.load_default(size=13))
    draw.text((12 + x, 2 + y), str(value), fill=255, font=ImageFont.load_default(size=21))
    mask = mask.rotate(rng.uniform(-5, 5), resample=Image.Resampling.BILINEAR)
    shade = np.rint(np.asarray(mask, dtype=np.float32) / 255 * (SHADES - 1)).astype(np.uint8)
    return Cell(shade, _palette(rng))


def _palette(rng: random.Random) -> np.ndarray:
    background = np.array([rng.randint(200, 255) for _ in range(3)], dtype=np.float32)
    ink = np.array(rng.choice(INKS), dtype=np.float32)
    steps = np.linspace(0, 1, SHADES, dtype=np.float32)[:, None]
    return np.rint(background * (1 - steps) + ink * steps).astype(np.uint8)


def _palettised(shade: np.ndarray, palette: np.ndarray) -> Image.Image:
    image = Image.new("P", (shade.shape[1], shade.shape[0]))
    image.frombytes(np.ascontiguousarray(shade, dtype=np.uint8).tobytes())
    image.putpalette(palette.flatten().tolist())
    return image
