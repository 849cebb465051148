"""The network as it is trained: its dtype, which weights are free, adapters and added tokens; and whole again."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import torch

from drift.config.models import ADAPTER_CONFIG
from drift.config.train import LoraConfig, TrainConfig
from drift.ground.artifacts import read_json, write_json
from drift.ground.errors import CheckpointError
from drift.prior.shards import whole_shape
from drift.weights.modeling import load_processor, load_vlm
from drift.weights.naming.layout import canonical_names, module_of
from drift.weights.storage.adapters import WEIGHTS, base_named
from drift.weights.storage.checkpoints import Checkpoint

THINK_TOKENS = ["<think>", "</think>"]


def trained_processor(config: TrainConfig, source: Path) -> Any:
    """The processor of ``source``, with <think> and </think> in its tokenizer if they are asked for."""
    processor = load_processor(source)
    if config.add_think_tokens:
        processor.tokenizer.add_tokens(THINK_TOKENS)
    return processor


def trainable_network(config: TrainConfig, source: Path, processor: Any) -> Any:
    """The model of ``source``, ready to be trained: in float32, or in what DeepSpeed makes float32 masters from."""
    masters_elsewhere = config.deepspeed is not None and config.bf16  # DeepSpeed makes them from the 16-bit weights
    dtype = "bfloat16" if masters_elsewhere else "float32"
    network = _resized(load_vlm(source, dtype=dtype, **_loading(config)).train(), config, processor)
    if config.lora is not None:
        return _with_adapters(network, config.lora)
    if config.freeze_vision:
        _train_only_text(network)
    return network


def _loading(config: TrainConfig) -> dict[str, Any]:
    """Options of transformers: the attention, and 4 bits as QLoRA has them (Dettmers et al. 2023): NF4, its constants
    quantised too."""
    attention = {"attn_implementation": config.attention} if config.attention else {}
    if config.lora is None or config.lora.base == "whole":
        return attention
    from transformers import BitsAndBytesConfig

    bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if config.bf16 else torch.float32,
    )
    return {**attention, "quantization_config": bits, "device_map": {"": torch.cuda.current_device()}}


def trained_elements(network: Any) -> int:
    """Elements of the weights that the training can change; under LoRA those of the matrices with an adapter."""
    adapted = [module for module in network.modules() if hasattr(module, "lora_A")]
    if adapted:
        return sum(module.in_features * module.out_features for module in adapted)
    return sum(math.prod(whole_shape(p)) for p in network.parameters() if p.requires_grad)


def merged(config: LoraConfig, source: Path, network: Any) -> Any:
    """The model with its adapters' update in the weights: the whole ones of ``source``, if those trained had 4 bits."""
    if config.base == "4bit":
        import peft

        whole = _with_adapters(load_vlm(source, dtype="float32"), config)
        peft.set_peft_model_state_dict(whole, peft.get_peft_model_state_dict(network))
        network = whole
    return network.merge_and_unload()


def save_adapter(network: Any, source: Path, folder: Path) -> None:
    """The adapters of ``network`` as a folder that peft loads over ``source``.

    peft leaves the order of the modules to chance, knows the base by its place in a cache, and writes an empty card.
    """
    network.save_pretrained(folder, save_embedding_layers=False)
    config = read_json(folder / ADAPTER_CONFIG)
    ordered = {"target_modules": sorted(config["target_modules"])}
    write_json(folder / ADAPTER_CONFIG, config | base_named(Checkpoint(source)) | ordered)
    (folder / "README.md").unlink()
    (folder / WEIGHTS).chmod(0o644)


def state_elements(network: Any) -> tuple[int, int]:
    """Elements of the weights that a checkpoint holds, and of those with an optimizer's state; LoRA saves its own."""
    free = sum(math.prod(whole_shape(p)) for p in network.parameters() if p.requires_grad)
    every = sum(math.prod(whole_shape(p)) for p in network.parameters())
    return free if hasattr(network, "peft_config") else every, free


def reloaded(config: TrainConfig, source: Path, processor: Any, trained: dict[str, torch.Tensor]) -> Any:
    """The model with the gathered weights that a DeepSpeed training changed; the frozen ones stay to the bit.

    Loaded from ``source`` anew, without DeepSpeed: a model that was loaded under ZeRO-3 does not know the names
    its files had, and transformers saves it under names that nothing loads.
    """
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    network = _resized(load_vlm(source), config, processor)
    unknown = network.load_state_dict(trained, strict=False).unexpected_keys
    if unknown:
        raise CheckpointError(f"{source}: has no weight '{unknown[0]}', which was trained; is it another model?")
    return network


def _resized(network: Any, config: TrainConfig, processor: Any) -> Any:
    """``network`` with rows for <think> and </think>, if they are asked for and it lacks them."""
    if config.add_think_tokens and len(processor.tokenizer) > network.get_input_embeddings().num_embeddings:
        network.resize_token_embeddings(len(processor.tokenizer))
    return network


def _train_only_text(network: Any) -> None:
    """Freeze everything but the text decoder and the output head: vision tower and projector stay."""
    network.requires_grad_(False)
    network.get_decoder().requires_grad_(True)
    if (head := network.get_output_embeddings()) is not None:
        head.requires_grad_(True)


def _with_adapters(network: Any, config: LoraConfig) -> Any:
    """LoRA on the selected projections of the text decoder; all other weights are frozen."""
    import peft

    prefix = next(name for name, module in network.named_modules() if module is network.get_decoder())
    inside = canonical_names(f"{prefix}.{name}" for name, _ in network.get_decoder().named_parameters())
    chosen = [own for name, own in inside.items() if module_of(name) in config.modules and name.endswith(".weight")]
    adapters = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft only divides it
        lora_dropout=config.dropout,
        target_modules=[own.removesuffix(".weight") for own in chosen],
    )
    with warnings.catch_warnings():
        # peft asks transformers by a name that is going to be another
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return peft.get_peft_model(network, adapters)
