"""Safetensors files written tensor by tensor, and sums over tensors too large to copy in float64.

The header comes first in the file and all sizes are known beforehand, so nothing but the tensor at hand is in
memory. Sums run in float64 over chunks of a tensor, in a fixed order: the same bytes give the same number.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from drift.ground.errors import CheckpointError
from drift.ground.progress import Bar
from drift.weights.storage.headers import DTYPE_NAMES, TensorInfo

Item = TypeVar("Item")

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, dtype) for name, dtype in DTYPE_NAMES.items()}
_BYTE_DTYPES = {"I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn}
CHUNK_ELEMENTS = 1 << 17
"""Elements computed with at a time: in float32 or float64 they stay in a core's cache."""
SUM_BYTES = 1 << 20
"""Of each tensor, summed at a time: larger memory the system gives page by page, smaller stretches are mostly calls."""
TINY = 1e-5
PIECE_ELEMENTS = 1 << 20
"""Elements read and written at a time: few calls of the system, little memory."""
COPY_BYTES = 1 << 24
_AS_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def encode_header(tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """The header of a safetensors file whose tensors (dtype, shape) follow in the order of `tensors`."""
    names = {dtype: name for name, dtype in (DTYPES | _BYTE_DTYPES).items()}
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        end = offset + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@contextlib.contextmanager
def created(file: Path, size_bytes: int) -> Iterator[BinaryIO]:
    """A new file to write into, whose space on the disk is taken beforehand: it cannot run out half-way, and writing
    costs a fraction of the processor time. Raises CheckpointError if there is no room."""
    with file.open("wb") as stream:
        if size_bytes and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(stream.fileno(), 0, size_bytes)
            except OSError as error:
                raise CheckpointError(f"{file}: no room for {size_bytes:,} bytes ({error.strerror})") from error
        yield stream


def write_tensor(stream: BinaryIO, tensor: Tensor) -> None:
    """Append the bytes of a tensor, as safetensors lays them out (row-major, little-endian)."""
    stream.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def copy_tensor(stream: BinaryIO, source: BinaryIO, info: TensorInfo) -> None:
    """Append a tensor of another file, byte for byte."""
    source.seek(info.start)
    for left in range(info.size_bytes, 0, -COPY_BYTES):
        stream.write(source.read(min(left, COPY_BYTES)))


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """``items``, of which the next is made in another thread while one is used."""
    end: Any = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item


def of_length(stream: Iterator[Tensor], elements: int, whole: int) -> Iterator[Tensor]:
    """The pieces of a tensor, ``elements`` each, as if it had ``whole``: cut off there, or with zeros after its end."""
    piece = torch.empty(0)
    for left in range(whole, 0, -elements):
        piece = next(stream, piece[:0])[:left]
        missing = min(elements, left) - len(piece)
        yield torch.cat([piece, piece.new_zeros(missing)]) if missing else piece


def pieces(*tensors: Tensor, elements: int = CHUNK_ELEMENTS) -> Iterator[tuple[Tensor, ...]]:
    """The same stretch of each tensor, flat, one stretch after the other; small enough to stay in a core's cache."""
    return zip(*(tensor.reshape(-1).split(elements) for tensor in tensors), strict=True)


def chunks(*tensors: Tensor, dtype: torch.dtype = torch.float64) -> Iterator[list[Tensor]]:
    """`pieces` in ``dtype``, always in the same memory: fresh pages would cost more than the sums."""
    elements = SUM_BYTES // dtype.itemsize
    rooms = [torch.empty(elements, dtype=dtype) for _ in tensors]
    for parts in pieces(*tensors, elements=elements):
        yield [room[: part.numel()].copy_(part) for room, part in zip(rooms, parts, strict=True)]


def dot(a: Tensor, b: Tensor) -> float:
    """⟨a, b⟩ over all elements, in float64."""
    return math.fsum(float(x @ y) for x, y in chunks(a, b))


def distance(a: Tensor, b: Tensor) -> float:
    """‖a − b‖₂ over all elements, in float64."""
    return math.sqrt(math.fsum(float((x - y) @ (x - y)) for x, y in chunks(a, b)))


def cosine(a: Tensor, b: Tensor) -> float:
    """cos(a, b) over all elements, in float64; 0 where one of them is zero."""
    norms = math.sqrt(dot(a, a)) * math.sqrt(dot(b, b))
    return dot(a, b) / norms if norms else 0.0


class Sparsity(NamedTuple):
    """Of a tensor: the share of exact zeros, and that of elements below `TINY` of the largest, zeros among them."""

    zeros: float
    tiny: float


def sparsity(tensor: Tensor) -> Sparsity:
    """Of one finite tensor of any shape and float dtype; all zeros is (1, 1), and so is no element."""
    if not tensor.numel():
        return Sparsity(1.0, 1.0)
    low, high = torch.aminmax(tensor)
    bits = _AS_BITS[tensor.element_size()]  # without their sign, floats are in the order of their bits
    limit = torch.tensor(TINY * max(-float(low), float(high)), dtype=tensor.dtype).view(bits)
    others = large = 0
    for (piece,) in pieces(tensor, elements=PIECE_ELEMENTS):
        magnitudes = piece.view(bits) & torch.iinfo(bits).max
        others += int(np.count_nonzero(magnitudes.numpy()))
        large += int(np.count_nonzero((magnitudes >= limit).numpy()))
    zeros = 1 - others / tensor.numel()
    return Sparsity(zeros, max(zeros, 1 - large / tensor.numel()))


def mean_sparsity(found: Sequence[tuple[Sparsity, int]]) -> Sparsity:
    """Of several tensors together, each with the number of its elements."""
    sums = torch.tensor([[*shares, 1.0] for shares, _ in found], dtype=torch.float64).view(-1, 3)
    counts = torch.tensor([count for _, count in found], dtype=torch.float64)
    zeros, tiny, total = (counts @ sums).tolist()
    return Sparsity(zeros / total, tiny / total) if total else Sparsity(0.0, 0.0)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside the block: many short operations on a busy machine lose time to more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def progress(description: str, total_bytes: int) -> Bar:
    """Progress in bytes."""
    return Bar(description, total_bytes, unit="B")


def require_space(folder: Path, size_bytes: int) -> None:
    """Raise CheckpointError unless `folder`'s disk has room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < size_bytes:
        raise CheckpointError(f"{folder}: {size_bytes:,} bytes to write, {free:,} free; choose a disk with more room")


def tensor_generator(seed: int, name: str) -> torch.Generator:
    """Randomness of one tensor, from the seed and the canonical name: whatever else is drawn, and in what order."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
