"""Tiny instances of the multimodal families people have, built from their real configurations, with an expert each.

An expert is the text model of the VLM's base: it starts from the weights of the VLM's own decoder, moved a little.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.tiny_models import TEXT, related

import transformers  # isort: skip  # after tiny_models has made torchvision importable

DOCUMENT = Path(__file__).parents[1] / "docs" / "families.md"
SWEEP = "## Every image-text class of transformers\n"
"""Where the second part of the document begins."""


def written_parts() -> tuple[str, str]:
    """The document before the sweep over all classes, which other tests write, and that."""
    before, heading, after = DOCUMENT.read_text().partition(SWEEP)
    return before, heading + after


ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
CLIP = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
QWEN = {"depth": 2, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 32, "intermediate_size": 24}
MLLAMA = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_global_layers": 1,
    "attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "intermediate_layers_indices": [0],
    "vision_output_dim": 32,
    "max_num_tiles": 1,
    "supported_aspect_ratios": [[1, 1]],
}
MOE = {"head_dim": 8, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
GLM_MOE = {
    "head_dim": 8,
    "num_hidden_layers": 3,
    "n_routed_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "attention_bias": True,
}
AUDIO = {
    "num_mel_bins": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "d_model": 16,
    "output_dim": 32,
    "downsample_hidden_size": 8,
}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}


@dataclass(frozen=True)
class ModelFamily:
    """A VLM's class and configuration, the class of its text expert, and how its names on disk are written."""

    vlm: str
    expert: str
    text: dict[str, Any]
    """Of both text decoders, over `tiny_models.TEXT`."""
    vision: dict[str, Any]
    only_vlm: dict[str, Any] = field(default_factory=dict)
    """Of the VLM's text decoder alone."""
    more: dict[str, Any] = field(default_factory=dict)
    """Of the VLM's whole configuration."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Beginnings of names on disk that are written differently from what this transformers writes."""
    turned: bool = False
    """Whether fused experts are stored transposed, as Qwen3-VL-MoE's are on the hub."""

    def build_vlm(self) -> Any:
        """The model in memory."""
        kind = getattr(transformers, self.vlm)
        torch.manual_seed(0)
        text = {**TEXT, **self.text, **self.only_vlm}
        config = kind.config_class(text_config=text, vision_config=self.vision, tie_word_embeddings=False, **self.more)
        return kind(config).eval()

    def build_expert(self, vlm: Any = None) -> Any:
        """A text model; with `vlm`, a fine-tune of that model's decoder."""
        kind = getattr(transformers, self.expert)
        torch.manual_seed(1)
        expert = kind(kind.config_class(**{**TEXT, **self.text}))
        if vlm is not None:
            expert.get_decoder().load_state_dict(vlm.get_decoder().state_dict())
            expert.lm_head.load_state_dict(vlm.lm_head.state_dict())
        return related(expert, seed=3, scale=0.2)

    def save_vlm(self, model: Any, path: Path) -> Path:
        """The model's directory, with the names that this family has on disk."""
        model.save_pretrained(path)
        if self.renamed or self.turned:
            tensors = load_file(path / "model.safetensors")
            written = {self._on_disk(name): self._turned(name, tensor) for name, tensor in tensors.items()}
            save_file(written, path / "model.safetensors")
        return path

    def _turned(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.transpose(1, 2).contiguous() if self.turned and ".mlp.experts." in name else tensor

    def _on_disk(self, name: str) -> str:
        for ours, theirs in self.renamed:
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
        return name


QWEN2_5_VL = {
    "vlm": "Qwen2_5_VLForConditionalGeneration",
    "expert": "Qwen2ForCausalLM",
    "text": {},
    "only_vlm": {"rope_parameters": ROPE},
    "vision": {**QWEN, "fullatt_block_indexes": [1]},
}

QWEN3_VL_MOE = {
    "vlm": "Qwen3VLMoeForConditionalGeneration",
    "expert": "Qwen3MoeForCausalLM",
    "text": MOE,
    "vision": {**QWEN, "deepstack_visual_indexes": [0]},
    "only_vlm": {"rope_parameters": ROPE},
}

MIXTURES = {
    "Qwen3-VL-MoE (hub)": ModelFamily(**QWEN3_VL_MOE, turned=True),
    "Qwen3-VL-MoE (saved by transformers 5)": ModelFamily(**QWEN3_VL_MOE),
    "GLM-4.5V": ModelFamily(
        "Glm4vMoeForConditionalGeneration",
        "Glm4MoeForCausalLM",
        GLM_MOE,
        QWEN,
        only_vlm={"rope_parameters": {**ROPE, "partial_rotary_factor": 1.0}},
    ),
    "Qwen3.5-MoE": ModelFamily(
        "Qwen3_5MoeForConditionalGeneration",
        "Qwen3_5MoeForCausalLM",
        {**MOE, "shared_expert_intermediate_size": 16, "rope_parameters": ROPE, **LINEAR},
        QWEN,
    ),
    "Qwen3-Omni (thinker)": ModelFamily(
        "Qwen3OmniMoeThinkerForConditionalGeneration",
        "Qwen3MoeForCausalLM",
        MOE,
        {**QWEN, "deepstack_visual_indexes": [0]},
        only_vlm={"rope_parameters": ROPE},
        more={"audio_config": AUDIO},
    ),
}
"""Mixtures of experts, whose files and run time lay the experts out differently."""

FAMILIES = {
    "Qwen2-VL": ModelFamily(
        "Qwen2VLForConditionalGeneration",
        "Qwen2ForCausalLM",
        {},
        {"depth": 2, "embed_dim": 16, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2},
        only_vlm={"rope_parameters": ROPE},
    ),
    "Qwen2.5-VL (old names)": ModelFamily(**QWEN2_5_VL),
    "Qwen2.5-VL (new names)": ModelFamily(
        **QWEN2_5_VL, renamed=(("model.", "model.language_model."), ("visual.", "model.visual."))
    ),
    "Qwen3-VL": ModelFamily(
        "Qwen3VLForConditionalGeneration",
        "Qwen3ForCausalLM",
        {"head_dim": 8},
        {**QWEN, "deepstack_visual_indexes": [0]},
        only_vlm={"rope_parameters": ROPE},
    ),
    "LLaVA-1.5": ModelFamily(
        "LlavaForConditionalGeneration",
        "LlamaForCausalLM",
        {"model_type": "llama"},
        {**CLIP, "model_type": "clip_vision_model"},
    ),
    "LLaVA-Next": ModelFamily(
        "LlavaNextForConditionalGeneration",
        "MistralForCausalLM",
        {"model_type": "mistral"},
        {**CLIP, "model_type": "clip_vision_model"},
    ),
    "LLaVA-OneVision": ModelFamily(
        "LlavaOnevisionForConditionalGeneration",
        "Qwen2ForCausalLM",
        {"model_type": "qwen2"},
        {**CLIP, "model_type": "siglip_vision_model"},
    ),
    "Idefics2": ModelFamily(
        "Idefics2ForConditionalGeneration",
        "MistralForCausalLM",
        {"model_type": "mistral"},
        CLIP,
        more={
            "perceiver_config": {
                "hidden_size": 32,
                "resampler_n_latents": 4,
                "resampler_depth": 2,
                "resampler_n_heads": 2,
                "resampler_head_dim": 8,
                "num_key_value_heads": 1,
            }
        },
    ),
    "Idefics3": ModelFamily("Idefics3ForConditionalGeneration", "LlamaForCausalLM", {"model_type": "llama"}, CLIP),
    "SmolVLM": ModelFamily("SmolVLMForConditionalGeneration", "LlamaForCausalLM", {"model_type": "llama"}, CLIP),
    "InternVL (hf)": ModelFamily(
        "InternVLForConditionalGeneration",
        "Qwen2ForCausalLM",
        {"model_type": "qwen2"},
        {**CLIP, "image_size": [28, 28], "patch_size": [14, 14]},
    ),
    "Mistral3": ModelFamily(
        "Mistral3ForConditionalGeneration",
        "MistralForCausalLM",
        {"model_type": "mistral", "head_dim": 8},
        {**CLIP, "model_type": "pixtral", "head_dim": 8},
    ),
    "Gemma3": ModelFamily(
        "Gemma3ForConditionalGeneration",
        "Gemma3ForCausalLM",
        {"head_dim": 8, "sliding_window": 16},
        {**CLIP, "model_type": "siglip_vision_model"},
    ),
    "PaliGemma": ModelFamily(
        "PaliGemmaForConditionalGeneration",
        "GemmaForCausalLM",
        {"model_type": "gemma", "head_dim": 8},
        {**CLIP, "model_type": "siglip_vision_model", "projection_dim": 32},
        more={"projection_dim": 32},
    ),
    "GLM-4V": ModelFamily(
        "Glm4vForConditionalGeneration",
        "Glm4ForCausalLM",
        {"head_dim": 8, "attention_bias": True},
        QWEN,
        only_vlm={"rope_parameters": ROPE},
    ),
    "Qwen3.5": ModelFamily(
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5ForCausalLM",
        {"head_dim": 8, "rope_parameters": ROPE, **LINEAR},
        QWEN,
    ),
}

REFUSED = {
    "Mllama": ModelFamily(
        "MllamaForConditionalGeneration",
        "LlamaForCausalLM",
        {"num_hidden_layers": 3},
        MLLAMA,
        only_vlm={"cross_attention_layers": [1], "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    ),
}
