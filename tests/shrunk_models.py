"""Any image-text model of transformers, shrunk from its own configuration, with an expert for its text decoder.

The configuration's numbers are made tiny by what their names say (`_SIZES`); of a list with an entry for each layer the
first and the last are kept. What does not come out of that is in `_EXCEPTIONS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from tests.tiny_models import related

import transformers  # isort: skip  # after tiny_models has made torchvision importable
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as CLASSES

LAYERS, WIDTH, HEADS, HEAD, VOCABULARY, EXPERTS = 2, 32, 4, 8, 64, 4
_SIZES: list[tuple[str, int]] = [
    (r"vocab_size", VOCABULARY),
    (r"^(num_hidden_layers|num_layers|n_layers|depth|layers|\w*encoder_layers|\w*decoder_layers)$", LAYERS),
    (r"key_value_heads|kv_heads", HEADS // 2),
    (r"(attention|num|n|resampler)_heads$", HEADS),
    (r"(head_dim|d_kv|dim_head)$", HEAD),
    (r"intermediate_size|ffn_dim|d_ff|mlp_dim", 48),
    (r"^(num|n|moe_num)_(local_|routed_)?experts$", EXPERTS),
    (r"experts_per_tok$|^topk$|^moe_topk$|^moe_k$", 2),
    (r"lora_rank$", 8),
    (r"hidden_size|_dim$|d_model|base_channels|output_channels|input_size", WIDTH),
    (r"^(image|img|max_image)_size$", 56),
    (r"^patch_size$", 14),
    (r"^max_\w*position_embeddings$", 256),
]
_CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "image_size": 56,
    "patch_size": 14,
}
_SPECIAL = {"<image>": 5, "<|extra_200|>": 6}
_EXCEPTIONS: dict[str, dict[str, Any]] = {
    "chameleon": {"vocabulary_map": _SPECIAL},
    "cohere_compass": {
        "text_config": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}}
    },
    "cosmos3_edge": {"text_config": {"rope_parameters": {"mrope_section": [2, 1, 1]}}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse"]}},
    "diffusion_gemma": {"text_config": {"num_experts": EXPERTS, "top_k_experts": 2, "moe_intermediate_size": 48}},
    "dots3_note": {"text_config": {"num_key_value_heads": HEADS}},
    "emu3": {"text_config": {"vocabulary_map": _SPECIAL}, "vocabulary_map": _SPECIAL},
    "ernie4_5_vl_moe": {
        "text_config": {"rope_parameters": {"mrope_section": [1, 1, 2]}, "moe_intermediate_size": [48, 24]}
    },
    "fast_vlm": {"vision_config": _CLIP},  # in place of one of timm
    "florence2": {
        "vision_config": {
            "embed_dim": [8, 16, 16, 32],
            "num_heads": [2] * 4,
            "num_groups": [2] * 4,
            "depths": [1] * 4,
        }
    },
    "glm5_next": {"text_config": {"num_key_value_heads": HEADS, "index_kpool": 2, "index_topk": 16}},
    "granite4_vision": {
        "vision_config": {"hidden_size": 64},
        "downsample_rate": "1/2",
        "deepstack_layer_map": [[-2, 0], [-1, 1]],
        "spatial_target_layers": [0, 1],
    },
    "hunyuan_vl": {"text_config": {"head_dim": HEAD}},
    "lfm3_vl": {"text_config": {"layer_types": ["conv", "full_attention"]}},
    "mllama": {"text_config": {"num_hidden_layers": 3, "cross_attention_layers": [1]}},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}},
    "muse_spark": {"audio_config": {"patch_sizes": [16, 6], "hidden_sizes": [8, 16], "depths": [1, 1]}},
    "pi0": {"dit_config": {"hidden_size": 16}},
    "qwen4_exp": {
        "text_config": {
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": HEAD,
            "indexer_budget": 8,
            "indexer_compress_ratio": 2,
        }
    },
}
_TEXT_CLASSES = {
    "emu3_text_model": "Emu3ForCausalLM",
    "ernie4_5_vl_moe_text": "Ernie4_5_MoeForCausalLM",
    "evolla": "LlamaForCausalLM",
    "glm4v_text": "Glm4ForCausalLM",
    "glm4v_moe_text": "Glm4MoeForCausalLM",
    "granite4_vision_text": "GraniteForCausalLM",
    "granite_docling_text": "GraniteForCausalLM",
    "hunyuan_vl_text": "HunYuanDenseV1ForCausalLM",
    "idefics": "LlamaForCausalLM",
    "mllama_text_model": "LlamaForCausalLM",
    "paddleocr_vl_text": "Ernie4_5ForCausalLM",
    "qwen2_5_omni_text": "Qwen2ForCausalLM",
    "qwen2_5_vl_text": "Qwen2ForCausalLM",
    "qwen2_vl_text": "Qwen2ForCausalLM",
    "qwen3_omni_moe_text": "Qwen3MoeForCausalLM",
    "qwen3_vl_moe_text": "Qwen3MoeForCausalLM",
    "qwen3_vl_text": "Qwen3ForCausalLM",
}
"""The text model of a VLM's base, where transformers makes no causal model of the VLM's text configuration."""
NOT_BUILT = dict.fromkeys(("gemma3n", "perception_lm"), "its vision tower needs timm, which is not installed")
"""Model types that cannot be shrunk here in 20 seconds, and why."""
_OF_TEXT = {
    "ernie4_5_vl_moe_text": {"moe_intermediate_size": 48},
    "qwen3_omni_moe_text": {"num_experts": EXPERTS},
}
_OF_A_WHOLE = {"model_type", "architectures", "transformers_version", "dtype"}


def build_vlm(model_type: str) -> Any:
    """A tiny model in memory, of the class that transformers has for a model type."""
    kind = getattr(transformers, CLASSES[model_type])
    values = shrunk(kind.config_class().to_dict())
    torch.manual_seed(0)
    return kind(kind.config_class(**_with(values, _EXCEPTIONS.get(model_type, {})))).eval()


def build_expert(vlm: Any) -> Any:
    """A fine-tune of a model's text decoder, of the class of a text model; of all of it where there is none."""
    text = vlm.config.get_text_config(decoder=True)
    kind = text_class(vlm, text)
    if kind is type(vlm):
        expert = kind(vlm.config)
        expert.load_state_dict(vlm.state_dict())
    else:
        expert = kind(text if type(text) is kind.config_class else _of_text(text.to_dict(), kind.config_class))
        copy_decoder(vlm, expert)
    return related(expert, seed=3, scale=0.2)


def text_class(vlm: Any, text: Any) -> Any:
    """The class of the text model that a model was made from; its own class where transformers has none."""
    if text.model_type in _TEXT_CLASSES:
        return getattr(transformers, _TEXT_CLASSES[text.model_type])
    try:
        return transformers.AutoModelForCausalLM._model_mapping[type(text)]
    except KeyError:
        return type(vlm)


def text_decoder(model: Any) -> Any:
    """The module that transformers itself calls a model's decoder, without a head around it."""
    decoder = model.get_decoder()
    inner = getattr(decoder, "vlm", decoder)  # PI0 calls all of itself its decoder
    if decoder is model:  # some causal models return themselves
        inner = getattr(model, "model", model)
    return decoder if inner is model or not hasattr(inner, "get_decoder") else text_decoder(inner)


def copy_decoder(vlm: Any, expert: Any) -> None:
    """Give an expert the weights of a model's decoder and head, as far as names and shapes agree."""
    parts = [(text_decoder(vlm), text_decoder(expert)), (vlm.get_output_embeddings(), expert.get_output_embeddings())]
    for source, target in parts:
        if source is not None and target is not None:
            fitting = {n: t for n, t in source.state_dict().items() if _shape(target.state_dict().get(n)) == t.shape}
            target.load_state_dict(fitting, strict=False)


def shrunk(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's contents with tiny numbers, its parts' too."""
    depth = next((values[key] for key in ("num_hidden_layers", "num_layers", "depth") if values.get(key)), 0)
    return {key: _shrunk(key, value, depth) for key, value in values.items() if key not in ("id2label", "label2id")}


def _shrunk(key: str, value: Any, depth: int) -> Any:
    if key == "per_layer_config" and value:
        return {place: shrunk(value[f"{n:02}"]) for place, n in enumerate((0, depth - 1)) if f"{n:02}" in value}
    if isinstance(value, dict):
        return {k: v for k, v in value.items() if not isinstance(k, str)} or shrunk(value)
    if isinstance(value, list) and len(value) == depth:
        return [*range(LAYERS)] if value == [*range(depth)] else [value[0], value[-1]]
    if not value or isinstance(value, bool) or not isinstance(value, int):
        return value
    if re.search(r"_(id|index)$", key):
        return value % VOCABULARY
    return next((size for pattern, size in _SIZES if re.search(pattern, key)), value)


def _with(values: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Nested contents with others put over them."""
    for key, value in more.items():
        inner = isinstance(value, dict) and isinstance(values.get(key), dict) and "model_type" not in value
        values[key] = _with(dict(values[key]), value) if inner else value
    return values


def _of_text(values: dict[str, Any], kind: Any) -> Any:
    """A text model's configuration, with what it shares with another."""
    shared = (kind().to_dict().keys() & values.keys()) - _OF_A_WHOLE
    return kind(**{"head_dim": HEAD} | {key: values[key] for key in shared} | _OF_TEXT.get(values["model_type"], {}))


def _shape(tensor: torch.Tensor | None) -> Any:
    return None if tensor is None else tensor.shape
