"""A text expert published as a LoRA adapter of its base: its tensors W + s·B·A, made as they are read.

Symbols: W a weight of the base (out, in), A (r, in) and B (out, r) the adapter's factors, s peft's scaling. No merged
copy is written; memory is that of the factors of one tensor and of the stretch at hand.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from drift.config.models import ADAPTER_CONFIG, is_adapter, split_base, stated_base
from drift.ground.errors import CheckpointError
from drift.weights.naming.layout import canonical_names, explain_missing, find_partners
from drift.weights.storage.checkpoints import Checkpoint, fingerprint, resolve
from drift.weights.storage.files import read_object
from drift.weights.storage.finite import is_finite
from drift.weights.storage.headers import DTYPE_NAMES, Header, read_header, read_pieces
from drift.weights.storage.pickled import model_at

WEIGHTS = "adapter_model.safetensors"
MERGE_FIRST = "merge it into its base model first (peft: merge_and_unload)"

_FACTOR = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<factor>(embedding_)?[AB])(\.weight)?$")
_USED = {"peft_type", "base_model_name_or_path", "revision", "lora_alpha", "alpha_pattern", "use_rslora"}
_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Of the factors; others, such as PiSSA's, change the base's weights too."""
_HARMLESS = {
    "r", "rank_pattern", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "task_type", "inference_mode", "auto_mapping", "peft_version", "fan_in_fan_out", "eva_config", "qalora_group_size",
    "megatron_core", "ensure_weight_tying", "runtime_config", "ephemeral_gpu_offload",
}  # fmt: skip
"""Keys that say nothing that the factors do not say themselves. `fan_in_fan_out` is for GPT-2's Conv1D, which no text
decoder known here has; for the linear layers of all others peft takes it back."""


@dataclass(frozen=True)
class Update:
    """s·B·A of one weight: the names of its factors in the adapter's file, and s. Those of an embedding are (A·B)ᵀ."""

    a: str
    b: str
    scaling: float
    embedding: bool


class Adapted(Checkpoint):
    """A model that is a LoRA adapter's folder over its base: names, shapes and dtypes are the base's.

    What the adapter changes is read in float32, and so not rounded to the base's dtype before something is subtracted
    from it. Raises CheckpointError for what is not plain LoRA on weights of the text decoder.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], base: Checkpoint) -> None:
        self.path, self.base = path, base
        self.config, self.files, self.tensors, self.shapes = base.config, base.files, base.tensors, base.shapes
        self._adapter = _read_factors(path)
        self._updates = _updates(path, config, self._adapter, base)

    def sha256(self) -> str:
        """Of the adapter's file and the base's."""
        adapter = fingerprint(self.path, [self.path / WEIGHTS])
        return hashlib.sha256(f"{adapter}\n{self.base.sha256()}\n".encode()).hexdigest()

    def tensor(self, name: str) -> Tensor:
        """W + s·B·A, float32; what the adapter leaves alone as it is in the base."""
        weight = self.base.tensor(name)
        return self._moved(name, weight) if name in self._updates else weight

    def first_rows(self, name: str, elements: int) -> Tensor:
        """The same of the first rows, about so many elements."""
        rows = self.base.first_rows(name, elements)
        return self._moved(name, rows) if name in self._updates else rows

    def pieces(self, name: str, elements: int) -> Iterator[Tensor]:
        """The same, flat, so many elements at a time: use a piece before the next but one."""
        if name not in self._updates:
            yield from self.base.pieces(name, elements)
            return
        (left, right), width, start = self._factors(name), self.shapes[name][1], 0
        for piece in self.base.pieces(name, elements):
            first, end = start // width, start + len(piece)
            rows = (left[first : -(-end // width)] @ right).flatten()
            yield piece.float() + rows[start - first * width : end - first * width]
            start = end

    def _moved(self, name: str, rows: Tensor) -> Tensor:
        left, right = self._factors(name)
        return rows.float() + left[: len(rows)] @ right

    def _factors(self, name: str) -> tuple[Tensor, Tensor]:
        """(out, r) and (r, in), float32, whose product is s·B·A."""
        update = self._updates[name]
        a, b = self._factor(update.a), self._factor(update.b)
        return (a.T * update.scaling, b.T) if update.embedding else (b * update.scaling, a)

    def _factor(self, name: str) -> Tensor:
        info = self._adapter.tensors[name]
        (values,) = read_pieces(info, name, math.prod(info.shape))
        if not is_finite(values):
            raise CheckpointError(f"{info.file}: '{name}' holds NaN or infinity; the adapter is broken, take another")
        return values.float().view(info.shape)


def base_named(base: Checkpoint) -> dict[str, str | None]:
    """How an adapter's configuration names its base: a model from the hub by id and commit, another by its path."""
    return {
        "base_model_name_or_path": base.name if base.revision else str(base.path.absolute()),
        "revision": base.revision,
    }


def open_model(reference: str, find: Callable[[str], Path] = resolve, *, allow_pickle: bool = False) -> Checkpoint:
    """A model directory or hub id, a LoRA adapter's (over the base that it names), or `BASE+ADAPTER`.

    ``find`` gives a directory for a reference; with ``allow_pickle`` a model may be `Pickled`. Raises CheckpointError
    as `Checkpoint` and `Adapted` do, and for a base given to what is no adapter.
    """
    adapter, base = split_base(reference)
    path = find(adapter)
    if not is_adapter(path):
        if base is not None:
            raise CheckpointError(f"{path}: no LoRA adapter ({ADAPTER_CONFIG}) to put on '{base}'; give it alone")
        return model_at(path, allow_pickle=allow_pickle)
    config = _read_config(path)
    own = base or stated_base(path)
    if not own:
        raise CheckpointError(f"{path / ADAPTER_CONFIG}: names no base_model_name_or_path; give BASE+ADAPTER")
    try:
        origin = model_at(find(own), allow_pickle=allow_pickle)
    except CheckpointError as error:
        raise type(error)(f"{path}: its base: {error}" + ("" if base else "; or give BASE+ADAPTER")) from error
    return Adapted(path, config, origin)


def _read_config(path: Path) -> dict[str, Any]:
    """Of plain LoRA. Raises CheckpointError, naming the key, for what would make other weights than W + s·B·A."""
    file = path / ADAPTER_CONFIG
    config = read_object(file)
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{file}: peft_type is {config.get('peft_type')}, only LORA is understood; {MERGE_FIRST}")
    plain = {"bias": ("none",), "init_lora_weights": _STARTS}
    for key, value in config.items():
        if value and key not in _USED | _HARMLESS and value not in plain.get(key, ()):
            raise CheckpointError(f"{file}: {key} is {value!s:.60}, which is not understood; {MERGE_FIRST}")
    return config


def _read_factors(path: Path) -> Header:
    if not (path / WEIGHTS).is_file():
        raise CheckpointError(f"{path}: an adapter without {WEIGHTS}; convert it to safetensors")
    return read_header(path / WEIGHTS)


def _updates(path: Path, config: Mapping[str, Any], adapter: Header, base: Checkpoint) -> dict[str, Update]:
    """The base's name of every weight that the adapter changes, and how."""
    updates, shapes = {}, {}
    for module, factors in _modules(path, adapter).items():
        embedding = "embedding_A" in factors
        a, b = (factors[f"embedding_{one}" if embedding else one] for one in "AB")
        (rank, columns), (rows, _) = adapter.tensors[a].shape, adapter.tensors[b].shape
        updates[f"{module}.weight"] = Update(a, b, _scaling(config, module, rank), embedding)
        shapes[f"{module}.weight"] = (columns, rows) if embedding else (rows, columns)
    partners = _partners(path, shapes, base)
    return {partners[weight]: update for weight, update in updates.items()}


def _modules(path: Path, adapter: Header) -> dict[str, dict[str, str]]:
    """The names of the two factors of every module. Raises CheckpointError for a tensor that is none, or alone."""
    found: dict[str, dict[str, str]] = {}
    for name, info in adapter.tensors.items():
        matrix = len(info.shape) == 2 and info.size_bytes and info.dtype in DTYPE_NAMES
        if not matrix or not (match := _FACTOR.match(name)):
            raise CheckpointError(
                f"{path / WEIGHTS}: '{name}' ({info.dtype} {list(info.shape)}) is no factor of LoRA; {MERGE_FIRST}"
            )
        found.setdefault(match["module"], {})[match["factor"]] = name
    for module, factors in found.items():
        if set(factors) not in ({"A", "B"}, {"embedding_A", "embedding_B"}):
            raise CheckpointError(f"{path / WEIGHTS}: '{module}' has {', '.join(factors)} alone; download it again")
    return found


def _partners(path: Path, shapes: Mapping[str, tuple[int, ...]], base: Checkpoint) -> dict[str, str]:
    """The base's name of every weight that the adapter names as the model that it was trained on did."""
    own = {weight: name for name, weight in canonical_names(shapes).items()}
    partners = find_partners(base.shapes, {name: shapes[weight] for weight, name in own.items()})
    for weight, shape in shapes.items():
        name = own.get(weight, weight)
        if name not in partners:
            why = explain_missing(name, shape, base.shapes)
            raise CheckpointError(f"{path}: '{weight}': {why} ({base.path}); give its own base (BASE+ADAPTER)")
    return {weight: partners[name] for weight, name in own.items()}


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    """α/r, with rank stabilisation α/√r; of `alpha_pattern` the first that the end of the module's name matches."""
    patterns = (config.get("alpha_pattern") or {}).items()
    own = (alpha for pattern, alpha in patterns if re.match(rf"(.*\.)?({pattern})$", module))
    alpha = float(next(own, config.get("lora_alpha", 8)))
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
