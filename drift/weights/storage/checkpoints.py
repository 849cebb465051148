"""Model directories read lazily: names, shapes and dtypes from the safetensors headers, tensors one by one.

Nothing here loads a model: a header is a few hundred kilobytes, and a tensor is read when it is asked for.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from drift.ground.artifacts import PROVENANCE, content_sha256, read_provenance
from drift.ground.errors import CheckpointError, MissingCheckpointError
from drift.weights.naming.configurations import check_architecture, text_config
from drift.weights.naming.decoder import below, decoder_names, explain_no_decoder, layers_beyond
from drift.weights.naming.layout import (
    depth,
    equal_decoders,
    explain_missing,
    find_partners,
    find_vocabulary,
    match_parameters,
)
from drift.weights.storage.files import INDEX, SINGLE, leftovers, read_object, weight_files
from drift.weights.storage.headers import DTYPE_NAMES, TensorInfo, indexed_tensors, read_headers, read_pieces

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Checkpoint",
    "fingerprint",
    "match_parameters",
    "original_vlm_sha256",
    "pair_decoders",
    "resolve",
]

ONLY_AN_ADAPTER = (
    "only an adapter; merge it into its base model first (drift merge --method linear --weights 0,1 --expert ADAPTER "
    "--vlm BASE, or peft: merge_and_unload)"
)

_HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?(@[\w./-]+)?$")
_HUB_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.py", "*.tiktoken", "spk_dict.pt"]
_HUB_WEIGHTS = ["*.safetensors"]


def resolve(reference: str, *, weights: bool = True) -> Path:
    """The local directory of a checkpoint: `reference` itself, or the download of a hub id (`id` or `id@revision`).

    Without ``weights`` a download has the small files alone, a processor's and the configuration.
    Raises MissingCheckpointError if it is neither, or the hub cannot be reached and has not been before, and
    CheckpointError for a file.
    """
    path = Path(reference).expanduser()
    if reference and path.is_dir():
        return path
    if reference and path.exists():
        raise CheckpointError(f"{reference}: a file; give the model's directory")
    if not reference or path.is_absolute() or not _HUB_ID.match(reference):
        raise MissingCheckpointError(f"'{reference}': no such directory; give a model directory or a hub id")
    from huggingface_hub import snapshot_download

    repository, _, revision = reference.partition("@")
    files = _HUB_FILES + _HUB_WEIGHTS * weights
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=files))
    except Exception as error:  # huggingface_hub and httpx raise many kinds
        raise MissingCheckpointError(
            f"{reference}: no such directory, and no such model on the hub or the hub is out of reach "
            f"({type(error).__name__}); check the name"
        ) from error


# --------------------------------------------------------------------------------------------- models


class Stored(Protocol):
    """What tensors are read from by their names: a checkpoint, or a Δ."""

    @property
    def path(self) -> Path:
        """Its folder."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Where each tensor lies."""

    def pieces(self, name: str, elements: int) -> Iterator[Tensor]:
        """`read_pieces` of the tensor of this name."""

    def sha256(self) -> str:
        """The hash of its weights."""


class Checkpoint:
    """A model directory: `config`, and `tensors` by their names on disk. Reads headers only.

    Raises CheckpointError if the directory is incomplete, quantised, an adapter, or not in safetensors.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = _read_config(self.path)
        self.files, self.tensors = self._read_weights()
        self.shapes = {name: info.shape for name, info in self.tensors.items()}
        self._opened: dict[Path, Any] = {}

    def _read_weights(self) -> tuple[list[Path], dict[str, TensorInfo]]:
        """Its weight files, and where in them each tensor lies."""
        files = weight_files(self.path)
        return files, _read_tensors(self.path, files)

    @property
    def sharded(self) -> bool:
        """Whether an index names its files."""
        return self.files != [self.path / SINGLE]

    @property
    def indices(self) -> list[Path]:
        """The index of its files, if they have one."""
        return [self.path / INDEX] if self.sharded else []

    @property
    def revision(self) -> str | None:
        """The commit of a model from the hub; None for any other directory."""
        return self.path.name if self.path.parent.name == "snapshots" else None

    @property
    def name(self) -> str:
        """The hub id of a model from the hub, else the name of its directory."""
        if self.revision is None:
            return self.path.resolve().name
        return self.path.parent.parent.name.removeprefix("models--").replace("--", "/")

    @property
    def text_config(self) -> dict[str, Any]:
        """The configuration of the text decoder: a part of a multimodal model's, or all of a text model's."""
        return text_config(self.config)

    @property
    def warnings(self) -> list[str]:
        """What of the directory is left out though it looks like the model's."""
        left, beyond = leftovers(self.path, self.files), layers_beyond(self.shapes, self.config)
        more = f"layers {beyond} from num_hidden_layers on (multi-token prediction) are left out"
        files = f"{', '.join(left)} not read: transformers loads {self.files[0].name}"
        return [f"{self.path}: {text}" for text, applies in ((files, left), (more, beyond)) if applies]

    def sha256(self) -> str:
        """Its `fingerprint`."""
        return fingerprint(self.path)

    def canonical(self) -> dict[str, str]:
        """Canonical name → name on disk of the text decoder and its head; of a multimodal model the decoder alone.

        Rotary buffers, tensors without elements and layers from `num_hidden_layers` on (multi-token prediction) are no
        part of it. Raises CheckpointError if there is no text decoder.
        """
        names = decoder_names(self.shapes, self.config)
        if not names:
            raise CheckpointError(f"{self.path}: {explain_no_decoder(self.shapes, self.config)}")
        return names

    def tensor(self, name: str) -> Tensor:
        """The tensor of this name on disk, on the CPU, in its own dtype."""
        return self._open(name).get_tensor(name)

    def pieces(self, name: str, elements: int) -> Iterator[Tensor]:
        """`read_pieces` of the tensor of this name."""
        return read_pieces(self.tensors[name], name, elements)

    def first_rows(self, name: str, elements: int) -> Tensor:
        """The first rows of a tensor, about so many elements of it; a number is a row of one."""
        if not self.shapes[name]:
            return self.tensor(name).reshape(1)
        return self._open(name).get_slice(name)[: self._rows(name, elements)]

    def _rows(self, name: str, elements: int) -> int:
        """How many rows have about so many elements: at least one, which of fused experts is a whole expert."""
        return max(1, elements // max(1, math.prod(self.shapes[name][1:] or self.shapes[name])))

    def require_float(self, name: str) -> None:
        """Raise CheckpointError if a tensor's dtype is not one that can be subtracted and merged."""
        if (dtype := self.tensors[name].dtype) not in DTYPE_NAMES:
            raise CheckpointError(f"{self.path}: '{name}' is {dtype}; take the original, unquantised checkpoint")

    def _open(self, name: str) -> Any:
        from safetensors import safe_open

        file = self.tensors[name].file
        if file not in self._opened:
            self._opened[file] = safe_open(str(file), framework="pt")
        return self._opened[file]


def pair_decoders(expert: Checkpoint, other: Checkpoint) -> dict[str, str]:
    """Canonical name of the expert → name on disk in `other`, for tensors of equal shape; headers only.

    The head and the embeddings may be absent (tied), or have more or fewer rows (vocabularies of different size).
    Raises CheckpointError if the two text decoders differ in depth, width or kind.
    """
    check_architecture((str(expert.path), expert.text_config), (str(other.path), other.text_config))
    shapes = {name: expert.shapes[own] for name, own in expert.canonical().items()}
    partners = find_partners(other.shapes, shapes)
    inside = next((name for name in partners if name.startswith("layers.")), None)
    if inside is None:
        raise CheckpointError(f"{other.path}: {_explain_no_partner(shapes, other)} ({expert.path})")
    prefix = partners[inside].removesuffix(inside)
    there = below(other.shapes, prefix, other.config)
    depths = depth(shapes), depth(there)
    if depths[0] != depths[1]:
        raise CheckpointError(f"{expert.path} has {depths[0]} layers, {other.path} has {depths[1]}: not of one base")
    return find_vocabulary(other.shapes, shapes, prefix) | partners


def _explain_no_partner(expert: Mapping[str, tuple[int, ...]], other: Checkpoint) -> str:
    if equal := equal_decoders(other.shapes, expert):
        return f"text decoders at {' and '.join(map(repr, equal))} fit the expert equally well, so that none is taken"
    name = next(name for name in expert if name.startswith("layers."))
    return f"no text decoder like the expert's; '{name}': {explain_missing(name, expert[name], other.shapes)}"


def fingerprint(path: Path, files: Iterable[Path] | None = None) -> str:
    """SHA-256 over the contents of a model directory's weight files (name and contents of each), or of ``files``."""
    digest = hashlib.sha256()
    for file in sorted(weight_files(path) if files is None else files):
        digest.update(f"{file.relative_to(path).as_posix()}\0{content_sha256(file)}\n".encode())
    return digest.hexdigest()


def original_vlm_sha256(path: Path) -> str:
    """Fingerprint of the φ_VL a model was made from, as its provenance says; its own where it says nothing."""
    return recorded_vlm_sha256(path) or fingerprint(path)


def recorded_vlm_sha256(path: Path) -> str | None:
    """Fingerprint of the φ_VL that a model was trained or merged from here; None for one that was not made here."""
    return read_provenance(path).get("original_vlm_sha256") if (path / PROVENANCE).is_file() else None


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such model directory")
    if (path / "adapter_config.json").is_file() and not any(path.glob("model*.safetensors")):
        raise CheckpointError(f"{path}: {ONLY_AN_ADAPTER}")
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path}: not a model directory (no config.json)")
    if (path / "adapter_config.json").is_file() and any(path.glob("adapter_model.*")):
        raise CheckpointError(
            f"{path}: an adapter beside the model, which transformers loads on top; merge it (peft: merge_and_unload), "
            "or remove adapter_config.json"
        )
    config = read_object(path / "config.json")
    for part in (config, text_config(config)):
        for quantisation in (part.get("quantization_config"), part.get("compression_config")):
            if isinstance(quantisation, dict):
                method = quantisation.get("quant_method", "unknown method")
                raise CheckpointError(f"{path}: quantised ({method}); take the original, unquantised checkpoint")
    if config.get("is_encoder_decoder") or text_config(config).get("is_encoder_decoder"):
        raise CheckpointError(
            f"{path}: an encoder-decoder model (is_encoder_decoder in config.json), whose two stacks have the same "
            "names; not supported, take a model whose text part is a decoder alone"
        )
    if named := config.get("transformers_weights"):
        raise CheckpointError(
            f"{path}: config.json names its weights itself (transformers_weights: {named}); rename it"
        )
    return config


def _read_tensors(path: Path, files: list[Path]) -> dict[str, TensorInfo]:
    headers = read_headers(path, files)
    return headers[SINGLE].tensors if SINGLE in headers else indexed_tensors(path / INDEX, headers)
