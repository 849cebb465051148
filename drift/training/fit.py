"""One rank of a training: transformers' Trainer with the prior, checkpoints that are whole, and the final model.

`drift.training.sft` prepares the folder and starts this on every rank.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, broadcast_object_list

from drift.config.train import KEPT_CHECKPOINTS, TrainConfig
from drift.ground.errors import ConfigError, DataError
from drift.prior.callback import PriorCallback
from drift.prior.prior import BindReport, Prior
from drift.prior.shards import require_float32_masters
from drift.training.collate import AnswerCollator, TrainingRows
from drift.training.network import reloaded, trainable_network, trained_elements, trained_processor
from drift.training.telling import Curves, StepProgress
from drift.weights.deltafile import load_delta
from drift.weights.modeling import load_vlm, stored_dtype

from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed  # isort: skip  # after the callback
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled  # isort: skip
from transformers.trainer_callback import PrinterCallback, ProgressCallback  # isort: skip

CHECKPOINTS = "checkpoints"
BOARD = "TENSORBOARD_LOGGING_DIR"
"""Variable: transformers' own default lies among the checkpoints, which go."""
COMPLETE = "complete"
"""An empty file that a checkpoint gets when every rank has written its part."""
SEEN_WITHIN_SECONDS = 90
"""How long a network file system may take to show one node the folder that another made."""


@dataclass(frozen=True)
class Job:
    """What every rank needs: the section, the inputs, and the folder to write, which may hold checkpoints."""

    config: TrainConfig
    source: Path
    training_set: Path
    delta: Path | None
    folder: Path


def fit(job: Job) -> dict[str, Any]:
    """Train on this rank and save the model on the first; most fields of `TrainReport`, and the elements `trained`."""
    config = job.config
    if config.threads:
        torch.set_num_threads(config.threads)
    trainer = _trainer(job)
    trained = trained_elements(trainer.model)
    trainer.train(resume_from_checkpoint=_agreed_checkpoint(job.folder))
    _save(trainer, job)
    history = [row for row in trainer.state.log_history if "loss" in row]
    guidance = trainer.guidance
    bound = guidance.report if guidance and guidance.report else BindReport(0, 0, 0)
    rows: Any = trainer.train_dataset
    return {
        "trained": trained,
        "steps": trainer.state.global_step,
        "samples": len(rows),
        "skipped": rows.skipped,
        "final_loss": history[-1]["loss"],
        "guided_parameters": bound.parameters,
        "guided_elements": bound.elements,
        "left_out": bound.left_out,
        "history": history,
        "times": [trainer.curves.times.get(int(row["step"]), 0.0) for row in history],
        "cosines": guidance.cosines if guidance else [],
    }


def _agreed_checkpoint(folder: Path) -> str | None:
    """The checkpoint that all ranks go on from: what the first rank finds. Raises DataError if it is not seen here."""
    rank = PartialState()
    found: list[str | None] = [_newest_checkpoint(folder) if rank.is_main_process else None]
    if rank.num_processes > 1:
        broadcast_object_list(found)
    _wait_for(Path(found[0] or folder))
    return found[0]


def _newest_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint; torn ones, of ranks that were killed, are removed."""
    found = sorted((folder / CHECKPOINTS).glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    complete = [path for path in found if (path / COMPLETE).exists()]
    for torn in set(found) - set(complete):
        shutil.rmtree(torn)
    return str(complete[-1]) if complete else None


def _wait_for(folder: Path) -> None:
    deadline = time.monotonic() + SEEN_WITHIN_SECONDS
    while not folder.is_dir():
        if time.monotonic() > deadline:
            raise DataError(f"{folder}: not seen by every rank; give --out a folder that all nodes share")
        time.sleep(1)


class VlmTrainer(Trainer):
    """transformers' Trainer with a loss per token of the whole batch, and checkpoints loaded by their files' names.

    The Qwen-VL classes say that they take no loss arguments, so Trainer would average the means of micro-batches: the
    weights would depend on how a batch is cut. They do take them; with the count, each token weighs the same.
    """

    guidance: PriorCallback | None = None
    curves: Curves

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.curves = Curves()
        self.model_accepts_loss_kwargs = True

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """transformers' own way, not strict, leaves a Qwen2.5-VL as it was: its files have older names."""
        network: Any = model or self.model
        if hasattr(network, "peft_config") or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            network.load_state_dict(load_vlm(resume_from_checkpoint, dtype="float32").state_dict())


class Safeguards(TrainerCallback):
    """Refuses an optimizer without float32 masters, and marks a checkpoint when every rank has written its part."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raises PriorError."""
        require_float32_masters(kwargs["optimizer"])

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint of this step."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


def _trainer(job: Job) -> VlmTrainer:
    config = job.config
    if "tensorboard" in config.report_to:
        board = job.folder.with_name(f"{job.folder.name.removesuffix('.partial')}.tensorboard")
        os.environ.setdefault(BOARD, str(board))
    arguments = _arguments(config, job.folder / CHECKPOINTS)  # first: they tell ZeRO-3 how to load the weights
    if _shards(config):
        _shard_on_processors()
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # else Trainer would spread one process over all GPUs with DataParallel
    set_seed(config.seed)
    processor = trained_processor(config, job.source)
    rows = TrainingRows(job.training_set, processor, config)  # before the model: a bad row costs no loading
    trainer = VlmTrainer(
        model=trainable_network(config, job.source, processor),
        args=arguments,
        train_dataset=rows,
        data_collator=AnswerCollator(processor, stand_in=rows.mixed and _partitions(config)),
        processing_class=processor,
    )
    if trainer.is_fsdp_enabled != _shards(config):
        raise ConfigError("train.fsdp: true, but accelerate shards nothing on this machine; set it to false")
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    if config.prior is not None and job.delta is not None:
        trainer.guidance = PriorCallback(Prior(config.prior, load_delta(job.delta)))
        trainer.add_callback(trainer.guidance)
    trainer.add_callback(Safeguards())
    trainer.add_callback(StepProgress())
    trainer.add_callback(trainer.curves)
    return trainer


def _arguments(config: TrainConfig, checkpoints: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler,
        warmup_steps=config.warmup_ratio,
        per_device_train_batch_size=config.per_device_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        max_grad_norm=config.max_grad_norm,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        optim="adamw_torch",
        bf16=config.bf16,
        activation_checkpointing=config.gradient_checkpointing,  # FSDP's own would rename the weights under the prior
        use_liger_kernel=config.liger,
        deepspeed=config.deepspeed,
        ddp_find_unused_parameters=not config.freeze_vision,
        seed=config.seed,
        data_seed=config.seed,
        disable_tqdm=True,
        logging_steps=config.logging_steps,
        include_num_input_tokens_seen="non_padding",
        save_strategy="steps" if config.save_steps else "no",
        save_steps=config.save_steps or 500,
        save_total_limit=KEPT_CHECKPOINTS,
        report_to=list(config.report_to) or "none",
        fsdp=True if _shards(config) else None,  # type: ignore[arg-type]  # a word is transformers' old way
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
    )


def _shards(config: TrainConfig) -> bool:
    """Whether there is something to shard over: transformers refuses FSDP on one rank alone."""
    return config.fsdp and int(os.environ.get("WORLD_SIZE", "1")) > 1


def _partitions(config: TrainConfig) -> bool:
    """Whether a rank holds only its share of the weights, so that all ranks must run every layer together."""
    return _shards(config) or is_deepspeed_zero3_enabled()


def _shard_on_processors() -> None:
    """accelerate knows FSDP for GPUs, and leaves it out, in silence, on processors, where torch shards as well."""
    if PartialState().distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def _save(trainer: VlmTrainer, job: Job) -> None:
    """Write the final model, whole, in the dtype it came in."""
    network: Any = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    if job.config.lora is not None:
        network = network.merge_and_unload()
    elif trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # all ranks take part; the first gets it
        if trainer.accelerator.is_main_process:
            trained = {name: state[name] for name, p in network.named_parameters() if p.requires_grad}
            network = reloaded(job.config, job.source, trainer.processing_class, trained)
    if trainer.accelerator.is_main_process:
        network.to(stored_dtype(job.source)).save_pretrained(job.folder)
        for weights in job.folder.glob("*.safetensors"):
            weights.chmod(0o644)  # transformers leaves them to their owner alone; containers run as others
        trainer.processing_class.save_pretrained(job.folder)  # type: ignore[union-attr]
    trainer.accelerator.wait_for_everyone()
