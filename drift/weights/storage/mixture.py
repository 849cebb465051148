"""The experts of mixture-of-experts layers in the layout that is wanted, whatever layout they are stored in.

Unfused: `mlp.experts.3.gate_proj.weight` (I, H), `up_proj` (I, H), `down_proj` (H, I), for each expert. Fused:
`mlp.experts.gate_up_proj` (E, 2I, H), an expert's rows of gate before those of up, and `mlp.experts.down_proj`
(E, H, I). That is transformers 5's run time, and the canonical layout of Δ. Turned: fused, each matrix transposed, as
Qwen3-VL-MoE is on the hub. The conversions are those of transformers' `conversion_mapping.py` (`qwen2_moe`:
MergeModulelist and Concatenate, `qwen3_vl_moe`: Transpose). They are made while reading, one expert's matrix in memory.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drift.ground.errors import CheckpointError
from drift.weights.storage.adapters import MERGE_FIRST, Adapted, open_model
from drift.weights.storage.checkpoints import Checkpoint
from drift.weights.storage.headers import TensorInfo, read_pieces

if TYPE_CHECKING:
    from torch import Tensor

_UNFUSED = re.compile(r"^(?P<block>(.*\.)?mlp\.experts)\.(?P<expert>\d+)\.(?P<projection>gate|up|down)_proj\.weight$")
_FUSED = re.compile(r"^(?P<block>(.*\.)?mlp\.experts)\.(?P<projection>gate_up_proj|down_proj)$")
_TURNED_ON_DISK = "qwen3_vl_moe"
"""The only model whose fused experts transformers transposes while loading."""

Tensors = Mapping[str, TensorInfo]
Experts = Sequence[tuple["Matrix", ...]]
"""Of each expert the matrices whose rows follow each other: gate and up, or one."""


@dataclass(frozen=True)
class Layout:
    """How experts are laid out; ``turned``: which of `gate_up_proj` and `down_proj` are stored transposed."""

    fused: bool = True
    turned: frozenset[str] = frozenset()


AT_RUN_TIME = Layout()


@dataclass(frozen=True)
class Matrix:
    """One expert's matrix (out, in), number ``place`` of a stored tensor; ``half``: only gate (0) or up (1) of it."""

    info: TensorInfo
    place: int = 0
    turned: bool = False
    half: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        rows, columns = self.info.shape[-2:][:: -1 if self.turned else 1]
        return (rows if self.half is None else rows // 2), columns

    def read(self) -> Tensor:
        """Its elements as integers of their size. Raises CheckpointError if the file ends before it does."""
        import torch

        rows, columns = self.info.shape[-2:]
        size = self.info.size_bytes // (self.info.shape[0] if len(self.info.shape) > 2 else 1)
        room = torch.empty(size, dtype=torch.uint8)
        with self.info.file.open("rb", buffering=0) as file:
            file.seek(self.info.start + self.place * size)
            if file.readinto(room.numpy().data) != size:
                raise CheckpointError(f"{self.info.file}: ends inside a tensor of experts; download it again")
        words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        stored = room.view(words[size // (rows * columns)]).view(rows, columns)
        whole = stored.t() if self.turned else stored
        return whole if self.half is None else whole.chunk(2)[self.half]


@dataclass(frozen=True)
class Composed(TensorInfo):
    """A tensor that is in no file as it is read: expert after expert of other tensors. `file` is the first one's."""

    experts: Experts = ()
    turned: bool = False

    def opened(self) -> io.RawIOBase:
        """Its bytes, in a stream."""
        return _Stream(map(self._bytes_of, self.experts))

    def _bytes_of(self, matrices: tuple[Matrix, ...]) -> memoryview:
        import torch

        parts = [matrix.read() for matrix in matrices]
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        stored = (whole.t() if self.turned else whole).contiguous()
        return memoryview(stored.view(-1).view(torch.uint8).numpy().data)


class _Stream(io.RawIOBase):
    """The bytes of blocks that are made one at a time."""

    def __init__(self, blocks: Iterator[memoryview]) -> None:
        super().__init__()
        self._blocks, self._left = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        done = 0
        while done < len(buffer) and (self._left or self._next()):
            count = min(len(self._left), len(buffer) - done)
            buffer[done : done + count] = self._left[:count]
            self._left, done = self._left[count:], done + count
        return done

    def _next(self) -> bool:
        self._left = next(self._blocks, memoryview(b""))
        return bool(self._left)


class Arranged(Checkpoint):
    """A checkpoint whose experts are read in another layout than they are stored in."""

    def __init__(self, stored: Checkpoint, tensors: Tensors) -> None:
        vars(self).update(vars(stored))
        self.tensors = dict(tensors)
        self.shapes = {name: info.shape for name, info in tensors.items()}

    def tensor(self, name: str) -> Tensor:
        """The tensor of this name, on the CPU, in its own dtype."""
        info = self.tensors[name]
        return self._first(name, info.shape[0]) if isinstance(info, Composed) else super().tensor(name)

    def first_rows(self, name: str, elements: int) -> Tensor:
        """The first rows of a tensor, about so many elements of it; of experts the first ones, at least one."""
        info = self.tensors[name]
        if not isinstance(info, Composed):
            return super().first_rows(name, elements)
        return self._first(name, self._rows(name, elements))

    def _first(self, name: str, rows: int) -> Tensor:
        shape = (min(rows, self.shapes[name][0]), *self.shapes[name][1:])
        return next(read_pieces(self.tensors[name], name, math.prod(shape))).view(shape)


def opened(reference: str, *, allow_pickle: bool = False) -> Checkpoint:
    """The checkpoint of `open_model`, its experts in the layout that they have at run time."""
    return arranged(open_model(reference, allow_pickle=allow_pickle), AT_RUN_TIME)


def arranged(stored: Checkpoint, layout: Layout) -> Checkpoint:
    """A checkpoint with its experts in a layout.

    Raises CheckpointError if one of an expert's matrices is missing, and for an adapter on experts of another layout.
    """
    present = layout_of(stored)
    if present in (None, layout):
        return stored
    if isinstance(stored, Adapted):
        raise CheckpointError(f"{stored.path}: an adapter on a mixture of experts is not understood; {MERGE_FIRST}")
    return Arranged(stored, rearranged(stored.tensors, present or layout, layout))


def layout_of(stored: Checkpoint) -> Layout | None:
    """The layout in which a checkpoint stores its experts; None if it has none."""
    if any(_UNFUSED.match(name) for name in stored.tensors):
        return Layout(fused=False)
    fused = {projection: info for (_, projection), info in _fused_in(stored.tensors).items()}
    if not fused:
        return None
    return Layout(turned=frozenset(name for name, info in fused.items() if _is_turned(stored, name, info.shape)))


def _is_turned(stored: Checkpoint, projection: str, shape: Sequence[int]) -> bool:
    """As transformers decides: a shape that is not the run time's is its transpose; a square matrix is taken as is."""
    if not str(stored.config.get("model_type")).startswith(_TURNED_ON_DISK):
        return False
    hidden, inner = (stored.text_config.get(key) for key in ("hidden_size", "moe_intermediate_size"))
    wide = (hidden, 2 * (inner or 0)) if projection == "gate_up_proj" else (inner, hidden)
    return tuple(shape[1:]) == wide and wide[0] != wide[1]


def rearranged(tensors: Tensors, present: Layout, layout: Layout) -> dict[str, TensorInfo]:
    """`tensors`, which have their experts in the layout ``present``, with them in another; all others as they are."""
    if present == layout:
        return dict(tensors)
    stored = _fused(tensors, present) if present.fused else _unfused(tensors)
    used = {id(matrix.info) for experts in stored.values() for matrices in experts for matrix in matrices}
    result = {name: info for name, info in tensors.items() if id(info) not in used}
    for (block, projection), experts in stored.items():
        result |= _composed(block, projection, experts, layout)
    return result


def _fused_in(tensors: Tensors) -> dict[tuple[str, str], TensorInfo]:
    named = ((_FUSED.match(name), info) for name, info in tensors.items() if len(info.shape) == 3)
    return {(match["block"], match["projection"]): info for match, info in named if match}


def _fused(tensors: Tensors, present: Layout) -> dict[tuple[str, str], Experts]:
    return {
        (block, projection): [(Matrix(info, place, projection in present.turned),) for place in range(info.shape[0])]
        for (block, projection), info in _fused_in(tensors).items()
    }


def _unfused(tensors: Tensors) -> dict[tuple[str, str], Experts]:
    blocks: dict[str, int] = {}
    for name in tensors:
        if match := _UNFUSED.match(name):
            blocks[match["block"]] = max(blocks.get(match["block"], 0), int(match["expert"]) + 1)
    parts = {"gate_up_proj": ("gate", "up"), "down_proj": ("down",)}
    return {
        (block, projection): _of_one_kind(
            [
                tuple(_matrix(tensors, f"{block}.{expert}.{part}_proj.weight") for part in names)
                for expert in range(count)
            ]
        )
        for block, count in blocks.items()
        for projection, names in parts.items()
    }


def _matrix(tensors: Tensors, name: str) -> Matrix:
    if name not in tensors:
        raise CheckpointError(f"'{name}' is missing, and other experts of its layer are there; download it again")
    return Matrix(tensors[name])


def _of_one_kind(experts: Experts) -> Experts:
    """Raise CheckpointError unless all experts' matrices have one shape and dtype."""
    first = experts[0][0].info
    for matrix in (matrix for matrices in experts for matrix in matrices):
        own = matrix.info
        if (own.shape, own.dtype) != (first.shape, first.dtype):
            raise CheckpointError(
                f"{own.file}: an expert is {own.dtype} {list(own.shape)}, the first of its layer {first.dtype} "
                f"{list(first.shape)}; they make no tensor together"
            )
    return experts


def _composed(block: str, projection: str, experts: Experts, layout: Layout) -> dict[str, TensorInfo]:
    if layout.fused:
        return {f"{block}.{projection}": _stacked(experts, projection in layout.turned)}
    parts = ("gate", "up") if projection == "gate_up_proj" else ("down",)
    return {
        f"{block}.{number}.{part}_proj.weight": _single(matrix)
        for number, matrices in enumerate(experts)
        for part, matrix in zip(parts, _split(matrices, len(parts)), strict=True)
    }


def _split(matrices: tuple[Matrix, ...], parts: int) -> tuple[Matrix, ...]:
    if len(matrices) == parts:
        return matrices
    (whole,) = matrices
    return tuple(Matrix(whole.info, whole.place, whole.turned, half) for half in range(parts))


def _stacked(experts: Experts, turned: bool) -> Composed:
    rows, columns = sum(matrix.shape[0] for matrix in experts[0]), experts[0][0].shape[1]
    each = (columns, rows) if turned else (rows, columns)
    return _info((len(experts), *each), experts, turned)


def _single(matrix: Matrix) -> Composed:
    return _info(matrix.shape, [(matrix,)], False)


def _info(shape: tuple[int, ...], experts: Experts, turned: bool) -> Composed:
    first = experts[0][0].info
    width = first.size_bytes // max(1, math.prod(first.shape))
    return Composed(shape, first.dtype, first.file, 0, math.prod(shape) * width, tuple(experts), turned)
