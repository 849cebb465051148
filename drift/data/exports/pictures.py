"""The images of an export: every trainer sees in them what ours does.

An image stays as it came where Pillow's plain ``convert("RGB")``, which other trainers make, shows the same pixels.
Others (turned by EXIF, transparent, of 16 bits, larger than asked for) become PNGs of what is seen.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from PIL import Image

from drift.inference.images import decode_image, limit_pixels

FOLDER = "images"
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg"}
"""Of formats that are not called like their files."""


class Pictures:
    """Images on their way out, with the count of those that were ``converted`` (in a folder: once each)."""

    def __init__(self, max_pixels: int | None) -> None:
        self.max_pixels = max_pixels
        self.converted = 0
        self._names: dict[bytes, str] = {}

    @property
    def files(self) -> int:
        """How many were written as files."""
        return len(set(self._names.values()))

    def bytes_of(self, content: bytes, where: str) -> bytes:
        """``content``, or the PNG of what is seen in it. Raises DataError naming ``where`` if it does not decode."""
        seen = limit_pixels(decode_image(content, where), self.max_pixels)
        with Image.open(io.BytesIO(content)) as image:
            plain = image.convert("RGB")
        if plain.size == seen.size and plain.tobytes() == seen.tobytes():
            return content
        self.converted += 1
        buffer = io.BytesIO()
        seen.save(buffer, "PNG")
        return buffer.getvalue()

    def file_of(self, content: bytes, folder: Path, where: str) -> str:
        """The image's path below ``folder``, named by the hash of its bytes and written once."""
        key = hashlib.sha256(content).digest()
        if key not in self._names:
            self._names[key] = _write(self.bytes_of(content, where), folder)
        return self._names[key]


def _write(content: bytes, folder: Path) -> str:
    with Image.open(io.BytesIO(content)) as image:
        kind = str(image.format)
    name = f"{FOLDER}/{hashlib.sha256(content).hexdigest()}.{EXTENSIONS.get(kind, kind.lower())}"
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return name


def thumbnail(content: bytes, side: int = 320) -> bytes:
    """The image as a small JPEG, at most ``side`` pixels wide and high. Raises DataError if it does not decode."""
    small = decode_image(content, "image")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()
