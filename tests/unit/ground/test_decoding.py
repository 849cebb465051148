"""Pictures as models see them: ordinary files as Pillow and transformers show them, and no other ruined."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from drift.ground.decoding import as_seen
from drift.ground.torchvision import allow_cuda_torchvision_on_cpu

allow_cuda_torchvision_on_cpu()
from transformers.image_utils import load_image  # noqa: E402

RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)


def drawn(width=8, height=6):
    """A colour picture with no symmetry."""
    levels = np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3)
    return Image.fromarray(levels)


def stored(image, form="PNG", **options):
    """As it comes back from a file of that form."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


def turned(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def grey(image):
    """The levels of a picture that is grey."""
    levels = np.asarray(as_seen(image))
    assert levels.dtype == np.uint8 and (levels == levels[..., :1]).all()
    return levels[..., 0]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says_like_transformers_turns_it(orientation, form):
    kept = stored(drawn(), form, exif=turned(orientation))
    seen = as_seen(kept)
    assert seen.size == ((8, 6) if orientation < 5 else (6, 8))
    assert np.array_equal(seen, load_image(stored(drawn(), form, exif=turned(orientation))))


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        *((mode, "PNG") for mode in ("RGB", "L", "1", "P")),
        *((mode, "JPEG") for mode in ("RGB", "L", "CMYK")),
        *((mode, "TIFF") for mode in ("RGB", "L", "1", "P", "CMYK", "YCbCr")),
        *((mode, "GIF") for mode in ("L", "P")),
        ("RGB", "BMP"),
        ("RGB", "WEBP"),
        ("RGB", "PPM"),
    ],
)
def test_an_opaque_picture_of_eight_bits_is_what_pillow_and_transformers_make_of_it(mode, form):
    image = drawn().convert(mode)
    seen = as_seen(stored(image, form))
    assert seen.mode == "RGB"
    assert np.array_equal(seen, stored(image, form).convert("RGB"))
    assert np.array_equal(seen, load_image(stored(image, form)))


@given(st.integers(1, 5), st.integers(1, 5), st.randoms(use_true_random=False))
def test_any_upright_picture_without_transparency_keeps_every_pixel(width, height, draw):
    image = Image.frombytes("RGB", (width, height), draw.randbytes(width * height * 3))
    assert np.array_equal(as_seen(stored(image)), image)
    assert np.array_equal(as_seen(stored(image.convert("RGBA"))), image)


def test_transparency_is_laid_on_white():
    # 255 · (1 − 51/255) = 204 of white, and 51/255 of the colour: 0.2 · (255, 0, 0) + (204, 204, 204)
    assert as_seen(stored(Image.new("RGBA", (1, 1), (255, 0, 0, 51)))).getpixel((0, 0)) == (255, 204, 204)
    assert as_seen(stored(Image.new("LA", (1, 1), (0, 51)))).getpixel((0, 0)) == (204, 204, 204)
    assert as_seen(stored(Image.new("RGBA", (1, 1), (0, 0, 0, 0)))).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("mode", "key"), [("P", 1), ("L", 1), ("RGB", (1, 1, 1)), ("I;16", 1)])
def test_the_colour_that_a_file_calls_transparent_is_white(mode, key):
    image = Image.new(mode, (2, 1), 0)
    if mode == "P":
        image.putpalette([0, 0, 0, 9, 9, 9])
    image.putpixel((1, 0), key)
    seen = as_seen(stored(image, transparency=key))
    assert [seen.getpixel(place) for place in ((0, 0), (1, 0))] == [(0, 0, 0), (255, 255, 255)]


def test_a_palette_with_transparency_is_as_pillow_lays_it_on_white():
    image = drawn().convert("P")
    alpha = bytes(range(256))
    seen = as_seen(stored(image, transparency=alpha))
    colours = stored(image, transparency=alpha).convert("RGBA")
    assert np.array_equal(seen, Image.alpha_composite(Image.new("RGBA", (8, 6), "white"), colours).convert("RGB"))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_cut_off(form):
    image = Image.fromarray(RAMP * 257)  # 65535 / 255 = 257: the levels 0 to 255
    assert np.array_equal(grey(stored(image, form)), RAMP)
    by_pillow = Image.fromarray((np.asarray(stored(image, form)) >> 8).astype(np.uint8))
    assert np.array_equal(as_seen(stored(image, form)), by_pillow.convert("RGB"))


def test_sixteen_bits_are_rounded_to_the_nearest_level():
    # 128 · 255/65535 = 0.498 is level 0, and 129 · 255/65535 = 0.502 is level 1
    assert grey(stored(Image.fromarray(np.array([[128, 129, 65535]], dtype=np.uint16)))).tolist() == [[0, 1, 255]]


def test_sixteen_bits_are_turned_too():
    image = Image.fromarray((RAMP * 257)[:4])
    assert as_seen(stored(image, exif=turned(6))).size == (4, 16)


def test_sixteen_bits_in_either_order_of_bytes_are_the_same_picture():
    little = Image.frombytes("I;16", (16, 16), (RAMP * 257).astype("<u2").tobytes())
    big = Image.frombytes("I;16B", (16, 16), (RAMP * 257).astype(">u2").tobytes())
    assert np.array_equal(grey(little), RAMP) and np.array_equal(grey(big), RAMP)


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 51.0, 255.0], [0, 51, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([0.0, 20000.0, 100000.0], [0, 51, 255]),
        ([0, 1, 1], [0, 255, 255]),
        ([0, 51, 255], [0, 51, 255]),
        ([0, 257, 65535], [0, 1, 255]),
        ([0, 20000, 100000], [0, 51, 255]),
    ],
)
def test_floats_and_long_integers_are_scaled_to_the_white_that_holds_them_all(values, levels):
    # of 1, 255 and 65535 the smallest that no pixel exceeds; beyond them the largest pixel
    kind = np.float32 if isinstance(values[0], float) else np.int32
    assert grey(stored(Image.fromarray(np.array([values], dtype=kind)), "TIFF")).tolist() == [levels]


def test_a_dark_float_picture_stays_dark():
    assert grey(stored(Image.fromarray(np.array([[0.0, 0.5]], dtype=np.float32)), "TIFF")).tolist() == [[0, 128]]
    assert grey(stored(Image.fromarray(np.array([[0.0, 51.0]], dtype=np.float32)), "TIFF")).tolist() == [[0, 51]]


def test_negative_values_are_shown_from_the_lowest_to_the_highest():
    values = np.array([[-3.0, -2.0, -1.0]], dtype=np.float32)
    assert grey(stored(Image.fromarray(values), "TIFF")).tolist() == [[0, 128, 255]]
    assert grey(stored(Image.fromarray(values[:, :1]), "TIFF")).tolist() == [[0]]


def test_what_is_no_number_is_black_and_what_is_infinite_is_at_the_end():
    values = np.array([[np.nan, 1.0, np.inf, -np.inf]], dtype=np.float32)
    assert grey(stored(Image.fromarray(values), "TIFF")).tolist() == [[0, 255, 255, 0]]


def test_a_picture_without_any_number_is_refused():
    with pytest.raises(ValueError, match="no pixel is a finite number"):
        as_seen(stored(Image.fromarray(np.full((2, 2), np.nan, dtype=np.float32)), "TIFF"))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_a_picture_whose_exif_is_broken_is_seen_as_it_is_stored():
    broken = b"Exif\x00\x00II*\x00\xff\xff\xff\xff"
    assert as_seen(stored(drawn(), "JPEG", exif=broken)).size == (8, 6)


def test_of_a_moving_picture_the_first_frame_is_seen():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    seen = as_seen(stored(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert seen.getpixel((0, 0)) == (255, 0, 0)
