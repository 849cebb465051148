"""Supervised fine-tuning of a multimodal model, with or without the prior: plain SFT, or DRIFT.

`train` prepares the output folder, starts the ranks (`launch`), each of which runs `fit`, and says what came of it.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from drift.config.train import TrainConfig
from drift.config.zero import check_deepspeed
from drift.ground.artifacts import content_sha256, read_json, staged, write_json, write_provenance
from drift.ground.errors import ConfigError, DataError, PriorError
from drift.training.fit import CHECKPOINTS, COMPLETE, Job, fit
from drift.training.launch import launch, processes_of
from drift.weights.checkpoints import Checkpoint, original_vlm_sha256, resolve
from drift.weights.deltafile import load_delta, require_made_from

logger = logging.getLogger(__name__)

RESUME = "resume.json"
FEW = 0.01
COSINES = "cosines.svg"
"""cos(g, Δ) by layer and step, as one picture."""


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
    if delta is not None:
        require_made_from(load_delta(delta), source)
    processes = processes_of(config.processes)
    with staged(out, keep_partial=config.save_steps is not None) as folder:
        checkpoint = _resume_point(config, source, training_set, delta, folder, processes)
        job = Job(config, source, training_set, delta, folder, checkpoint)
        fitted = launch(fit, job, processes=processes, deepspeed=config.deepspeed is not None)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        (folder / RESUME).unlink()
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
    found = sorted((folder / CHECKPOINTS).glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
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
    from drift.ground import drawing  # matplotlib takes a second

    return drawing.cosines([row["step"] for row in rows], np.array([row["layers"] for row in rows]).T)
