"""Canonical tensor names of a text decoder, in whatever family and layout it is stored.

A canonical name is relative to the decoder: `layers.3.self_attn.q_proj.weight`, `norm.weight`,
`embed_tokens.weight`; the language head is `lm_head.weight` wherever it hangs. Where the decoder hangs
(`model.`, `model.language_model.`, `language_model.model.`, ...) is found by counting which prefix makes the
most (name, shape) pairs agree: no table of families. Pure functions over names and shapes: no torch, no files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drift.config.models import parse_layers
from drift.ground.errors import CheckpointError, ConfigError, PriorError

Shape = Sequence[int]

_LAYER = re.compile(r"^(?P<prefix>.*?)layers\.(?P<index>\d+)\.")
_HEAD = "lm_head."
_FUSED = re.compile(r"\.experts\.(?!\d)")
_MODULES = {
    "attn": re.compile(r"^layers\.\d+\.(self_attn|linear_attn)\.\w*proj\w*\.(weight|bias)$"),
    "mlp": re.compile(r"^layers\.\d+\.(mlp|feed_forward)\.(.*\.)?\w*proj(\.weight|\.bias)?$"),
    "router": re.compile(r"^layers\.\d+\.(mlp|feed_forward)\.(gate|router|shared_expert_gate)\.(weight|bias)$"),
    "norm": re.compile(r"(^|\.)\w*norm\w*\.(weight|bias)$"),
    "head": re.compile(r"^lm_head\.(weight|bias)$"),
    "embed": re.compile(r"^embed_tokens\.weight$"),
}


def decoder_prefix(names: Iterable[str]) -> str | None:
    """The prefix most `layers.N.` names share: where the decoder of a text model hangs; None without layers."""
    prefixes = Counter(match["prefix"] for name in names if (match := _LAYER.match(name)))
    return prefixes.most_common(1)[0][0] if prefixes else None


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Canonical name → own name, for the names of a *text* model; what is outside the decoder is left out."""
    names = list(names)
    prefix = decoder_prefix(names)
    if prefix is None:
        return {}
    inside = {name.removeprefix(prefix): name for name in names if name.startswith(prefix) and not _is_head(name)}
    return inside | {_HEAD + name.rpartition(".")[2]: name for name in names if _is_head(name)}


def find_partners(names: Mapping[str, Shape], canonical: Mapping[str, Shape]) -> dict[str, str]:
    """Canonical name → name of the same shape in `names`, for as many as there are.

    Every prefix before `layers.N.` in `names` is tried; the one with most hits is the decoder. Two equally
    good decoders are no decoder: the result is then empty.
    """
    prefixes = {match["prefix"] for name in names if (match := _LAYER.match(name))}
    found = sorted((_hits(names, canonical, prefix) for prefix in prefixes), key=len, reverse=True)
    if not found or not found[0] or (len(found) > 1 and len(found[1]) == len(found[0])):
        found = [{}]
    return found[0] | _head_hits(names, canonical)


def unpaired(names: Iterable[str], partners: Mapping[str, str]) -> dict[str, str]:
    """Canonical name → name, of what stands in the layers of a decoder and is nobody's partner."""
    inside = next(canonical for canonical in partners if canonical.startswith("layers."))
    prefix = partners[inside].removesuffix(inside)
    left = (name for name in names if name.startswith(prefix + "layers."))
    return {name.removeprefix(prefix): name for name in sorted(set(left) - set(partners.values()))}


def match_parameters(names_and_shapes: Mapping[str, Shape], canonical: Mapping[str, Shape]) -> dict[str, str]:
    """Canonical name → name in a model, for every tensor of a Δ; `names_and_shapes` may be on disk or at run time.

    Raises PriorError, naming the first tensor without a partner of its shape.
    """
    partners = find_partners(names_and_shapes, canonical)
    for name, shape in canonical.items():
        if name not in partners:
            raise PriorError(f"{name}: {explain_missing(name, shape, names_and_shapes)}; is Δ for another model?")
    return partners


def explain_missing(name: str, shape: Shape, names: Mapping[str, Shape]) -> str:
    """Why the canonical `name` has no partner among `names`, as half a sentence."""
    ending = [other for other in names if other == name or other.endswith("." + name)]
    if ending:
        return f"shape {list(shape)} does not fit {list(names[ending[0]])} of '{ending[0]}'"
    if name.startswith(_HEAD):
        return "the model has no such tensor, its head is tied to embed_tokens (select 'embed' instead)"
    if ".experts." in name:
        fused = "unfused" if _FUSED.search(name) else "fused"
        return (
            f"the model has its experts {fused}, and experts of this name are not converted; select attn alone, or "
            "compute a Δ of an older version again"
        )
    return "the model has no tensor of this name and shape in its text decoder"


_SAME = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "hidden_act",
)
_ALIKE = ("rope_theta", "vocab_size", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings")


def check_architecture(expert: tuple[str, Mapping[str, Any]], other: tuple[str, Mapping[str, Any]]) -> None:
    """Raise CheckpointError if two text configurations, each with its model's name, cannot be of one base."""
    _refuse_renumbered(expert, other)
    for key in _SAME:
        values = [config.get(key) for _, config in (expert, other)]
        if None not in values and values[0] != values[1]:
            raise CheckpointError(
                f"{key}: {values[0]} in {expert[0]}, {values[1]} in the text decoder of {other[0]}: not of one base"
            )


def _refuse_renumbered(*models: tuple[str, Mapping[str, Any]]) -> None:
    """Mllama counts its cross-attention layers among the decoder's: names agree where the layers do not."""
    crossed = [
        (name, config["cross_attention_layers"]) for name, config in models if "cross_attention_layers" in config
    ]
    if len(crossed) == 1 or (len(crossed) == 2 and crossed[0][1] != crossed[1][1]):
        raise CheckpointError(
            f"{crossed[0][0]}: cross-attention layers ({crossed[0][1]}) are counted among the decoder's, so that"
            " layer N is another layer of the other model; not supported"
        )


def config_differences(expert: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What differs between two text configurations of one architecture: legitimate, but worth a warning."""
    pairs = [(key, _setting(expert, key), _setting(other, key)) for key in _ALIKE]
    return [f"{key}: {a} against {b}" for key, a, b in pairs if a is not None and b is not None and a != b]


def _setting(config: Mapping[str, Any], key: str) -> Any:
    rope = config.get("rope_parameters") or {}
    return rope["rope_theta"] if key == "rope_theta" and "rope_theta" in rope else config.get(key)


def layer_index(name: str) -> int | None:
    """3 for `layers.3.mlp.up_proj.weight`, None for tensors outside the layers."""
    match = _LAYER.match(name)
    return int(match["index"]) if match else None


def depth(names: Iterable[str]) -> int:
    """Number of layers among canonical names."""
    return len({layer_index(name) for name in names} - {None})


def module_of(name: str) -> str:
    """The module a canonical name belongs to: attn, mlp, router, norm, head, embed, or `other`."""
    return next((module for module, pattern in _MODULES.items() if pattern.search(name)), "other")


def select_modules(
    names: Sequence[str], modules: Sequence[str], layers: str | None = None, include_bias: bool = True
) -> list[str]:
    """The canonical names that `modules` choose, in the order of `names`.

    `layers` limits tensors of layers only: the final norm, head and embeddings have none.
    Raises ConfigError if a module is unknown or selects nothing, or a layer does not exist.
    """
    within = _in_layers(names, layers)
    chosen: set[str] = set()
    for module in modules:
        hits = {name for name in within if is_selected(name, module, include_bias)}
        if not hits:
            tied = " (a head tied to the embeddings is no tensor of its own: select embed)" if module == "head" else ""
            raise ConfigError(f"modules: '{module}' selects no tensor of the text decoder{tied}")
        chosen |= hits
    if not chosen:
        raise ConfigError("modules: empty; choose of attn, mlp, router, norm, head, embed or re:<pattern>")
    return [name for name in names if name in chosen]


def is_selected(name: str, module: str, include_bias: bool) -> bool:
    """Whether a module's pattern finds a canonical name. Raises ConfigError if the module is unknown."""
    return bool(_pattern(module).search(name)) and (include_bias or not name.endswith(".bias"))


def _in_layers(names: Sequence[str], layers: str | None) -> list[str]:
    if layers is None:
        return list(names)
    wanted = parse_layers(layers)
    present = {layer_index(name) for name in names} - {None}
    if missing := sorted(wanted - present):
        raise ConfigError(
            f"layers: '{layers}' names layer {missing[0]}, but the decoder has layers 0-{len(present) - 1}"
        )
    return [name for name in names if layer_index(name) is None or layer_index(name) in wanted]


def _pattern(module: str) -> re.Pattern[str]:
    if module in _MODULES:
        return _MODULES[module]
    if not module.startswith("re:"):
        raise ConfigError(f"modules: '{module}' is unknown; choose of {', '.join(_MODULES)} or re:<pattern>")
    try:
        return re.compile(module.removeprefix("re:"))
    except re.error as error:
        raise ConfigError(f"modules: '{module}' is no regular expression ({error})") from error


def _is_head(name: str) -> bool:
    return name.startswith(_HEAD) or f".{_HEAD}" in name


def _hits(names: Mapping[str, Shape], canonical: Mapping[str, Shape], prefix: str) -> dict[str, str]:
    return {
        name: prefix + name
        for name, shape in canonical.items()
        if not _is_head(name) and list(names.get(prefix + name, ())) == list(shape) and prefix + name in names
    }


def _head_hits(names: Mapping[str, Shape], canonical: Mapping[str, Shape]) -> dict[str, str]:
    heads = [name for name in names if _is_head(name)]
    wanted = {name: shape for name, shape in canonical.items() if _is_head(name)}
    pairs = {
        name: [head for head in heads if head.endswith(name) and list(names[head]) == list(shape)]
        for name, shape in wanted.items()
    }
    return {name: hits[0] for name, hits in pairs.items() if len(hits) == 1}
