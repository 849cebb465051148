"""Supervised fine-tuning of a multimodal model, with or without the prior: plain SFT, or DRIFT.

`train` prepares the output folder, starts the ranks (`launch`), each of which runs `fit`, and says what came of it.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from drift.config.train import WITHOUT_CONSEQUENCE, TrainConfig
from drift.config.zero import check_deepspeed
from drift.data.rows import train_file
from drift.ground.artifacts import content_sha256, read_json, write_json, write_provenance
from drift.ground.claim import work_folder
from drift.ground.errors import ConfigError, DataError, PriorError
from drift.tracking.telling.live import NO_CURVE
from drift.training.fit import Job, fit
from drift.training.launch import launch, processes_of
from drift.training.nodes.shared import cluster_of_environment, model_folder, shared_folder
from drift.training.options import check_options
from drift.training.ranks import among_ranks, started_ranks
from drift.training.safety.checkpoints import CHECKPOINTS, saved
from drift.training.safety.effect import look_back, told, weights_changed
from drift.weights.delta.deltafile import load_delta, require_made_from
from drift.weights.storage.checkpoints import original_vlm_sha256, resolve

logger = logging.getLogger(__name__)

RESUME = "resume.json"
RANKS = "train.processes"
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
    times: list[float] = field(default_factory=list)
    """When each row of `history` was logged, in seconds since 1970."""
    warnings: tuple[str, ...] = ()
    """Why the training could not matter, or did not."""
    repeated: int = 0
    """Rows that are trained on twice in every epoch, so that the ranks have equally many."""
    held_out: list[dict[str, float]] = field(default_factory=list)
    """A row per look at the rows held out: `step`, `time`, `held_out_loss`, `perception_right`."""
    best_step: int = 0
    """Of the looks, the step with the lowest loss; 0 without looks."""
    stopped: str = ""
    """Why the training ended before its last step; empty if it did not."""

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow."""
        names = ("projection", "cos_mean", "update_cosine")
        last = {f"drift/{name}": self.history[-1][name] for name in names if name in self.history[-1]}
        looks = {f"train/{name}": value for name, value in self._last_look().items()}
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
            **looks,
            **({"train/best_step": self.best_step} if looks else {}),
            **({"train/repeated": self.repeated} if self.repeated else {}),
        }

    def _last_look(self) -> dict[str, float]:
        return {name: value for row in self.held_out[-1:] for name, value in row.items() if name not in NO_CURVE}


def train(
    config: TrainConfig,
    *,
    model: str,
    training_set: Path,
    out: Path,
    delta: Path | None = None,
    teacher: str | None = None,
    name: str = "train",
) -> TrainReport:
    """Fine-tune ``model`` on ``training_set``/train.parquet and save a loadable directory to ``out``.

    With `config.prior` set, ``delta`` is the folder of Δ that biases the gradient; without, plain SFT.
    The loss is over the assistant's tokens; with `method: on_policy` over those that the model says itself, scored by
    ``teacher``, a text model (`drift.training.on_policy`). Weights are trained in float32 (bf16 is autocast over them,
    or DeepSpeed keeps float32 masters) and saved in the dtype they came in. A training that was killed or asked to end
    goes on from its last whole checkpoint, `save_steps` or SIGTERM made it; with `checkpoints` in whichever process or
    pod.

    The ranks are this process, or processes of this machine; those that torchrun has started, on however many machines
    (each returns the report); or the nodes of a TrainJob called after ``name``, in a pod that is told so
    (`drift.training.nodes.shared`). Raises ConfigError, DataError, CheckpointError or PriorError, whichever rank found
    it; SystemExit after SIGTERM.
    """
    if (config.prior is None) != (delta is None):
        raise PriorError("train.prior and --delta go together; set both (DRIFT) or neither (SFT)")
    if config.distils != (teacher is not None):
        raise ConfigError("train.method on_policy and --teacher go together; set both (distillation) or neither (SFT)")
    check_deepspeed(config)
    if not cluster_of_environment():  # else the ranks are on other machines, and say it there
        check_options(config)
    train_file(training_set)  # before a model is fetched or read for its hash
    inputs = Inputs(resolve(model), training_set, delta, resolve(teacher) if teacher else None)
    if delta is not None:
        require_made_from(load_delta(delta), inputs.model)
    ranks, start = _place_of(config, name)
    return start(partial(_train, config, inputs, out, ranks))


@dataclass(frozen=True)
class Inputs:
    """What a training reads, as it lies here."""

    model: Path
    training_set: Path
    delta: Path | None
    teacher: Path | None = None

    def named(self) -> dict[str, Path]:
        """Those that there are, by name."""
        return {name: path for name, path in vars(self).items() if path is not None}


Start = Callable[[Job], dict[str, Any]]
"""Trains a job, wherever its ranks are, and returns what `fit` returns on the first."""


def _place_of(config: TrainConfig, name: str) -> tuple[int, Callable[[Callable[[Start], TrainReport]], TrainReport]]:
    """How many ranks there will be, and what runs a training with the right `Start`."""
    deepspeed = config.deepspeed is not None
    if ranks := started_ranks(config.processes):
        return ranks, lambda training: among_ranks(training, fit, deepspeed=deepspeed)
    if cluster := cluster_of_environment():
        from drift.training.nodes.cluster import train_on_nodes  # needs Kubernetes' client

        ranks = cluster.ranks(config.processes)
        return ranks, lambda training: training(partial(train_on_nodes, cluster, name))
    ranks = processes_of(config.processes)
    here = partial(launch, fit, processes=ranks, deepspeed=deepspeed, grace_seconds=config.grace_seconds)
    return ranks, lambda training: training(here)


def _train(config: TrainConfig, inputs: Inputs, out: Path, ranks: int, start: Start) -> TrainReport:
    started, this = time.monotonic(), _identity(config, inputs, ranks)
    with _folder(config, this, out) as folder:
        _require_same(folder, this)
        fitted = start(Job(config, inputs.model, inputs.training_set, inputs.delta, folder, inputs.teacher))
        trained = fitted.pop("trained")
        changed = weights_changed(inputs.model, folder, trained)
        warnings = (*fitted.pop("warnings"), *told(look_back(changed, trained, fitted["history"])))
        seconds = time.monotonic() - started
        report = TrainReport(**fitted, weights_changed=changed, seconds=seconds, warnings=warnings)
        if report.cosines:
            (folder / COSINES).write_text(_cosines_figure(report.cosines), encoding="utf-8")
        write_provenance(
            folder,
            "train",
            config=config.model_dump(mode="json"),
            inputs=inputs.named(),
            processes=ranks,
            original_vlm_sha256=original_vlm_sha256(inputs.model),
        )
    return report


def _identity(config: TrainConfig, inputs: Inputs, ranks: int) -> dict[str, Any]:
    """What must be the same for a training to go on from a checkpoint; also the ranks, with which the batch grows."""
    deciding = config.model_dump(mode="json", exclude=set(WITHOUT_CONSEQUENCE))
    return {
        **{f"train.{key}": value for key, value in deciding.items()},
        RANKS: ranks,
        "model": content_sha256(inputs.model),
        "training set": content_sha256(inputs.training_set),
        "delta": content_sha256(inputs.delta) if inputs.delta else None,
        **({"teacher": content_sha256(inputs.teacher)} if inputs.teacher else {}),
    }


@contextlib.contextmanager
def _folder(config: TrainConfig, this: Mapping[str, Any], out: Path) -> Iterator[Path]:
    """Where the model is made: beside ``out``, or on a claim that outlives this pod.

    After an exception it stays, if there is a checkpoint in it or may still be.
    """
    claim = _claim(config)
    if claim:
        _refuse_other_ranks(claim, this)
    with work_folder(claim and model_folder(claim, this), out, leave=[CHECKPOINTS, RESUME]) as folder:
        try:
            yield folder
        except BaseException:
            if config.save_steps is None and not saved(folder):
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _claim(config: TrainConfig) -> Path | None:
    """Nodes meet on the profile's; else `train.checkpoints` says which."""
    if config.checkpoints and cluster_of_environment() is None:
        return Path(config.checkpoints)
    return shared_folder()


def _refuse_other_ranks(claim: Path, this: Mapping[str, Any]) -> None:
    """Raise DataError for checkpoints of the same training on another number of ranks, which has another batch."""
    for path in claim.glob(f"trainings/*/*/{RESUME}"):
        try:
            that = read_json(path)
        except DataError:  # gone by now, or of no use
            continue
        if {key for key in this if this[key] != that.get(key)} == {RANKS} and saved(path.parent):
            raise DataError(
                f"{path.parent}: holds checkpoints of this training on {that[RANKS]} ranks, and here are {this[RANKS]};"
                " start it on as many, or remove the folder to begin anew"
            )


def _require_same(folder: Path, this: Mapping[str, Any]) -> None:
    """Write down what is trained in ``folder``; DataError if a checkpoint of another training is in it.

    What another left without a checkpoint is removed.
    """
    that = read_json(folder / RESUME) if (folder / RESUME).exists() else {}
    others = [key for key, value in this.items() if that.get(key) != value]
    other = min(others, key=lambda key: key not in that, default=None)  # rather one that an older version knew too
    if other and that and saved(folder):
        raise DataError(
            f"{folder}: holds a checkpoint of another training ({other}: {that.get(other)} there, {this[other]} here);"
            " remove it or choose another --out"
        )
    if other and not saved(folder):
        shutil.rmtree(folder)
        folder.mkdir()
    write_json(folder / RESUME, this)


def _cosines_figure(rows: list[dict[str, Any]]) -> str:
    from drift.ground import drawing  # matplotlib takes a second

    return drawing.cosines([row["step"] for row in rows], np.array([row["layers"] for row in rows]).T)
