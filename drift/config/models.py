"""`models`, `deltas` and merges: the checkpoints, and what is made of them without training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from drift.config.section import Count, Fraction, Layered, Module, Name, Positive, Section
from drift.ground.errors import ConfigError


def parse_layers(text: str) -> frozenset[int]:
    """`"0-2,5"` as {0, 1, 2, 5}. Raises ValueError."""
    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise ValueError(f"'{part.strip()}' is no layer or range; write for example '0-27' or '4,8-11'")
        chosen.update(range(int(first), int(last if dash else first) + 1))
    return frozenset(chosen)


def _parses(layers: str) -> str:
    parse_layers(layers)
    return layers


Layers = Annotated[str, AfterValidator(_parses)]
"""`0-27`, `4,8-11`."""


ADAPTER_CONFIG = "adapter_config.json"


def split_base(reference: str) -> tuple[str, str | None]:
    """`BASE+ADAPTER` as (ADAPTER, BASE); any other reference, and a path that is there, as (itself, None)."""
    base, _, adapter = reference.rpartition("+")
    there = Path(reference).expanduser().exists()
    return (adapter, base) if base and adapter and not there else (reference, None)


def is_adapter(path: Path) -> bool:
    """Whether a folder has an adapter and no model of its own."""
    return (path / ADAPTER_CONFIG).is_file() and not any(path.glob("model*.safetensors"))


def stated_base(path: Path) -> str | None:
    """What an adapter's folder names as its base (`id`, `id@revision` or a path); None for any other folder."""
    if not is_adapter(path):
        return None
    try:
        config = json.loads((path / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base, revision = config.get("base_model_name_or_path"), config.get("revision")
    except (OSError, ValueError, AttributeError):
        return None
    return f"{base}@{revision}" if base and revision and not Path(base).exists() else base or None


class ModelsConfig(Section):
    """The checkpoints: local directories or hub ids, all fine-tuned from one base."""

    vlm: str
    """φ_VL, the multimodal model to fine-tune."""
    expert: str
    """φ_reason, the text model that reasons; or a LoRA adapter, alone or as BASE+ADAPTER."""
    base: str | None = None
    """φ_base, the language model both come from; some merges and Δ = φ_reason − φ_base need it."""
    start: str | None = None
    """What training starts from: null is φ_VL; `champion` the registry's, if there is one; or a checkpoint made from
    φ_VL. Δ, its projection and the gate's baseline stay φ_VL's. An arm that merges first starts from its merge."""

    @property
    def start_at_champion(self) -> bool:
        """Whether the registry says what training starts from."""
        return self.start == "champion"

    def without_start(self) -> Self:
        """For what does not depend on where training starts."""
        return self.model_copy(update={"start": None})


class ExpertConfig(Section):
    """One of several experts that a Δ is made of."""

    model: str | None = None
    """A checkpoint, or a LoRA adapter, alone or as BASE+ADAPTER; null is `models.expert`."""
    weight: float = Field(1.0, allow_inf_nan=False)
    """Its share of the direction, relative to the others'; negative leads away from it."""
    minus: str | None = None
    """What is subtracted from it; null is the Δ's own `minus`."""

    @field_validator("weight")
    @classmethod
    def _weighs_something(cls, weight: float) -> float:
        if weight == 0:
            raise ValueError("an expert of weight 0 takes no part; remove it")
        return weight


class DeltaConfig(Section):
    """One prior Δ = φ_reason − φ_other, or a weighted mean of several, over the text decoder's selected modules."""

    experts: tuple[ExpertConfig, ...] = ()
    """Several experts, each with a weight: Δ points along Σ wᵢ Δᵢ/‖Δᵢ‖. Empty: `models.expert` alone, Δ raw."""
    minus: str = "vlm"
    """φ_other: `vlm` (the paper's), `base`, or a checkpoint."""
    modules: tuple[Module, ...] = ("attn", "mlp")
    """attn, mlp, router, norm, head, embed, or `re:` and a pattern over canonical names."""
    layers: Layers | None = None
    """`0-27`, `4,8-11`; null for all."""
    include_bias: bool = True
    """The biases of the selected modules too."""
    rank: Count | None = None
    """Each matrix of Δ as two factors of this rank, those of its largest singular values; null: whole."""
    dtype: Literal["int8", "float8_e4m3fn"] | None = None
    """Each matrix of Δ in 8 bits with a scale for each row; null: the checkpoints' dtype."""
    shuffle: int | None = None
    """A control: with this seed, each tensor's elements change places. Its norm stays, its direction does not."""
    force: bool = False
    """Go on although the checkpoints do not look like fine-tunes of one base, φ_VL was made from another one here or is
    a text model."""
    allow_pickle: bool = False
    """Read an expert or base whose weights are in `pytorch_model.bin` alone, by torch's weights-only loader."""

    @model_validator(mode="after")
    def _is_one_form(self) -> Self:
        if self.rank is not None and self.dtype is not None:
            raise ValueError(f"rank: {self.rank} with dtype {self.dtype}; Δ is stored in one form, remove one of them")
        return self

    @property
    def pairs(self) -> tuple[tuple[str | None, str, float], ...]:
        """(expert or None for `models.expert`, what is subtracted from it, weight) of each difference Δ is made of."""
        experts = self.experts or (ExpertConfig(),)
        return tuple((expert.model, expert.minus or self.minus, expert.weight) for expert in experts)


MergeMethod = Literal[
    "linear",
    "layer_swap",
    "slerp",
    "task_arithmetic",
    "ties",
    "dare_ties",
    "dare_linear",
    "della",
    "della_linear",
    "frank",
    "frism",
    "ip_merging",
    "delta",
]
RANDOM_MERGES = ("dare_ties", "dare_linear", "della", "della_linear")
"""What they leave out is drawn, from `seed`."""


class MergePartConfig(Section):
    """Where a merge has other weights."""

    modules: tuple[Layered, ...] = ()
    """attn, mlp, router, norm, or `re:` and a pattern over canonical names; empty for all."""
    layers: Layers | None = None
    """`0-27`, `4,8-11`; null for all, and for what is in no layer."""
    weights: tuple[float, ...]
    """Of φ_VL and of each expert."""

    @model_validator(mode="after")
    def _is_a_part(self) -> Self:
        if not self.modules and self.layers is None:
            raise ValueError("a part has modules, layers or both; weights of the whole are the merge's own")
        return self


class MergeConfig(Section):
    """A merge over the text decoder, by the methods of docs/merging.md; vision, embeddings and head stay the VLM's."""

    method: MergeMethod
    """Formulas, sources and settings: docs/merging.md."""
    experts: tuple[str | None, ...] = ()
    """Several experts: checkpoints, null for `models.expert`. Empty: that alone."""
    delta: Name | None = None
    """Method `delta`: which of `deltas` is added to φ_VL."""
    weights: tuple[float, ...] = (0.9, 0.1)
    """Weights of φ_VL and of each expert (or of their differences from φ_base). FRANK computes its own;
    `delta` has 1 and the factor of Δ."""
    parts: tuple[MergePartConfig, ...] = ()
    """Other weights in some modules or layers; the last part that a tensor is in counts."""
    density: float = Field(0.2, gt=0, le=1)
    """TIES, DARE, DELLA: share of each difference that is kept."""
    epsilon: float = Field(0.15, ge=0)
    """DELLA: from the smallest to the largest of a row, the chance to be kept rises from density − epsilon to density +
    epsilon."""
    keep_first: int = Field(6, ge=0)
    """Layer swap: the first layers that stay the VLM's."""
    rescale: bool = True
    """DARE, DELLA: divide what is kept by the chance that it was. BR2V's published numbers were made without."""
    seed: int = 0
    """Of DARE's and DELLA's draws."""

    decay: Positive | None = None
    """FRANK: α of its prior exp(−α l) for φ_VL in layer l, counted from 1; null for none."""
    gates: tuple[Fraction, ...] = Field((0.5,), min_length=1)
    """FRISM: of equal shares of the expert's singular directions, from the largest singular value on; 0.5 for all is
    where its training starts."""
    threshold: Fraction = 0.4
    """IP-Merging: a matrix is merged if a singular direction of the expert is so similar to the VLM's of that rank."""
    force: bool = False
    """Go on although the checkpoints do not look like fine-tunes of one base, or φ_VL is a text model."""
    allow_pickle: bool = False
    """Read an expert or base whose weights are in `pytorch_model.bin` alone, by torch's weights-only loader."""

    @property
    def all_weights(self) -> list[tuple[str, tuple[float, ...]]]:
        """Those of the whole and of every part, each with its key."""
        parts = [(f"parts.{place}.weights", part.weights) for place, part in enumerate(self.parts)]
        return [("weights", self.weights), *parts]

    @property
    def needs_base(self) -> bool:
        """Whether the method is one over differences from φ_base."""
        return self.method not in ("linear", "layer_swap", "slerp", "delta")

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        experts = len(self.experts) or 1
        if self.method != "delta" and self.delta is not None:
            raise ValueError(f"delta: only method 'delta' takes one (got '{self.delta}' with '{self.method}')")
        if self.method == "delta" and self.experts:
            raise ValueError("experts: method 'delta' takes none; they are in Δ")
        if experts > 1 and self.method in ("slerp", "frank", "frism", "ip_merging"):
            raise ValueError(f"experts: {self.method} merges one expert (got {experts})")
        if self.method == "frank" and (self.parts or self.weights != (0.9, 0.1)):
            raise ValueError("weights: frank computes its own from the task vectors; remove weights and parts")
        for key, weights in self.all_weights:
            if len(weights) != 1 + experts:
                raise ValueError(f"{key}: one of φ_VL and one of each expert ({experts}), got {list(weights)}")
            if self.method == "slerp" and abs(math.fsum(weights) - 1) > 1e-6:
                raise ValueError(f"{key}: slerp's are 1 − t and t, which sum to 1 (got {list(weights)})")
            if self.method == "delta" and weights[0] != 1:
                raise ValueError(f"{key}: method 'delta' adds to φ_VL: 1, then the factor of Δ (got {list(weights)})")
        return self

    @model_validator(mode="after")
    def _chances_fit(self) -> Self:
        low, high = self.density - self.epsilon, self.density + self.epsilon
        if self.method in ("della", "della_linear") and self.density < 1 and not 0 < low <= high < 1:
            given = f"{self.density} ± {self.epsilon}"
            raise ValueError(f"epsilon: density ± epsilon must lie between 0 and 1 (got {given})")
        return self


def merge_preset(name: str, method: str) -> dict[str, Any]:
    """A published recipe's settings of a method. `br2v`: those of the paper's baselines, DARE without its rescaling.

    Raises ConfigError for an unknown preset, or a method that it has no settings of.
    """
    if name != "br2v":
        raise ConfigError(f"preset: '{name}' is unknown; known: br2v")
    if method in ("ties", "dare_ties", "dare_linear"):
        return {"weights": [1.6, 0.2], "density": 0.2, "rescale": False}
    if method in ("linear", "task_arithmetic", "layer_swap"):
        return {"weights": [0.9, 0.1], "keep_first": 6}
    raise ConfigError(f"preset: br2v published no '{method}'; leave the preset out")
