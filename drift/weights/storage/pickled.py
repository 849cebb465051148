"""Text models that torch has pickled (`pytorch_model.bin`): read where they lie in the file, as safetensors are.

Names, shapes and places come from torch's weights-only loader, on the device `meta`: it makes nothing but tensors of
what the file says, and none of their data is read. Each place is held against the table of the zip file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drift.ground.errors import CheckpointError
from drift.weights.storage.checkpoints import Checkpoint, fingerprint
from drift.weights.storage.files import is_pickled, pickled_files
from drift.weights.storage.headers import DTYPE_NAMES, Header, TensorInfo, indexed_tensors

if TYPE_CHECKING:
    from torch import Tensor

CONVERT = "convert it to safetensors (from_pretrained, then save_pretrained)"
_SAFE_NAMES = {dtype: name for name, dtype in DTYPE_NAMES.items()}


class Pickled(Checkpoint):
    """A model directory in torch's format. Raises CheckpointError as `Checkpoint`, and for what is no plain tensor."""

    def _read_weights(self) -> tuple[list[Path], dict[str, TensorInfo]]:
        files, index = pickled_files(self.path)
        headers = {file.relative_to(self.path).as_posix(): Header(read_pickled(file), {}, 0) for file in files}
        return files, indexed_tensors(index, headers) if index else headers[files[0].name].tensors

    def sha256(self) -> str:
        """Its `fingerprint`."""
        return fingerprint(self.path, self.files)

    def _open(self, name: str) -> Any:
        file = self.tensors[name].file
        if file not in self._opened:
            self._opened[file] = _Mapped(_load(file, "cpu"))
        return self._opened[file]


class _Mapped:
    """As safetensors' `safe_open`; the tensors are the file's pages."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def get_tensor(self, name: str) -> Tensor:
        return self._tensors[name].detach()

    get_slice = get_tensor


def model_at(path: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """The model of a directory; one that is pickled only where that is allowed."""
    return Pickled(path) if allow_pickle and is_pickled(path) else Checkpoint(path)


def read_pickled(file: Path) -> dict[str, TensorInfo]:
    """Where every tensor of a file of `torch.save` lies.

    Raises CheckpointError if the file is foreign or cut off, holds something else than tensors by name, or a tensor
    whose bytes do not follow each other.
    """
    records = _records(file)
    return {name: _place(file, name, tensor, records) for name, tensor in _load(file, "meta").items()}


def _load(file: Path, device: str) -> dict[str, Tensor]:
    import torch

    try:
        content = torch.load(file, map_location=device, weights_only=True, mmap=True)
    except Exception as error:  # pickle, zip and torch raise many kinds
        raise CheckpointError(
            f"{file}: torch's weights-only loader refuses it ({type(error).__name__}): it may hold code; take another "
            "checkpoint, in safetensors"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: holds no tensors by name, but {type(content).__name__}; {CONVERT}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{file}: {name!r} is no tensor, but {type(value).__name__}; {CONVERT}")
    return dict(content)


def _records(file: Path) -> dict[int, int]:
    """First byte → bytes of all that lies in a zip file as it is. Raises CheckpointError unless that is everything."""
    try:
        with zipfile.ZipFile(file) as archive, file.open("rb") as stream:
            entries = archive.infolist()
            order = [archive.read(one) for one in entries if one.filename.endswith("/byteorder")]
            places = {_start(stream, one): one.file_size for one in entries}
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{file}: no file of torch.save, or cut off ({error}); download it again") from error
    if any(one.compress_type != zipfile.ZIP_STORED for one in entries) or any(one != b"little" for one in order):
        raise CheckpointError(f"{file}: compressed, or in another order of bytes than this machine's; {CONVERT}")
    return places


def _start(stream: Any, entry: zipfile.ZipInfo) -> int:
    """Where an entry's data begins: after 30 bytes, its name and its extra field, whose lengths are in bytes 26-29."""
    stream.seek(entry.header_offset + 26)
    name, extra = (int.from_bytes(stream.read(2), "little") for _ in range(2))
    return entry.header_offset + 30 + name + extra


def _place(file: Path, name: str, tensor: Tensor, records: Mapping[int, int]) -> TensorInfo:
    storage = tensor.untyped_storage()
    record = getattr(storage, "_checkpoint_offset", None)
    if record is None or records.get(record) != storage.nbytes() or not tensor.is_contiguous() or tensor.is_quantized:
        raise CheckpointError(f"{file}: '{name}' does not lie in the file as plain numbers; {CONVERT}")
    start = record + tensor.storage_offset() * tensor.dtype.itemsize
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorInfo(tuple(tensor.shape), _SAFE_NAMES.get(dtype, dtype), file, start, start + tensor.nbytes)
