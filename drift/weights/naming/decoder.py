"""Which tensors of a model directory are its text decoder: of a text model, and of one that also sees or hears.

A vision tower has layers, too, and often more tensors. Of a multimodal model that decoder is taken which has the
embeddings beside its layers, and the width and depth that the text configuration says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from drift.weights.naming.configurations import is_multimodal, text_config
from drift.weights.naming.layout import Shape, canonical_names, depth, is_weight, layer_index, prefixes, stacks

_OF_TEXT = ("layers.", "norm.", "embed_tokens.", "rotary_emb.", "lm_head.")
_EMBEDDINGS = ("embed_tokens.weight", "tok_embeddings.weight")
_BESIDE = ("lm_head.", "mtp.", "model.mtp.", "score.", "v_head.")
"""Not in a text decoder, and no other sense either."""


def decoder_prefix(shapes: Mapping[str, Shape], config: Mapping[str, Any]) -> str | None:
    """Where the text decoder hangs; None without one."""
    candidates = prefixes(shapes)
    with_embeddings = [prefix for prefix in candidates if any(prefix + name in shapes for name in _EMBEDDINGS)]
    if not is_multimodal(config):
        return next(iter(with_embeddings or candidates), None)
    text = text_config(config)
    return next((prefix for prefix in with_embeddings if _is_described(shapes, prefix, text)), None)


def decoder_names(shapes: Mapping[str, Shape], config: Mapping[str, Any]) -> dict[str, str]:
    """Canonical name → own name of the weights of a model's text decoder and its head; empty without a decoder."""
    prefix = decoder_prefix(shapes, config)
    if prefix is None:
        return {}
    names = canonical_names((name for name, shape in shapes.items() if is_weight(name, shape)), prefix)
    whole = all(name.startswith(prefix) or "lm_head." in name for name in shapes)
    if is_multimodal(config) and whole:  # then the vision tower is below the prefix, too
        names = {name: own for name, own in names.items() if name.startswith(_OF_TEXT)}
    return {name: own for name, own in names.items() if (layer_index(name) or 0) < _depth(config)}


def has_other_parts(shapes: Mapping[str, Shape], config: Mapping[str, Any]) -> bool:
    """Whether a model is more than a text decoder, by its configuration or its tensors."""
    own = tuple(f"{decoder_prefix(shapes, config)}{part}" for part in _OF_TEXT)
    return is_multimodal(config) or not all(name.startswith((*own, *_BESIDE)) for name in shapes)


def below(names: Iterable[str], prefix: str, config: Mapping[str, Any]) -> list[str]:
    """Canonical names of what a decoder at ``prefix`` has, up to the depth that the configuration says."""
    inside = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
    return [name for name in inside if (layer_index(name) or 0) < _depth(config)]


def layers_beyond(shapes: Mapping[str, Shape], config: Mapping[str, Any]) -> str:
    """The layers that are stored past the decoder's depth, as `2,3`: multi-token prediction, which does not run."""
    prefix = decoder_prefix(shapes, config)
    inside = [] if prefix is None else (name.removeprefix(prefix) for name in shapes if name.startswith(prefix))
    return ",".join(map(str, sorted({layer for name in inside if (layer := layer_index(name) or 0) >= _depth(config)})))


def explain_no_decoder(shapes: Mapping[str, Shape], config: Mapping[str, Any]) -> str:
    """Why nothing was found, as a sentence."""
    there = f" (it has {', '.join(found)})" if (found := stacks(shapes)) else ""
    if not is_multimodal(config):
        return f"no tensor is named '...layers.N...'{there}; not a text decoder known here"
    text = text_config(config)
    return (
        "a multimodal model without a text decoder known here: no embed_tokens beside layers.N of "
        f"{text.get('num_hidden_layers', '?')} layers and width {text.get('hidden_size', '?')}{there}; "
        "give a text model"
    )


def _is_described(shapes: Mapping[str, Shape], prefix: str, text: Mapping[str, Any]) -> bool:
    """Whether the layers at a prefix have the text decoder's number and width; what is not said is not asked."""
    inside = [name for name in shapes if name.startswith(prefix + "layers.")]
    widths = {shapes[name][0] for name in inside if "norm" in name and len(shapes[name]) == 1}
    deep = depth(name.removeprefix(prefix) for name in inside) >= (text.get("num_hidden_layers") or 0)
    return deep and (not widths or text.get("hidden_size", next(iter(widths))) in widths)


def _depth(config: Mapping[str, Any]) -> float:
    depth_said: float | None = text_config(config).get("num_hidden_layers")
    return float("inf") if depth_said is None else depth_said
