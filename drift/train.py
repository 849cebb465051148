"""Supervised fine-tuning of a multimodal model, with or without the prior: plain SFT, or DRIFT."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from drift.artifacts import content_sha256, read_json, staged, write_json, write_provenance
from drift.checkpoints import original_vlm_sha256, resolve
from drift.collate import AnswerCollator, TrainingRows
from drift.config import TrainConfig
from drift.delta import load_delta
from drift.errors import DataError, PriorError
from drift.modeling import allow_cuda_torchvision_on_cpu, load_processor, load_vlm, stored_dtype
from drift.prior import BindReport, Prior

allow_cuda_torchvision_on_cpu()  # transformers' Trainer imports torchvision
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed  # noqa: E402
from transformers.trainer_callback import PrinterCallback, ProgressCallback  # noqa: E402

logger = logging.getLogger(__name__)

RESUME = "resume.json"
THINK_TOKENS = ["<think>", "</think>"]


@dataclass(frozen=True)
class TrainReport:
    """What a training did; `history` has one row per logged step."""

    steps: int
    samples: int
    skipped: int
    final_loss: float
    seconds: float
    guided_parameters: int
    guided_elements: int
    history: list[dict[str, float]]

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow."""
        last = {
            f"drift/{name}": self.history[-1][name] for name in ("projection", "cos_mean") if name in self.history[-1]
        }
        return {
            "train/steps": self.steps,
            "train/samples": self.samples,
            "train/skipped": self.skipped,
            "train/final_loss": self.final_loss,
            "train/seconds": self.seconds,
            "drift/guided_parameters": self.guided_parameters,
            "drift/guided_elements": self.guided_elements,
            **last,
        }


class StepProgress(TrainerCallback):
    """One bar over the optimizer steps, with the loss beside it (transformers' own prints a line a step)."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar, where the training goes on from."""
        start = state.global_step
        self.bar = tqdm(total=state.max_steps, initial=start, desc="train", unit="step", leave=False, disable=None)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One step further."""
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the newest loss."""
        if "loss" in logs:
            self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self.bar.close()


class PriorTrainer(Trainer):
    """transformers' Trainer that lets the prior act before gradient clipping, where the paper has it."""

    prior: Prior | None = None
    bound: BindReport | None = None

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The optimizer, with the prior bound to it."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)
        if self.prior is not None and self.bound is None:
            network: Any = self.model
            self.bound = self.prior.bind(network, optimizer)
            logger.info("prior bound to %d tensors, %d elements", self.bound.parameters, self.bound.elements)
        return optimizer

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        if self.prior is not None and self.prior.config.clip == "before":
            self.prior.guide()
        return super()._clip_grad_norm(model)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load by the names the files have: transformers' own way, not strict, leaves a Qwen2.5-VL as it was."""
        network: Any = model or self.model
        network.load_state_dict(load_vlm(resume_from_checkpoint, dtype="float32").state_dict())

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the prior's metrics to the step's."""
        if self.prior is not None and "loss" in logs:
            logs.update(self.prior.metrics())
        super().log(logs, *args, **kwargs)


def train(
    config: TrainConfig,
    *,
    model: str,
    training_set: Path,
    out: Path,
    delta: Path | None = None,
) -> TrainReport:
    """Fine-tune ``model`` on ``training_set``/train.parquet and save a loadable directory to ``out``.

    With `config.prior` set, ``delta`` is the folder of Δ that biases the gradient; without, plain SFT.
    The loss is over the assistant's tokens. Weights are trained in float32 (bf16 is autocast over them) and
    saved in the dtype they came in. With `save_steps`, a killed training goes on from its last checkpoint.
    Raises DataError, CheckpointError or PriorError.
    """
    if (config.prior is None) != (delta is None):
        raise PriorError("train.prior and --delta go together; set both (DRIFT) or neither (SFT)")
    _check_deepspeed(config)
    source = resolve(model)
    started = time.monotonic()
    with staged(out, keep_partial=config.save_steps is not None) as folder:
        checkpoint = _resume_point(config, source, training_set, delta, folder)
        trainer = _trainer(config, source, training_set, delta, folder)
        trainer.train(resume_from_checkpoint=checkpoint)
        _save(trainer, source, folder)
        report = _report(trainer, time.monotonic() - started)
        inputs = {"model": source, "training_set": training_set, **({"delta": delta} if delta else {})}
        write_provenance(
            folder,
            "train",
            config=config.model_dump(mode="json"),
            inputs=inputs,
            original_vlm_sha256=original_vlm_sha256(source),
        )
    return report


def _check_deepspeed(config: TrainConfig) -> None:
    if config.deepspeed is None:
        return
    if not Path(config.deepspeed).is_file():
        raise DataError(f"{config.deepspeed}: train.deepspeed names no file; see configs/deepspeed/")
    if config.prior is not None:
        raise PriorError(
            "train.deepspeed: the prior does not bind to DeepSpeed's optimizers yet; set train.deepspeed=null"
        )


def _trainer(config: TrainConfig, source: Path, training_set: Path, delta: Path | None, folder: Path) -> PriorTrainer:
    if config.threads:
        torch.set_num_threads(config.threads)
    set_seed(config.seed)
    processor = load_processor(source)
    network = load_vlm(source, dtype="float32").train()
    if config.add_think_tokens and processor.tokenizer.add_tokens(THINK_TOKENS):
        network.resize_token_embeddings(len(processor.tokenizer))
    if config.freeze_vision:
        _train_only_text(network)
    rows = TrainingRows(training_set, processor, config)
    trainer = PriorTrainer(
        model=network,
        args=_arguments(config, folder / "checkpoints"),
        train_dataset=rows,
        data_collator=AnswerCollator(processor),
        processing_class=processor,
    )
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    trainer.add_callback(StepProgress())
    if config.prior is not None and delta is not None:
        trainer.prior = Prior(config.prior, load_delta(delta))
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
        activation_checkpointing=config.gradient_checkpointing,
        deepspeed=config.deepspeed,
        seed=config.seed,
        data_seed=config.seed,
        disable_tqdm=True,
        logging_steps=config.logging_steps,
        save_strategy="steps" if config.save_steps else "no",
        save_steps=config.save_steps or 500,
        save_total_limit=1,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
    )


def _train_only_text(network: Any) -> None:
    """Freeze everything but the text decoder and the output head: vision tower and projector stay."""
    network.requires_grad_(False)
    network.get_decoder().requires_grad_(True)
    if (head := network.get_output_embeddings()) is not None:
        head.requires_grad_(True)


def _resume_point(
    config: TrainConfig, source: Path, training_set: Path, delta: Path | None, folder: Path
) -> str | None:
    """The newest checkpoint in ``folder``, if it is of this very training; DataError if it is of another."""
    this = {
        **{f"train.{key}": value for key, value in config.model_dump(mode="json").items()},
        "model": content_sha256(source),
        "training set": content_sha256(training_set),
        "delta": content_sha256(delta) if delta else None,
    }
    if (folder / RESUME).exists():
        that = read_json(folder / RESUME)
        for key, value in this.items():
            if that.get(key) != value:
                raise DataError(
                    f"{folder}: holds a checkpoint of another training ({key}: {that.get(key)} there, {value} here);"
                    " remove it or choose another --out"
                )
    write_json(folder / RESUME, this)
    found = sorted((folder / "checkpoints").glob("checkpoint-*/trainer_state.json"), key=lambda p: p.stat().st_mtime)
    return str(found[-1].parent) if found else None


def _save(trainer: PriorTrainer, source: Path, folder: Path) -> None:
    """Write the final model and leave nothing else in ``folder``."""
    network: Any = trainer.accelerator.unwrap_model(trainer.model)
    network.to(stored_dtype(source)).save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o644)  # transformers leaves them to their owner alone; containers run as others
    trainer.processing_class.save_pretrained(folder)  # type: ignore[union-attr]
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / RESUME).unlink()


def _report(trainer: PriorTrainer, seconds: float) -> TrainReport:
    history = [row for row in trainer.state.log_history if "loss" in row]
    rows: Any = trainer.train_dataset
    bound = trainer.bound or BindReport(0, 0, 0)
    return TrainReport(
        steps=trainer.state.global_step,
        samples=len(rows),
        skipped=rows.skipped,
        final_loss=history[-1]["loss"],
        seconds=seconds,
        guided_parameters=bound.parameters,
        guided_elements=bound.elements,
        history=history,
    )
