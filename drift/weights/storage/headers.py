"""What safetensors files say in their headers: where each tensor lies, of which dtype and shape; and its bytes."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drift.ground.errors import CheckpointError
from drift.weights.storage.files import weight_map

if TYPE_CHECKING:
    from torch import Tensor

DTYPE_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
"""Safetensors' and torch's names of the dtypes that can be subtracted and merged."""

_BITS = {
    "BF16": 16,
    "F16": 16,
    "F32": 32,
    "F64": 64,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
    "F8_E4M3": 8,
}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: `start` and `end` are byte offsets from the beginning of `file`."""

    shape: tuple[int, ...]
    dtype: str
    file: Path
    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor's data."""
        return self.end - self.start

    def opened(self) -> io.RawIOBase:
        """The file, at the tensor's first byte."""
        stream = self.file.open("rb", buffering=0)
        stream.seek(self.start)
        return stream


@dataclass(frozen=True)
class Header:
    """A safetensors file's header: its tensors by name, its metadata, and its length in bytes."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    size_bytes: int


def read_header(file: Path) -> Header:
    """The header of a safetensors file. Raises CheckpointError if the file is missing, foreign or cut off."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            text = stream.read(length) if 0 < length <= size - 8 else b""
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    try:
        entries: dict[str, Any] = json.loads(text)
        metadata = entries.pop("__metadata__", {})
        tensors = {name: _tensor_info(file, entry, 8 + length) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file}: no safetensors file, or cut off in its header; download it again") from error
    end = _require_gapless(file, tensors, 8 + length)
    if end != size:
        what = "cut off" if size < end else "foreign bytes after the tensors"
        raise CheckpointError(f"{file}: {what}: {size} bytes, but its header describes {end}; download it again")
    return Header(tensors, metadata, 8 + length)


def read_headers(folder: Path, files: Iterable[Path]) -> dict[str, Header]:
    """The headers of some files below a folder, by their names relative to it. Raises as `read_header`."""
    return {file.relative_to(folder).as_posix(): read_header(file) for file in files}


def _require_gapless(file: Path, tensors: Mapping[str, TensorInfo], start: int) -> int:
    """Where the last tensor ends. Raises CheckpointError if a tensor's bytes do not fit its shape, or overlap."""
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        bits = _BITS.get(info.dtype)
        if info.start != start or (bits and info.size_bytes != math.prod(info.shape) * bits // 8):
            raise CheckpointError(
                f"{file}: the header lies about '{name}' ({info.dtype} {list(info.shape)} in bytes {info.start} to "
                f"{info.end}); download it again"
            )
        start = info.end
    return start


def _tensor_info(file: Path, entry: Mapping[str, Any], offset: int) -> TensorInfo:
    start, end = entry["data_offsets"]
    return TensorInfo(tuple(entry["shape"]), entry["dtype"], file, offset + start, offset + end)


def read_pieces(info: TensorInfo, name: str, elements: int) -> Iterator[Tensor]:
    """A tensor flat, so many elements at a time, in two memories by turns: use a piece before the next but one.

    Raises CheckpointError if the file ends before the tensor does.
    """
    import torch

    dtype = getattr(torch, DTYPE_NAMES[info.dtype])
    rooms = torch.empty(2, min(elements, max(1, info.size_bytes // dtype.itemsize)), dtype=dtype)
    with info.opened() as file:
        for turn, left in enumerate(range(info.size_bytes // dtype.itemsize, 0, -elements)):
            piece = rooms[turn % 2, :left]
            if file.readinto(piece.view(torch.uint8).numpy().data) != piece.nbytes:
                raise CheckpointError(f"{info.file}: ends inside '{name}'; download it again")
            yield piece


def indexed_tensors(index: Path, headers: Mapping[str, Header]) -> dict[str, TensorInfo]:
    """All tensors in the files of an index; transformers, too, loads those that the index does not name.

    Raises CheckpointError if one that it names is not there.
    """
    for name, shard in weight_map(index).items():
        if name not in headers[shard].tensors:
            raise CheckpointError(f"{index.parent}: {index.name} says that '{name}' is in '{shard}', but it is not")
    return {name: info for header in headers.values() for name, info in header.tensors.items()}
