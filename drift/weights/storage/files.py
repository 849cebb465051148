"""Which files of a model directory are its weights: those that transformers would load from it.

A directory may hold others beside them: an index that an older, sharded save has left, shards that nothing names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from drift.ground.artifacts import read_json
from drift.ground.errors import CheckpointError, DataError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLED_INDEX = "pytorch_model.bin.index.json"
PICKLED = "pytorch_model.bin"


def weight_files(path: Path) -> list[Path]:
    """The weight files of a model directory, in transformers' order (`_get_resolved_checkpoint_files`): the single file
    before an index, whose files are read by name.

    Raises CheckpointError if there are none in safetensors, or one is missing.
    """
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    if (path / INDEX).is_file():
        return indexed_files(path / INDEX)
    raise CheckpointError(f"{path}: {_explain_no_weights(path)}")


def is_pickled(path: Path) -> bool:
    """Whether a model directory has weights in torch's format and none in safetensors."""
    forms = [[path / one for one in names] for names in ((SINGLE, INDEX), (PICKLED, PICKLED_INDEX))]
    safe, pickled = (any(file.is_file() for file in files) for files in forms)
    return pickled and not safe


def pickled_files(path: Path) -> tuple[list[Path], Path | None]:
    """The files of one that `is_pickled`, in transformers' order, and their index if it is one that names them.

    Raises CheckpointError if one is missing.
    """
    if (path / PICKLED).is_file():
        return [path / PICKLED], None
    return indexed_files(path / PICKLED_INDEX), path / PICKLED_INDEX


def _explain_no_weights(path: Path) -> str:
    if shards := sorted(path.glob("model-*-of-*.safetensors")):
        return f"{shards[0].name} without {INDEX}, which transformers does not load either; download it again"
    if own := sorted(path.glob("consolidated*.safetensors")):
        return f"only {own[0].name}, with names that transformers does not load; take the files of its layout"
    if other := sorted(file for ending in ("bin", "pth", "gguf") for file in path.glob(f"*.{ending}")):
        way = "from_pretrained, then save_pretrained"
        flag = "; an expert or base is read as it is with --allow-pickle (allow_pickle: true)" * is_pickled(path)
        return f"no safetensors, only {other[0].name}; convert it to safetensors first ({way}){flag}"
    return f"no weights ({SINGLE} or {INDEX})"


def leftovers(path: Path, files: Sequence[Path]) -> list[str]:
    """The names of weights and indices in a model directory that are not among ``files``, those that are read."""
    read = {*files, path / INDEX} if files != [path / SINGLE] else {*files}
    return sorted(file.name for file in {*path.glob("model*.safetensors*")} - read)


def indexed_files(index: Path) -> list[Path]:
    """The files that an index names. Raises CheckpointError if one is missing."""
    shards = sorted(set(weight_map(index).values()))
    for shard in shards:
        if not (index.parent / shard).is_file():
            raise CheckpointError(
                f"{index.parent}: shard '{shard}' is missing, which {index.name} names; download it again"
            )
    return [index.parent / shard for shard in shards]


def weight_map(index: Path) -> dict[str, str]:
    """File of every tensor, relative to the index. Raises CheckpointError if there is none, or one is outside."""
    named = read_object(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise CheckpointError(f"{index}: has no weight_map; download it again")
    for name, shard in named.items():
        if not isinstance(shard, str) or PurePosixPath(shard).is_absolute() or ".." in PurePosixPath(shard).parts:
            raise CheckpointError(f"{index}: '{name}' is said to be in {shard!r}, no file below it; download it again")
    return {name: PurePosixPath(shard).as_posix() for name, shard in named.items()}


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError if the file holds none."""
    try:
        content = read_json(file)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: not a JSON object; download it again")
    return content
