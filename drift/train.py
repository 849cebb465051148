"""Supervised fine-tuning of a multimodal model, with or without the prior: plain SFT, or DRIFT.

`train` prepares the output folder and starts the ranks (`drift.launch`); `fit` is what each rank does.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from drift.artifacts import content_sha256, read_json, staged, write_json, write_provenance
from drift.callback import PriorCallback
from drift.checkpoints import Checkpoint, original_vlm_sha256, resolve
from drift.collate import AnswerCollator, TrainingRows
from drift.config import LoraConfig, TrainConfig
from drift.delta import load_delta
from drift.errors import CheckpointError, ConfigError, DataError, PriorError
from drift.launch import default_processes, launch
from drift.layout import canonical_names, module_of
from drift.modeling import load_processor, load_vlm, stored_dtype
from drift.prior import BindReport, Prior
from drift.shards import require_float32_masters, whole_shape
from drift.zero import check_deepspeed

from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed  # isort: skip  # after drift.callback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config  # isort: skip
from transformers.trainer_callback import PrinterCallback, ProgressCallback  # isort: skip

logger = logging.getLogger(__name__)

RESUME = "resume.json"
COMPLETE = "complete"
"""An empty file that a checkpoint gets when every rank has written its part."""
KEPT_CHECKPOINTS = 2
FEW = 0.01
COSINES = "cosines.svg"
"""cos(g, Δ) by layer and step, as one picture."""
THINK_TOKENS = ["<think>", "</think>"]


@dataclass(frozen=True)
class Job:
    """What every rank needs: the section, local inputs, the folder to write, the checkpoint to go on from."""

    config: TrainConfig
    source: Path
    training_set: Path
    delta: Path | None
    folder: Path
    checkpoint: str | None


@dataclass(frozen=True)
class TrainReport:
    """What a training did; `history` has one row per logged step, `cosines` the layers' mean cos(g, Δ) of each.

    `weights_changed` is the share of the trained weights whose stored value is another than before: small steps can
    vanish in a 16-bit file.
    """

    steps: int
    samples: int
    skipped: int
    final_loss: float
    seconds: float
    guided_parameters: int
    guided_elements: int
    left_out: int
    weights_changed: float
    history: list[dict[str, float]]
    cosines: list[dict[str, Any]]

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow."""
        names = ("projection", "cos_mean", "update_cosine")
        last = {f"drift/{name}": self.history[-1][name] for name in names if name in self.history[-1]}
        return {
            "train/steps": self.steps,
            "train/samples": self.samples,
            "train/skipped": self.skipped,
            "train/final_loss": self.final_loss,
            "train/seconds": self.seconds,
            "train/weights_changed": self.weights_changed,
            "drift/guided_parameters": self.guided_parameters,
            "drift/guided_elements": self.guided_elements,
            "drift/left_out": self.left_out,
            **last,
        }


# ---------------------------------------------------------------------------------------- one training


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
    The loss is over the assistant's tokens. Weights are trained in float32 (bf16 is autocast over them, or DeepSpeed
    keeps float32 masters) and saved in the dtype they came in. With `save_steps`, a killed training goes on from its
    last complete checkpoint. Raises ConfigError, DataError, CheckpointError or PriorError, whichever rank found it.
    """
    if (config.prior is None) != (delta is None):
        raise PriorError("train.prior and --delta go together; set both (DRIFT) or neither (SFT)")
    check_deepspeed(config)
    _check_liger(config)
    source, started = resolve(model), time.monotonic()
    processes = config.processes or default_processes()
    with staged(out, keep_partial=config.save_steps is not None) as folder:
        checkpoint = _resume_point(config, source, training_set, delta, folder, processes)
        job = Job(config, source, training_set, delta, folder, checkpoint)
        fitted = launch(fit, job, processes=processes, deepspeed=config.deepspeed is not None)
        changed = _weights_changed(source, folder, fitted.pop("trained"))
        report = TrainReport(**fitted, weights_changed=changed, seconds=time.monotonic() - started)
        if report.cosines:
            (folder / COSINES).write_text(_cosines_figure(report.cosines), encoding="utf-8")
        inputs = {"model": source, "training_set": training_set, **({"delta": delta} if delta else {})}
        write_provenance(
            folder,
            "train",
            config=config.model_dump(mode="json"),
            inputs=inputs,
            processes=processes,
            original_vlm_sha256=original_vlm_sha256(source),
        )
    return report


def _check_liger(config: TrainConfig) -> None:
    if config.liger and importlib.util.find_spec("liger_kernel") is None:
        raise ConfigError("train.liger: true, but the kernels are not installed; pip install 'drift-mllm[liger]'")
    if config.liger and not torch.cuda.is_available():
        raise ConfigError("train.liger: true needs a GPU; set it to false")


def _resume_point(
    config: TrainConfig, source: Path, training_set: Path, delta: Path | None, folder: Path, processes: int
) -> str | None:
    """The newest complete checkpoint in ``folder``, if it is of this very training; DataError if it is of another."""
    this = {
        **{f"train.{key}": value for key, value in config.model_dump(mode="json").items()},
        "train.processes": processes,
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
    found = sorted((folder / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    complete = [path for path in found if (path / COMPLETE).exists()]
    for torn in set(found) - set(complete):
        shutil.rmtree(torn)
    return str(complete[-1]) if complete else None


def _weights_changed(source: Path, out: Path, trained: int) -> float:
    """The share of the ``trained`` elements whose stored value is another than in ``source``."""
    before, after = Checkpoint(source), Checkpoint(out)
    names = [name for name, shape in before.shapes.items() if after.shapes.get(name) == shape]
    changed = sum(
        int((before.tensor(name) != after.tensor(name)).sum())
        for name in tqdm(names, "compare", leave=False, disable=None)
    )
    if changed < FEW * trained:
        logger.warning(
            "%d of %d trained weights are stored with another value than before: "
            "the learning rate is too small for the file's dtype",
            changed,
            trained,
        )
    return changed / trained


def _cosines_figure(rows: list[dict[str, Any]]) -> str:
    from drift import plots

    return plots.cosines([row["step"] for row in rows], np.array([row["layers"] for row in rows]).T)


# -------------------------------------------------------------------------------------------- one rank


def fit(job: Job) -> dict[str, Any]:
    """Train on this rank and save the model on the first; most fields of `TrainReport`, and the elements `trained`."""
    config = job.config
    if config.threads:
        torch.set_num_threads(config.threads)
    trainer = _trainer(job)
    trained = _trained_elements(trainer.model)
    trainer.train(resume_from_checkpoint=job.checkpoint)
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
        "cosines": guidance.cosines if guidance else [],
    }


def _trained_elements(network: Any) -> int:
    """Elements of the weights that the training can change; under LoRA those of the matrices with an adapter."""
    adapted = [module.base_layer.weight for module in network.modules() if hasattr(module, "lora_A")]
    return sum(math.prod(whole_shape(p)) for p in adapted or (p for p in network.parameters() if p.requires_grad))


class VlmTrainer(Trainer):
    """transformers' Trainer with a loss per token of the whole batch, and checkpoints loaded by their files' names.

    The Qwen-VL classes say that they take no loss arguments, so Trainer would average the means of micro-batches: the
    weights would depend on how a batch is cut. They do take them; with the count, each token weighs the same.
    """

    guidance: PriorCallback | None = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model_accepts_loss_kwargs = True

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """transformers' own way, not strict, leaves a Qwen2.5-VL as it was: its files have older names."""
        network: Any = model or self.model
        if hasattr(network, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            network.load_state_dict(load_vlm(resume_from_checkpoint, dtype="float32").state_dict())


class StepProgress(TrainerCallback):
    """One bar over the optimizer steps, with the loss beside it (transformers' own prints a line a step)."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar on the first rank, where the training goes on from."""
        hidden = None if state.is_world_process_zero else True
        start = state.global_step
        self.bar = tqdm(total=state.max_steps, initial=start, desc="train", unit="step", leave=False, disable=hidden)

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
    arguments = _arguments(config, job.folder / "checkpoints")  # first: they tell ZeRO-3 how to load the weights
    set_seed(config.seed)
    processor = load_processor(job.source)
    trainer = VlmTrainer(
        model=_network(config, job.source, processor),
        args=arguments,
        train_dataset=TrainingRows(job.training_set, processor, config),
        data_collator=AnswerCollator(processor),
        processing_class=processor,
    )
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    if config.prior is not None and job.delta is not None:
        trainer.guidance = PriorCallback(Prior(config.prior, load_delta(job.delta)))
        trainer.add_callback(trainer.guidance)
    trainer.add_callback(Safeguards())
    trainer.add_callback(StepProgress())
    return trainer


def _network(config: TrainConfig, source: Path, processor: Any) -> Any:
    masters_elsewhere = config.deepspeed is not None and config.bf16  # DeepSpeed makes them from the 16-bit weights
    dtype = "bfloat16" if masters_elsewhere else "float32"
    network = _resized(load_vlm(source, dtype=dtype).train(), config, processor)
    if config.lora is not None:
        return _with_adapters(network, config.lora)
    if config.freeze_vision:
        _train_only_text(network)
    return network


def _resized(network: Any, config: TrainConfig, processor: Any) -> Any:
    """``network`` with rows for <think> and </think>, if they are asked for and the tokenizer lacks them."""
    if config.add_think_tokens:
        processor.tokenizer.add_tokens(THINK_TOKENS)
        if len(processor.tokenizer) > network.get_input_embeddings().num_embeddings:
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
    return peft.get_peft_model(
        network,
        peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft only divides it
            lora_dropout=config.dropout,
            target_modules=[own.removesuffix(".weight") for own in chosen],
        ),
    )


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
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
    )


def _save(trainer: VlmTrainer, job: Job) -> None:
    """Write the final model, whole, in the dtype it came in, and leave nothing else in the folder."""
    network: Any = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    if job.config.lora is not None:
        network = network.merge_and_unload()
    elif trainer.is_deepspeed_enabled:
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # all ranks take part; the first gets it
        if trainer.accelerator.is_main_process:
            trained = {name: state[name] for name, p in network.named_parameters() if p.requires_grad}
            network = _reloaded(job, trainer.processing_class, trained)
    if trainer.accelerator.is_main_process:
        network.to(stored_dtype(job.source)).save_pretrained(job.folder)
        for weights in job.folder.glob("*.safetensors"):
            weights.chmod(0o644)  # transformers leaves them to their owner alone; containers run as others
        trainer.processing_class.save_pretrained(job.folder)  # type: ignore[union-attr]
        shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)
        (job.folder / RESUME).unlink()
    trainer.accelerator.wait_for_everyone()


def _reloaded(job: Job, processor: Any, trained: dict[str, torch.Tensor]) -> Any:
    """The model with the gathered weights that a DeepSpeed training changed; the frozen ones stay to the bit.

    Loaded from ``job.source`` anew, without DeepSpeed: a model that was loaded under ZeRO-3 does not know the names
    its files had, and transformers saves it under names that nothing loads.
    """
    unset_hf_deepspeed_config()
    network = _resized(load_vlm(job.source), job.config, processor)
    unknown = network.load_state_dict(trained, strict=False).unexpected_keys
    if unknown:
        raise CheckpointError(f"{job.source}: has no weight '{unknown[0]}', which was trained; is it another model?")
    return network
