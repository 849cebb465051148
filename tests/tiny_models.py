"""Tiny real models of one family, from configurations: a base, its text expert, and a Qwen2.5-VL on top of it.

All text decoders of one `seed` start from the same weights; `related` moves a model a little, as fine-tuning does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from drift.ground.torchvision import allow_cuda_torchvision_on_cpu

allow_cuda_torchvision_on_cpu()

from transformers import (  # noqa: E402
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
)

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
VISION = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "fullatt_block_indexes": [1]}
IMAGE = {"image_token_id": 60, "video_token_id": 61, "vision_start_token_id": 62, "vision_end_token_id": 63}
TEXT_MODEL_CHANGE, VLM_CHANGE = 0.3, 0.1


@dataclass(frozen=True)
class Family:
    """Directories of models that share one base."""

    base: Path
    expert: Path
    vlm: Path

    @property
    def references(self) -> dict[str, str]:
        """As the arguments of a step."""
        return {"base": str(self.base), "expert": str(self.expert), "vlm": str(self.vlm)}


def tiny_family(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: Any) -> Family:
    """A base, an expert and a VLM of one `seed`, saved below `folder`; `overrides` go to their text configuration."""
    return Family(
        base=tiny_llm(folder / "base", seed, dtype=dtype, **overrides),
        expert=tiny_llm(folder / "expert", seed, fine_tune=1, dtype=dtype, **overrides),
        vlm=tiny_vlm(folder / "vlm", seed, dtype=dtype, **overrides),
    )


def tiny_llm(
    path: Path, seed: int = 0, *, fine_tune: int | None = None, dtype: torch.dtype = torch.float32, **overrides: Any
) -> Path:
    """A text model; with `fine_tune`, moved away from the base of this `seed` by that seed's noise."""
    model = _text_model(seed, overrides)
    if fine_tune is not None:
        related(model, fine_tune, TEXT_MODEL_CHANGE)
    model.to(dtype).save_pretrained(path)
    return path


def tiny_vlm(
    path: Path,
    seed: int = 0,
    *,
    fine_tune: int = 2,
    dtype: torch.dtype = torch.float32,
    shard_size: str = "1GB",
    **overrides: Any,
) -> Path:
    """A Qwen2.5-VL whose text decoder comes from the base of this `seed`; `overrides` go to its text configuration."""
    model = tiny_vlm_model(seed, fine_tune=fine_tune, **overrides)
    model.to(dtype).save_pretrained(path, max_shard_size=shard_size)
    return path


def tiny_vlm_model(seed: int = 0, *, fine_tune: int = 2, **overrides: Any) -> Qwen2_5_VLForConditionalGeneration:
    """The model `tiny_vlm` saves, in memory, in float32."""
    text = {**TEXT, **overrides}
    head_dim = text["hidden_size"] // text["num_attention_heads"]
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": _sections(head_dim // 2)}
    torch.manual_seed(seed + 1000)
    config = Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": rope},
        vision_config={**VISION, "out_hidden_size": text["hidden_size"]},
        tie_word_embeddings=text["tie_word_embeddings"],
        **IMAGE,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    source = _text_model(seed, overrides)
    model.model.language_model.load_state_dict(source.model.state_dict())
    model.lm_head.load_state_dict(source.lm_head.state_dict())
    return related(model, fine_tune, VLM_CHANGE)


def related(model: PreTrainedModel, seed: int, scale: float) -> Any:
    """Add noise of `scale` times each parameter's spread (0.02 where it has none): cosines stay high."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = max(float(parameter.std(correction=0)), 0.02)
            parameter += scale * spread * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def _text_model(seed: int, overrides: dict[str, Any]) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    model: Qwen2ForCausalLM = Qwen2ForCausalLM(Qwen2Config(**{**TEXT, **overrides}))
    return model.eval()


def _sections(half: int) -> list[int]:
    """Three parts of half a head for time, height and width."""
    side = half // 3
    return [half - 2 * side, side, side]
