"""Images as models see them: found in a cell of a table, checked, stored as they came, decoded, sent to a server.

`drift.ground.decoding` says what is made of each kind of file; whatever shows an image to a model decodes it here.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError

from drift.ground.decoding import as_seen
from drift.ground.errors import DataError, cause
from drift.inference.placeholders import with_images

SENDABLE = {"PNG": {"RGB", "L", "P"}, "JPEG": {"RGB", "L"}}
"""Formats that every server decodes to the same, and Pillow's modes of them."""
PNG_DEPTH = 24
"""The byte of a PNG that holds the bits of a channel."""


def image_bytes(cell: Any, folder: Path) -> list[bytes] | None:
    """Encoded images of a cell, untouched; None if there is none or its file is missing.

    A cell is one image as `find_image` takes it, or a list of these.
    """
    cells = cell if isinstance(cell, list | tuple) else [cell]
    found = [find_image(part, folder) for part in cells]
    read = [encoded(part) for part in found if part is not None]
    return read if read and len(read) == len(cells) and all(read) else None


def find_image(cell: Any, folder: Path) -> bytes | Path | None:
    """What the image of a cell is read from: its bytes, or a file that exists; None if there is neither.

    A cell is bytes, ``{bytes, path}``, a path relative to ``folder``, base64 text or a data URL.
    """
    if isinstance(cell, dict):
        return find_image(cell.get("bytes"), folder) or find_image(cell.get("path"), folder)
    if isinstance(cell, bytes):
        return cell or None
    if not isinstance(cell, str) or not cell.strip():
        return None
    return _from_text(cell.strip(), folder)


def encoded(found: bytes | Path) -> bytes:
    """The bytes of what `find_image` found."""
    return found.read_bytes() if isinstance(found, Path) else found


def image_size(content: bytes) -> tuple[int, int]:
    """``(width, height)`` in pixels as a viewer shows it, after decoding all of it.

    Raises ValueError if it does not decode.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(content)) as image:
                return as_seen(image).size
        except Exception as error:  # Pillow's decoders raise many kinds on broken files
            raise ValueError(_why(error)) from error


def decode_image(found: bytes | Path, where: str) -> Image.Image:
    """The image in RGB, as `drift.ground.decoding.as_seen` has it: upright, scaled to 8 bits, on white.

    Raises DataError naming ``where`` if it does not decode, or its file cannot be read.
    """
    try:
        return as_seen(Image.open(io.BytesIO(encoded(found))))
    except Exception as error:  # Pillow raises many kinds on broken files
        remedy = "scale it down" if isinstance(error, Image.DecompressionBombError) else "replace it, or leave it out"
        raise DataError(f"{where}: the image does not decode ({_why(error)}); {remedy}") from error


def _why(error: Exception) -> str:
    """What Pillow says; of an unknown format it names an address in memory."""
    return "not a format that Pillow knows" if isinstance(error, UnidentifiedImageError) else cause(error)


def limit_pixels(image: Image.Image, max_pixels: int | None, min_pixels: int | None = None) -> Image.Image:
    """``image``, scaled with its aspect ratio to an area of ``min_pixels`` to ``max_pixels``; null is no bound."""
    area = image.width * image.height
    if max_pixels is not None and area > max_pixels:
        factor = (max_pixels / area) ** 0.5
        return image.resize((max(1, int(image.width * factor)), max(1, int(image.height * factor))))
    if min_pixels is not None and area < min_pixels:
        factor = (min_pixels / area) ** 0.5
        return image.resize((math.ceil(image.width * factor), math.ceil(image.height * factor)))
    return image


def data_url(content: bytes, max_pixels: int | None, min_pixels: int | None = None) -> str:
    """The image for a request to a server: a PNG or JPEG that shows what `as_seen` shows goes as it is.

    All else is sent as a PNG of that, scaled as `limit_pixels` does. Raises DataError if it does not decode.
    """
    kind = _sendable(content, max_pixels, min_pixels)
    if kind is None:
        kind, buffer = "png", io.BytesIO()
        limit_pixels(decode_image(content, "image"), max_pixels, min_pixels).save(buffer, "PNG")
        content = buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _sendable(content: bytes, max_pixels: int | None, min_pixels: int | None) -> str | None:
    """`png` or `jpeg` of an upright, opaque, still image of 8 bits and the right size; None of any other."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            area = image.width * image.height
            plain = image.format in SENDABLE and image.mode in SENDABLE[image.format]
            plain = plain and not (image.format == "PNG" and content[PNG_DEPTH] > 8)
            plain = plain and not image.has_transparency_data and not getattr(image, "is_animated", False)
            plain = plain and (min_pixels or 0) <= area <= (max_pixels or area)
            upright = plain and image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            return str(image.format).lower() if upright else None
    except Exception:  # Pillow raises many kinds; what does not decode either is said there
        return None


def conversation(text: str, images: int) -> list[dict[str, Any]]:
    """The user's turn as chat templates want it: blocks of images and text."""
    return [{"role": "user", "content": with_images(text, images)}]


def stored(contents: Sequence[bytes]) -> list[dict[str, Any]]:
    """Encoded images in the form of the column `images`."""
    return [{"bytes": content, "path": None} for content in contents]


def _from_text(text: str, folder: Path) -> bytes | Path | None:
    if len(text) < 1024 and not text.startswith("data:"):
        with contextlib.suppress(OSError):  # short base64 can be longer than a file's name may be
            if (folder / text).is_file():
                return folder / text
    plain = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(plain, validate=True) or None
    except binascii.Error:
        return None
