"""The DeepSpeed configuration of a training: read, and held against the section `train`, before anything starts.

What both say must agree: batch, accumulation, clipping, precision. DeepSpeed takes a missing `gradient_clipping`
for "do not clip", in silence. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drift.config.train import TrainConfig
from drift.ground.artifacts import read_json
from drift.ground.errors import ConfigError, DataError


def check_deepspeed(config: TrainConfig) -> None:
    """Raise ConfigError, naming file and key, unless `train.deepspeed` is readable and agrees with ``config``."""
    if config.deepspeed is None:
        return
    path = Path(config.deepspeed)
    content = _read(path)
    for key, expected, ours in (
        ("train_micro_batch_size_per_gpu", config.per_device_batch_size, "per_device_batch_size"),
        ("gradient_accumulation_steps", config.gradient_accumulation, "gradient_accumulation"),
        ("gradient_clipping", config.max_grad_norm, "max_grad_norm"),
        ("bf16.enabled", config.bf16, "bf16"),
    ):
        said = _at(content, key)
        if said not in ("auto", expected):
            raise ConfigError(f"{path}: {key} is {said}, but train.{ours} is {expected}; set it to 'auto'")
    if _at(content, "train_batch_size") not in ("auto", None):
        raise ConfigError(f"{path}: train_batch_size is {content['train_batch_size']}; set it to 'auto'")
    for key in ("optimizer", "scheduler"):
        if key in content:
            raise ConfigError(f"{path}: {key}: the section 'train' chooses it; remove it there")
    if _at(content, "fp16.enabled") not in (None, False):
        raise ConfigError(f"{path}: fp16.enabled: training is in bf16 or float32; remove it")
    _check_stage(path, content, config)


def _check_stage(path: Path, content: dict[str, Any], config: TrainConfig) -> None:
    stage = _at(content, "zero_optimization.stage")
    if stage not in (0, 1, 2, 3):
        raise ConfigError(f"{path}: zero_optimization.stage is {stage}; set 0, 1, 2 or 3")
    gathered = "zero_optimization.stage3_gather_16bit_weights_on_model_save"
    if stage == 3 and _at(content, gathered) is not True:
        raise ConfigError(f"{path}: {gathered} is not true, so the final model could not be saved; set it to true")
    if stage == 3 and config.distils:
        raise ConfigError(
            f"{path}: zero_optimization.stage 3 with train.method on_policy: needs whole weights; use stage 2"
        )
    if stage == 3 and config.lora is not None:
        raise ConfigError(f"{path}: zero_optimization.stage 3 with train.lora: the factors must be whole; use stage 2")
    if _at(content, "zero_optimization.offload_optimizer") and content.get("zero_force_ds_cpu_optimizer") is not False:
        raise ConfigError(
            f"{path}: zero_force_ds_cpu_optimizer is not false, so DeepSpeed refuses torch's AdamW; set it to false"
        )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path}: train.deepspeed names no file; see configs/deepspeed/")
    try:
        content = read_json(path)
    except DataError as error:
        raise ConfigError(f"train.deepspeed: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a DeepSpeed configuration; see configs/deepspeed/")
    return content


def _at(content: Any, key: str) -> Any:
    """The value at a dotted key; None where it is missing."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content
