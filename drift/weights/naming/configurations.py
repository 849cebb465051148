"""What the configurations of two models say of their text decoders: where they must agree, and what else differs.

Pure functions over the contents of `config.json`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from drift.ground.errors import CheckpointError

Config = Mapping[str, Any]

_NESTED = ("thinker_config", "text_config", "llm_config", "language_config")
_OTHER_SENSE = re.compile(r"(^|_)(vision|visual|image|img|video|audio|speech|mm|vq|protein)(_|$)")
_SAME = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "hidden_act",
)
_ALIKE = (
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "layer_types",
    "use_qk_norm",
    "qk_layernorm",
    "attention_bias",
    "logit_scale",
    "logits_scaling",
    "scale_emb",
    "scale_depth",
    "embedding_multiplier",
    "residual_multiplier",
    "attention_multiplier",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
)
_NO_ROPE = {"rope_theta", "mrope_section", "mrope_interleaved", "partial_rotary_factor", "type", "rope_type"}
"""Of the rotary embedding: what is compared apart, or only says where an image's patches are."""


def text_config(config: Config) -> dict[str, Any]:
    """The configuration of the text decoder: a part of a multimodal model's, or all of a text model's."""
    nested = next((config[key] for key in _NESTED if isinstance(config.get(key), dict)), None)
    return dict(config) if nested is None else text_config(nested)


def is_multimodal(config: Config) -> bool:
    """Whether a model's configuration speaks of images, videos or sound."""
    whole = [config, *(part for part in config.values() if isinstance(part, dict))]
    return any(_OTHER_SENSE.search(key) and value is not None for part in whole for key, value in part.items())


def check_architecture(expert: tuple[str, Config], other: tuple[str, Config]) -> None:
    """Raise CheckpointError if two text configurations, each with its model's name, cannot be of one base."""
    _refuse_renumbered(expert, other)
    for key in _SAME:
        values = [config.get(key) for _, config in (expert, other)]
        if None not in values and values[0] != values[1]:
            raise CheckpointError(
                f"{key}: {values[0]} in {expert[0]}, {values[1]} in the text decoder of {other[0]}: not of one base"
            )


def _refuse_renumbered(*models: tuple[str, Config]) -> None:
    """Mllama counts its cross-attention layers among the decoder's: names agree where the layers do not."""
    crossed = [
        (name, config["cross_attention_layers"]) for name, config in models if "cross_attention_layers" in config
    ]
    if len(crossed) == 1 or (len(crossed) == 2 and crossed[0][1] != crossed[1][1]):
        raise CheckpointError(
            f"{crossed[0][0]}: cross-attention layers ({crossed[0][1]}) are counted among the decoder's, so that"
            " layer N is another layer of the other model; not supported"
        )


def config_differences(expert: Config, other: Config) -> list[str]:
    """What differs between two text configurations of one architecture: legitimate, but worth a warning."""
    left, right = _settings(expert), _settings(other)
    return [f"{key}: {a} against {right[key]}" for key, a in left.items() if key in right and a != right[key]]


def _settings(config: Config) -> dict[str, Any]:
    """What is compared of a text configuration, by name; what it does not say is left out."""
    settings = {key: config[key] for key in _ALIKE if config.get(key) is not None}
    family = re.match(r"[a-z]+\d*", str(config.get("model_type") or ""))
    if family and not is_multimodal(config):  # a VLM of one configuration is named by the whole
        settings = {"model_type": family[0], **settings}
    if "sliding_window" in config:
        settings["sliding_window"] = config["sliding_window"] if config.get("use_sliding_window", True) else None
    return settings | _rope(config)


def _rope(config: Config) -> dict[str, Any]:
    """θ and the kind of scaling, old and new way of writing; `mrope` rotates text as the plain kind does."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if any(isinstance(part, dict) for part in rope.values()):  # one for each type of layer
        return {"rope_parameters": {kind: part for kind, part in rope.items() if part is not None}}
    theta = rope.get("rope_theta", config.get("rope_theta"))
    kind = rope.get("rope_type", rope.get("type"))
    scaling = {} if kind in (None, "default", "mrope") else {"rope_type": kind}
    scaling |= {key: value for key, value in rope.items() if key not in _NO_ROPE and value is not None}
    return ({} if theta is None else {"rope_theta": theta}) | {"rope_scaling": scaling}
