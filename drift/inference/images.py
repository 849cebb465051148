"""Images as models see them: found in a cell of a table, checked, stored as they came, decoded, sent to a server."""

from __future__ import annotations

import base64
import binascii
import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from drift.ground.errors import DataError, cause


def image_bytes(cell: Any, folder: Path) -> list[bytes] | None:
    """Encoded images of a cell, untouched; None if there is none or its file is missing.

    A cell is bytes, ``{bytes, path}``, a path relative to ``folder``, base64 text or a data URL, or a list of these.
    """
    cells = cell if isinstance(cell, list | tuple) else [cell]
    found = [_one(part, folder) for part in cells]
    return [part for part in found if part] if found and all(found) else None


def image_size(content: bytes) -> tuple[int, int]:
    """``(width, height)`` in pixels after decoding all of it. Raises ValueError if it does not decode."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                return image.size
        except Exception as error:  # Pillow's decoders raise many kinds on broken files
            raise ValueError(f"{type(error).__name__}: {error}") from error


def decode_image(encoded: bytes, where: str) -> Image.Image:
    """An RGB image; transparency is laid on white. Raises DataError naming ``where`` if it does not decode."""
    try:
        image: Image.Image = Image.open(io.BytesIO(encoded))
        image.load()
    except Exception as error:  # Pillow raises many kinds on broken files
        raise DataError(f"{where}: the image does not decode ({cause(error)})") from error
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


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
    """The image as a PNG data URL, scaled as `limit_pixels` does, for a request to a server."""
    buffer = io.BytesIO()
    limit_pixels(decode_image(content, "image"), max_pixels, min_pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def conversation(text: str, images: int) -> list[dict[str, Any]]:
    """The user's turn as chat templates want it: ``images`` image blocks, then the text."""
    return [{"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}]


def stored(contents: Sequence[bytes]) -> list[dict[str, Any]]:
    """Encoded images in the form of the column `images`."""
    return [{"bytes": content, "path": None} for content in contents]


def _one(cell: Any, folder: Path) -> bytes | None:
    if isinstance(cell, dict):
        return _one(cell.get("bytes"), folder) or _one(cell.get("path"), folder)
    if isinstance(cell, bytes):
        return cell
    if not isinstance(cell, str) or not cell.strip():
        return None
    return _from_text(cell.strip(), folder)


def _from_text(text: str, folder: Path) -> bytes | None:
    if len(text) < 1024 and not text.startswith("data:") and (folder / text).is_file():
        return (folder / text).read_bytes()
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return None
