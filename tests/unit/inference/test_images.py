"""Images as models see them: found in any cell, decoded in one place for the trainer, the server and the benchmark."""

import base64
import io
import zlib

import pytest
from PIL import ExifTags, Image

from drift.ground.errors import DataError
from drift.inference.images import data_url, decode_image, encoded, find_image, image_bytes, image_size


def picture(size=(8, 6), orientation=1, form="PNG"):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, form, exif=exif)
    return buffer.getvalue()


def test_an_image_is_found_whatever_its_cell_holds(tmp_path):
    content = picture()
    (tmp_path / "a.png").write_bytes(content)
    text = base64.b64encode(content).decode()
    cells = [
        content,
        "a.png",
        str(tmp_path / "a.png"),
        text,
        f"data:image/png;base64,{text}",
        {"bytes": content, "path": None},
        {"bytes": None, "path": "a.png"},
        {"bytes": b"", "path": "a.png"},
    ]
    assert [encoded(find_image(cell, tmp_path)) for cell in cells] == [content] * len(cells)
    assert image_bytes(cells, tmp_path) == [content] * len(cells)


@pytest.mark.parametrize("cell", [None, "", " ", b"", "none.png", {"bytes": None, "path": None}, 7, []])
def test_a_cell_without_an_image_has_none(tmp_path, cell):
    assert image_bytes(cell, tmp_path) is None
    assert image_bytes([picture(), cell], tmp_path) is None


def test_base64_that_is_longer_than_a_file_s_name_may_be_is_still_an_image(tmp_path):
    text = base64.b64encode(bytes(range(256)) + b"\x00" * 100).decode().replace("/", "+")
    assert 255 < len(text) < 1024
    assert len(image_bytes(text, tmp_path)[0]) == 356


def test_the_size_is_the_one_a_viewer_shows():
    assert image_size(picture((8, 6), orientation=6, form="JPEG")) == (6, 8)
    assert image_size(picture((8, 6))) == (8, 6)


def test_a_server_is_sent_the_upright_picture():
    url = data_url(picture((8, 6), orientation=6, form="JPEG"), None)
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as sent:
        assert (sent.size, sent.format, sent.getexif().get(ExifTags.Base.Orientation)) == ((6, 8), "PNG", None)


def sent_for(content, *pixels):
    """Its type, and the bytes."""
    head, _, text = data_url(content, *(pixels or (None,))).partition(",")
    return head, base64.b64decode(text)


def saved(image, form="PNG", **more):
    image.save(buffer := io.BytesIO(), form, **more)
    return buffer.getvalue()


RGB = Image.radial_gradient("L").resize((40, 30)).convert("RGB")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (saved(RGB, "JPEG"), "jpeg"),
        (saved(RGB.convert("L"), "JPEG"), "jpeg"),
        (saved(RGB), "png"),
        (saved(RGB.convert("L")), "png"),
        (saved(RGB.convert("P")), "png"),
        (picture(orientation=1, form="JPEG"), "jpeg"),
    ],
    ids=["jpeg", "grey jpeg", "png", "grey png", "palette png", "upright by EXIF"],
)
def test_a_png_or_jpeg_that_needs_nothing_is_sent_as_it_is(content, kind):
    assert sent_for(content) == (f"data:image/{kind};base64", content)
    assert sent_for(content, 40 * 30, 0) == (f"data:image/{kind};base64", content)


@pytest.mark.parametrize(
    "content",
    [
        picture((8, 6), orientation=6, form="JPEG"),
        picture((8, 6), orientation=3),
        saved(RGB.convert("CMYK"), "JPEG"),
        saved(RGB.convert("RGBA")),
        saved(RGB, transparency=(0, 0, 0)),
        saved(RGB.convert("P"), transparency=0),
        saved(RGB.convert("LA")),
        saved(RGB.convert("L").convert("I;16")),
        saved(RGB.convert("1")),
        saved(RGB, save_all=True, append_images=[RGB.rotate(90)]),
        saved(RGB, "WEBP"),
        saved(RGB, "GIF"),
        saved(RGB, "BMP"),
    ],
    ids=[
        *("turned", "turned png", "cmyk", "alpha", "key colour", "palette", "grey alpha", "16 bits", "1 bit"),
        *("frames", "webp", "gif", "bmp"),
    ],
)
def test_any_other_is_sent_as_a_png_of_what_models_see(content):
    head, sent = sent_for(content)
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(sent)) as image:
        assert (image.format, image.mode, image.tobytes()) == ("PNG", "RGB", decode_image(content, "").tobytes())


def test_sixteen_bits_of_colour_are_sent_as_eight():
    ihdr = b"IHDR" + (1).to_bytes(4) + (1).to_bytes(4) + bytes([16, 2, 0, 0, 0])
    pixel = b"IDAT" + zlib.compress(b"\0" + b"\xff\x00" * 3)
    chunks = [(len(chunk) - 4).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4) for chunk in (ihdr, pixel)]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    _, sent = sent_for(content)
    assert sent != content and sent[24] == 8


@pytest.mark.parametrize("pixels", [(40 * 30 - 1, None), (None, 40 * 30 + 1)])
def test_what_must_be_scaled_is_encoded_anew(pixels):
    head, sent = sent_for(saved(RGB, "JPEG"), *pixels)
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(sent)).size != (40, 30)


UNKNOWN = "not a format that Pillow knows"


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", UNKNOWN), (b"no image", UNKNOWN), (picture()[:60], "OSError: Truncated File Read")],
    ids=["nothing", "text", "half"],
)
def test_a_file_that_does_not_decode_is_a_line_that_says_where(content, why):
    with pytest.raises(DataError, match=rf"^row 7: the image does not decode \({why}\); replace it, or leave it out$"):
        decode_image(content, "row 7")
    with pytest.raises(ValueError, match=f"^{why}$"):
        image_size(content)


def test_a_picture_beyond_pillow_s_limit_is_to_be_scaled_down(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(
        DataError, match=r"^row 7: the image does not decode \(DecompressionBombError: .*; scale it down$"
    ):
        decode_image(picture(), "row 7")
    with pytest.raises(ValueError, match="DecompressionBomb"):
        image_size(picture((4, 4)))
