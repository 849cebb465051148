"""The text model and the vision-language model of the family, and the arithmetic between their weights.

The decoder is the same in both (hidden 64, 3 layers, 139 thousand weights); the VLM adds a vision tower of depth 2.
Weights start with a wide spread (0.1): at this width the usual 0.02 stays on a plateau for hundreds of steps.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from drift.planning.miniature import tokenizer as tk

State = dict[str, torch.Tensor]

_IDS = {word: id for id, word in enumerate(tk.vocabulary())}
_DECODER: dict[str, Any] = {
    "vocab_size": len(_IDS),
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "initializer_range": 0.1,
    "rms_norm_eps": 1e-6,
    "bos_token_id": None,
    "eos_token_id": _IDS[tk.END],
    "pad_token_id": _IDS[tk.PAD],
}
_VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 48,
    "num_heads": 4,
    "intermediate_size": 96,
    "out_hidden_size": _DECODER["hidden_size"],
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [1],
    "initializer_range": 0.08,
}
_MARKERS: dict[str, Any] = {
    "image_token_id": _IDS[tk.IMAGE],
    "video_token_id": _IDS[tk.VIDEO],
    "vision_start_token_id": _IDS[tk.VISION_START],
    "vision_end_token_id": _IDS[tk.VISION_END],
    "eos_token_id": _IDS[tk.END],
    "pad_token_id": _IDS[tk.PAD],
}


def new_text_model() -> Any:
    """Qwen2ForCausalLM with random float32 weights from torch's global generator."""
    config = Qwen2Config(**_DECODER, rope_parameters={"rope_theta": 1e4, "rope_type": "default"})
    return _with_generation_config(Qwen2ForCausalLM(config).float())


def new_vlm(decoder: State) -> Any:
    """Qwen2_5_VLForConditionalGeneration: random vision tower, decoder weights from the text model's ``decoder``."""
    rope = {"rope_theta": 1e4, "rope_type": "default", "mrope_section": [2, 3, 3]}  # sums to half the head dimension
    config = Qwen2_5_VLConfig(
        text_config={**_DECODER, "rope_parameters": rope}, vision_config=_VISION, tie_word_embeddings=False, **_MARKERS
    )
    model = _with_generation_config(Qwen2_5_VLForConditionalGeneration(config).float())
    model.load_state_dict({**model.state_dict(), **to_vlm_names(decoder)})
    return model


def to_vlm_names(decoder: State) -> State:
    """Text-model names to VLM names: ``model.X`` to ``model.language_model.X``, the rest as it is."""
    return {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in decoder.items()}


def add_task_vector(vlm: Any, expert: State, base: State) -> None:
    """In place, φ ← φ_VL + (φ_reason − φ_base) on every tensor of the decoder."""
    before, after = to_vlm_names(base), to_vlm_names(expert)
    state = vlm.state_dict()
    vlm.load_state_dict({**state, **{name: state[name] + after[name] - before[name] for name in after}})


def _with_generation_config(model: Any) -> Any:
    model.generation_config = GenerationConfig(
        eos_token_id=_IDS[tk.END], pad_token_id=_IDS[tk.PAD], do_sample=False, max_new_tokens=48
    )
    return model


def save_text_model(model: Any, directory: Path) -> None:
    """Weights (float32), tokenizer and chat template.

    transformers' AutoTokenizer replaces the tokenizer class of every model of type ``qwen2`` by Qwen's own, which
    would split our words, unless the tokenizer's configuration has an ``auto_map``: an empty one keeps ours.
    """
    _save_weights(model, directory)
    tk.build_tokenizer().save_pretrained(directory)
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": [None, None]}}
    path.write_text(json.dumps(config, indent=2))


def save_vlm(model: Any, directory: Path) -> None:
    """Weights (float32), processor and chat template."""
    _save_weights(model, directory)
    tk.build_processor().save_pretrained(directory)


def _save_weights(model: Any, directory: Path) -> None:
    model.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)  # transformers leaves it to its owner alone; containers have others


def load_text_model(directory: Path) -> Any:
    return Qwen2ForCausalLM.from_pretrained(directory, dtype="float32")


def load_vlm(directory: Path) -> Any:
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(directory, dtype="float32")
