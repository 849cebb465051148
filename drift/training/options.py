"""What a training asks of the machine it runs on: refused in one line, before anything is loaded, if it is not here."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import torch

from drift.config.train import TrainConfig
from drift.ground.errors import ConfigError

OPTIMIZERS = {"adamw": "adamw_torch", "adamw_fused": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit"}
"""`train.optimizer`, and what transformers calls it."""
ATTENTION = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
"""`train.attention` that is a package of its own."""
WORKERS = 4
"""Of a rank with a GPU, where nothing else is asked for and there are processors."""
PREFETCHED = 2
"""Batches that torch's loader lets each worker be ahead."""
PIXEL_BYTES = 24
"""Of an image in a batch: three float32 values, for each of a patch's two moments."""
SHARED_MEMORY = Path("/dev/shm")
"""Through which workers hand their batches over."""


def check_options(config: TrainConfig) -> None:
    """Raise ConfigError for a key that needs a GPU, a package or memory that this machine lacks."""
    _check_packages(config)
    _check_gpu(config)
    workers, free = config.workers or 0, _shared_memory()
    if workers * _bytes_ahead(config) > free:
        raise ConfigError(
            f"train.workers: {workers} hand over up to {workers * _bytes_ahead(config):,} bytes,"
            f" but {SHARED_MEMORY} has {free:,} free; set fewer, or give the container more (--shm-size)"
        )


def workers_of(config: TrainConfig) -> int:
    """How many processes of this rank make its batches ready: as many as are asked for, or as it makes sense here."""
    if config.workers is not None:
        return config.workers
    if not torch.cuda.is_available():
        return 0  # they would take the processors from the step
    processors = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(0, min(WORKERS, processors - 1, _shared_memory() // _bytes_ahead(config)))


def _bytes_ahead(config: TrainConfig) -> int:
    """What one worker may have lying ready, of one image a row."""
    pixels = config.image_max_pixels or 2**20
    return PREFETCHED * config.per_device_batch_size * pixels * PIXEL_BYTES


def _shared_memory() -> int:
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0


def _check_packages(config: TrainConfig) -> None:
    if config.liger and _lacks("liger_kernel"):
        raise ConfigError("train.liger: true, but the kernels are not installed; pip install 'drift-mllm[liger]'")
    for name in config.report_to:
        if _lacks(name):
            raise ConfigError(f"train.report_to: {name} is not installed; pip install {name}, or leave it out")
    if (package := ATTENTION.get(config.attention or "")) and _lacks(package):
        raise ConfigError(
            f"train.attention: {config.attention} is not installed (no {package}); install it, or set sdpa"
        )
    if (key := _in_few_bits(config)) and _lacks("bitsandbytes"):
        raise ConfigError(f"{key} needs bitsandbytes, which is not installed; pip install bitsandbytes, or change it")
    for key, asked, package in (("lora", config.lora, "peft"), ("deepspeed", config.deepspeed, "deepspeed")):
        if asked and _lacks(package):
            raise ConfigError(f"train.{key} needs {package}, which is not installed; pip install 'drift-mllm[train]'")


def _check_gpu(config: TrainConfig) -> None:
    if torch.cuda.is_available():
        return
    if config.liger:
        raise ConfigError("train.liger: true needs a GPU; set it to false")
    if config.attention in ATTENTION:
        raise ConfigError(f"train.attention: {config.attention} needs a GPU; set it to sdpa or null")
    if key := _in_few_bits(config):
        raise ConfigError(f"{key} needs a GPU; change it")


def _in_few_bits(config: TrainConfig) -> str:
    """The key that asks for bitsandbytes, with its value; empty if none does."""
    if config.optimizer == "adamw_8bit":
        return "train.optimizer: adamw_8bit"
    return "train.lora.base: 4bit" if config.lora is not None and config.lora.base == "4bit" else ""


def _lacks(package: str) -> bool:
    return importlib.util.find_spec(package) is None
