import io
import random

import numpy as np
from PIL import Image

from drift.planning.miniature import dialogs, render
from drift.planning.miniature import tokenizer as tk
from drift.planning.miniature.world import Scene, Split

SCENE = Scene((("c", 2), ("a", 3), ("d", 5), ("b", 0)))


def test_train_and_test_renderings_are_disjoint():
    pixels = {
        split: {cell.image().tobytes() for bank in render.cells(split).values() for cell in bank} for split in Split
    }
    assert len(pixels[Split.TRAIN]) == 28 * render.RENDERINGS[Split.TRAIN]
    assert not pixels[Split.TRAIN] & pixels[Split.TEST]


def test_a_png_holds_exactly_the_pixels_of_its_cells_and_is_small():
    encoded = render.scene_png(SCENE, Split.TEST, random.Random(0))
    choice = render.choose_cells(SCENE, Split.TEST, random.Random(0))
    decoded = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    assert decoded.shape == (28, 112, 3)
    assert len(encoded) < 1000
    third = render.cells(Split.TEST)["d", 5][choice[2]].image()
    assert (decoded[:, 56:84] == np.asarray(third)).all()


def test_patches_put_together_from_cells_equal_the_image_processors():
    choice = render.choose_cells(SCENE, Split.TEST, random.Random(0))
    image = render.scene_image(SCENE, Split.TEST, choice)
    inputs = tk.build_processor().image_processor([image], return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [list(dialogs.GRID)]
    assert (inputs["pixel_values"] == dialogs.scene_patches(SCENE, Split.TEST, choice)).all()
