"""One rank of a training: transformers' Trainer with the prior, checkpoints that are whole, and the final model.

`drift.training.sft` prepares the folder and starts this on every rank.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, broadcast_object_list

from drift.config.train import KEPT_CHECKPOINTS, TrainConfig
from drift.ground.artifacts import PARTIAL
from drift.ground.errors import TERMINATED, ConfigError, DataError, TrainingError
from drift.prior.callback import PriorCallback
from drift.prior.prior import BindReport, Prior
from drift.training.batches.collate import AnswerCollator, TrainingRows
from drift.training.batches.order import Filled, RowOrder, WithoutFillings, places_to_fill
from drift.training.batches.packing import Packed, RowsKeptApart
from drift.training.held_out import Looks, split
from drift.training.launch import name_accelerator
from drift.training.network import (
    merged,
    reloaded,
    save_adapter,
    state_elements,
    trainable_network,
    trained_elements,
    trained_processor,
)
from drift.training.on_policy.prompts import PromptCollator, require_words
from drift.training.on_policy.teacher import Teacher
from drift.training.on_policy.trainer import OnPolicyTrainer
from drift.training.options import OPTIMIZERS, check_options, workers_of
from drift.training.safety.checkpoints import CHECKPOINTS, newest_whole
from drift.training.safety.effect import foretell, told
from drift.training.safety.room import checkpoint_bytes, require_room, when_there_is_room
from drift.training.safety.stopping import Grace
from drift.training.safety.watch import require_finite_result
from drift.training.telling import StepProgress
from drift.training.trainer import Safeguards, VlmTrainer
from drift.weights.delta.deltafile import load_delta
from drift.weights.modeling import stored_dtype
from drift.weights.storage.checkpoints import Checkpoint
from drift.weights.storage.sidefiles import ADAPTER, SideFiles, side_files

from transformers import TrainingArguments, set_seed  # isort: skip  # after the callback
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled  # isort: skip
from transformers.trainer_callback import PrinterCallback, ProgressCallback  # isort: skip

logger = logging.getLogger(__name__)

BOARD = "TENSORBOARD_LOGGING_DIR"
"""Variable: transformers' own default lies among the checkpoints, which go."""
NEVER = 2**31
"""Steps, where a checkpoint is only made of the best."""
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
    teacher: Path | None = None
    """The text expert, where `train.method` asks it."""


def fit(job: Job) -> dict[str, Any]:
    """Train on this rank and save the model on the first; most fields of `TrainReport`, and the elements `trained`.

    Raises SystemExit where SIGTERM has ended it, after a checkpoint was saved.
    """
    config = job.config
    if config.threads:
        torch.set_num_threads(config.threads)
    check_options(config)
    name_accelerator()
    grace = Grace(config.grace_seconds)
    trainer = _trainer(job, grace)
    trained = trained_elements(trainer.model)
    warnings = _foretold(trainer, job)
    with grace:
        _run(trainer, _agreed_checkpoint(job.folder))
        if grace.stopped:
            raise SystemExit(TERMINATED)
        looks = trainer.looks
        if config.keeps_best:
            trainer.take_back(job.folder / CHECKPOINTS, looks.best_step)
        _save(trainer, job)
    history = [row for row in trainer.state.log_history if "loss" in row]
    guidance = trainer.guidance
    bound = guidance.report if guidance and guidance.report else BindReport(0, 0, 0)
    return {
        "trained": trained,
        "steps": trainer.state.global_step,
        "samples": len(trainer.order.lengths),
        "skipped": trainer.skipped,
        "repeated": trainer.repeated,
        "final_loss": history[-1]["loss"],
        "guided_parameters": bound.parameters,
        "guided_elements": bound.elements,
        "left_out": bound.left_out,
        "history": history,
        "times": [trainer.curves.times.get(int(row["step"]), 0.0) for row in history],
        "cosines": guidance.cosines if guidance else [],
        "warnings": warnings,
        "held_out": looks.rows,
        "best_step": looks.best_step,
        "stopped": looks.stopped,
    }


def _foretold(trainer: VlmTrainer, job: Job) -> list[str]:
    """Why this training cannot matter, said on the first rank before it begins."""
    if not trainer.accelerator.is_main_process:
        return []
    rows: Any = trainer.train_dataset
    prior = trainer.guidance.prior.delta if trainer.guidance else None
    return told(foretell(job.config, job.source, prior, rows=len(rows), ranks=trainer.args.world_size))


def _run(trainer: VlmTrainer, checkpoint: str | None) -> None:
    """Train to the end, or to the first number that is none; what was seen until then is told in any case."""
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except TrainingError:
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
        raise


def _agreed_checkpoint(folder: Path) -> str | None:
    """The checkpoint that all ranks go on from: what the first rank finds. Raises DataError if it is not seen here."""
    rank = PartialState()
    found: list[Path | None] = [newest_whole(folder) if rank.is_main_process else None]
    if rank.num_processes > 1:
        broadcast_object_list(found)
    _wait_for(found[0] or folder)
    return str(found[0]) if found[0] else None


def _wait_for(folder: Path) -> None:
    deadline = time.monotonic() + SEEN_WITHIN_SECONDS
    while not folder.is_dir():
        if time.monotonic() > deadline:
            raise DataError(f"{folder}: not seen by every rank; give --out a folder that all nodes share")
        time.sleep(1)


def _require_room(job: Job, network: Any, steps: int) -> None:
    config = job.config
    one = checkpoint_bytes(*state_elements(network), masters_elsewhere=config.deepspeed is not None and config.bf16)
    whole = config.lora is None or config.lora.saves_model
    model = sum(path.stat().st_size for path in job.source.glob("*.safetensors")) if whole else 0
    require_room(job.folder, model=model, checkpoint=one, steps=steps, save_steps=config.save_steps)


def _trainer(job: Job, grace: Grace) -> VlmTrainer:
    config = job.config
    if "tensorboard" in config.report_to:
        board = job.folder.with_name(f"{job.folder.name.partition(PARTIAL)[0]}.tensorboard")
        os.environ.setdefault(BOARD, str(board))
    arguments = _arguments(config, job.folder / CHECKPOINTS)  # first: they tell ZeRO-3 how to load the weights
    if _shards(config):
        _shard_on_processors()
    if arguments.dataloader_num_workers:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a row at a time gains nothing, and its threads do not fork
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # else Trainer would spread one process over all GPUs with DataParallel
    set_seed(config.seed)
    processor = trained_processor(config, job.source)
    rows = TrainingRows(job.training_set, processor, config)  # before the model: a bad row costs no loading
    sets = split(rows, config, processor)
    collate = WithoutFillings(AnswerCollator(processor, stand_in=_stands_in(config, rows)))
    teacher = _teacher(job, rows, processor)
    model = trainable_network(config, job.source, processor)
    asking = PromptCollator(processor, teacher.tokenizer) if teacher else collate
    trainer = (partial(OnPolicyTrainer, teacher=teacher) if teacher else VlmTrainer)(
        config,
        model=model,
        args=arguments,
        train_dataset=Filled(sets.trained),
        data_collator=Packed(collate, model) if config.packing else asking,
        processing_class=processor,
    )
    _order(trainer, config, [rows.lengths[place] for place in sets.trained.indices])
    trainer.skipped, trainer.looks = rows.skipped, Looks(trainer, config, sets, collate)
    if trainer.is_fsdp_enabled != _shards(config):
        raise ConfigError("train.fsdp: true, but accelerate shards nothing on this machine; set it to false")
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    if config.prior is not None and job.delta is not None:
        trainer.guidance = PriorCallback(Prior(config.prior, load_delta(job.delta)))
        trainer.add_callback(trainer.guidance)
        trainer.watch.guidance = trainer.guidance
    if config.packing:
        trainer.add_callback(RowsKeptApart(trainer, collate))
    trainer.add_callback(Safeguards(grace, partial(_require_room, job)))
    trainer.add_callback(StepProgress())
    trainer.add_callback(trainer.curves)
    trainer.add_callback(trainer.looks)
    trainer.add_callback(trainer.watch)  # after the prior, which clips, and after all that ask for a save
    return trainer


def _teacher(job: Job, rows: TrainingRows, processor: Any) -> Teacher | None:
    """The expert of an on-policy training, before the model: what does not fit costs no loading of it."""
    if job.teacher is None:
        return None
    require_words(rows.rows)
    return Teacher(job.teacher, processor.tokenizer)


def _order(trainer: VlmTrainer, config: TrainConfig, lengths: list[int]) -> None:
    """Give the trainer its order of rows, and say which rows are seen twice, if ranks would be left without one."""
    ranks, batch = trainer.accelerator.num_processes, config.per_device_batch_size
    missing = places_to_fill(len(lengths), batch, ranks)
    trainer.repeated = missing if config.loss == "micro_batch" else 0
    if trainer.repeated and trainer.is_world_process_zero():
        logger.warning(
            "%d of %d rows are trained on twice in every epoch, so that %d ranks have equally many batches;"
            " with train.loss: token they weigh nothing",
            *(missing, len(lengths), ranks),
        )
    group = batch * ranks * config.gradient_accumulation if config.batches == "by_length" else None
    trainer.order = RowOrder(lengths, seed=config.seed, fill=missing - trainer.repeated, group=group)


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
        optim=OPTIMIZERS[config.optimizer],
        bf16=config.bf16,
        activation_checkpointing=config.gradient_checkpointing,  # FSDP's own would rename the weights under the prior
        use_liger_kernel=config.liger,
        deepspeed=config.deepspeed,
        ddp_find_unused_parameters=not config.freeze_vision,
        seed=config.seed,
        data_seed=config.seed,
        disable_tqdm=True,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,  # it would show NaN as a loss of 0
        include_num_input_tokens_seen="all" if config.packing else "non_padding",
        save_strategy="steps" if config.save_steps or config.keeps_best else "no",
        save_steps=config.save_steps or NEVER,
        save_total_limit=KEPT_CHECKPOINTS,
        report_to=list(config.report_to) or "none",
        fsdp=True if _shards(config) else None,  # type: ignore[arg-type]  # a word is transformers' old way
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        dataloader_num_workers=workers_of(config),
        use_cpu=not torch.cuda.is_available(),
    )


def _shards(config: TrainConfig) -> bool:
    """Whether there is something to shard over: transformers refuses FSDP on one rank alone."""
    return config.fsdp and int(os.environ.get("WORLD_SIZE", "1")) > 1


def _partitions(config: TrainConfig) -> bool:
    """Whether a rank holds only its share of the weights, so that all ranks must run every layer together."""
    return _shards(config) or is_deepspeed_zero3_enabled()


def _stands_in(config: TrainConfig, rows: TrainingRows) -> bool:
    """Whether a batch without an image gets one. Raises ConfigError where batches are packed, without room for it."""
    if not (rows.pictured and _partitions(config)):
        return False
    if config.packing and not all(row["images"] for row in rows.rows):
        raise ConfigError("train.packing: with sharded weights every row needs an image, or none; set it to false")
    return True


def _shard_on_processors() -> None:
    """accelerate knows FSDP for GPUs, and leaves it out, in silence, on processors, where torch shards as well."""
    if PartialState().distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def _save(trainer: VlmTrainer, job: Job) -> None:
    """Write what the training leaves: the model, its adapter, or both."""
    network: Any = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    lora = job.config.lora
    if lora is not None and lora.saves_adapter and trainer.accelerator.is_main_process:
        require_finite_result(network)
        when_there_is_room(partial(_write_adapter, network, trainer.processing_class, job), job.folder)
    if lora is None or lora.saves_model:
        _save_model(network, trainer, job)
    trainer.accelerator.wait_for_everyone()


def _write_adapter(network: Any, processor: Any, job: Job) -> None:
    """Beside the model in a folder of its own; alone in the model's place, with the processor."""
    if job.config.lora is not None and job.config.lora.saves_model:
        save_adapter(network, job.source, job.folder / ADAPTER)
    else:
        save_adapter(network, job.source, job.folder)
        processor.save_pretrained(job.folder)


def _save_model(network: Any, trainer: VlmTrainer, job: Job) -> None:
    """Write the final model, whole, in the dtype it came in. Raises TrainingError if a weight is NaN or infinite."""
    if job.config.lora is not None:
        network = merged(job.config.lora, job.source, network)
    elif trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # all ranks take part; the first gets it
        if trainer.accelerator.is_main_process:
            trained = {name: state[name] for name, p in network.named_parameters() if p.requires_grad}
            network = reloaded(job.config, job.source, trainer.processing_class, trained)
    if trainer.accelerator.is_main_process:
        network.to(stored_dtype(job.source))
        require_finite_result(network)
        beside = side_files(Checkpoint(job.source))
        told(beside.warnings)
        when_there_is_room(partial(_write, network, trainer.processing_class, beside, job.folder), job.folder)


def _write(network: Any, processor: Any, beside: SideFiles, folder: Path) -> None:
    """What transformers saves, and what it does not know of φ_VL's folder: a voice, code, templates in sub-folders."""
    network.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o644)  # transformers leaves them to their owner alone; containers run as others
    processor.save_pretrained(folder)
    beside.copy(folder)
