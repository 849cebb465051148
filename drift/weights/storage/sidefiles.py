"""What goes from φ_VL's folder into that of a model made of it, merged or trained, beside the weights."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from drift.ground.artifacts import PROVENANCE, own_name
from drift.weights.storage.checkpoints import Checkpoint

RECIPE = "merge.json"
ADAPTER = "adapter"
"""Folder below a trained model's, where `train.lora.save` is `both`: of these weights alone."""
_OLD_WEIGHTS = (
    "consolidated*",
    "pytorch_model*",
    "tf_model*",
    "flax_model*",
    "*.gguf",
    "*.onnx*",
    "*.h5",
    "*.msgpack",
    "*.ot",
    "*.tflite",
    "openvino_model*",
)
_OF_A_TRAINING = (
    "checkpoint-*",
    "global_step*",
    "optimizer*",
    "rng_state*",
    "scheduler.pt",
    "training_args.bin",
    "cosines.svg",
    ADAPTER,
)


@dataclass(frozen=True)
class SideFiles:
    """Files below a model's folder: those that are copied, and those left out that are not written anew either."""

    source: Path
    copied: tuple[Path, ...]
    left: tuple[Path, ...]

    @property
    def warnings(self) -> list[str]:
        """One line that names what is left out; a folder once, with the number of its files."""
        tops = Counter(file.relative_to(self.source).parts[0] for file in self.left)
        named = [f"{top}/ ({count} files)" if (self.source / top).is_dir() else top for top, count in tops.items()]
        return [f"{self.source}: not copied: {', '.join(named)}"] if named else []

    def copy(self, folder: Path) -> None:
        """Into another folder, with their sub-folders; a file that it has already stays."""
        for file in self.copied:
            there = folder / file.relative_to(self.source)
            if not there.exists():
                there.parent.mkdir(parents=True, exist_ok=True)
                _copy_whole(file, there)


def _copy_whole(file: Path, there: Path) -> None:
    """Complete or not at all: what a full disk has cut short would stay."""
    aside = own_name(there)
    try:
        shutil.copyfile(file, aside)
        aside.replace(there)
    finally:
        aside.unlink(missing_ok=True)


def side_files(vlm: Checkpoint) -> SideFiles:
    """Configuration, processor, templates, code, whatever lies in sub-folders, and weights outside the model's own.

    Left out: other forms of the weights that are replaced, the state of a training, what was made here and lies below,
    and hidden files.
    """
    written = {*vlm.files, *vlm.indices, vlm.path / PROVENANCE, vlm.path / RECIPE}
    files = [file for file in _walk(vlm.path) if file not in written]
    copied = [file for file in files if not _is_left(vlm, file)]
    return SideFiles(vlm.path, tuple(copied), tuple(file for file in files if file not in copied))


def _walk(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _is_left(vlm: Checkpoint, file: Path) -> bool:
    parts = file.relative_to(vlm.path).parts
    hidden = any(part.startswith(".") for part in parts)
    old = any(fnmatch(part, pattern) for part in parts for pattern in (*_OLD_WEIGHTS, *_OF_A_TRAINING))
    variant = len(parts) == 1 and fnmatch(file.name, "model*.safetensors")
    foreign = file.name.endswith(".index.json") and len(parts) == 1
    made_here = any((vlm.path.joinpath(*parts[:depth]) / PROVENANCE).is_file() for depth in range(1, len(parts)))
    return hidden or old or variant or foreign or made_here
