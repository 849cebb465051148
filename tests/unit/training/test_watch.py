"""No training ends well with NaN: the first loss, gradient or weight that is none ends it with one line."""

import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from drift.config.train import TrainConfig
from drift.ground.errors import CheckpointError, TrainingError
from drift.tracking.telling.journal import read
from drift.tracking.telling.live import telling
from drift.training.fit import Job, _trainer
from drift.training.safety.stopping import Grace
from drift.training.safety.watch import Watch, require_finite_result
from drift.training.sft import train
from tests.forked import drift
from tests.ranks import IN_ONE_PIECE, QUICK, write_inputs
from tests.world import VLM, training_set

from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState  # isort: skip  # after torchvision is mended

EXPLODING = {**QUICK, "learning_rate": 1e30, "lr_scheduler": "constant"}
ALONE = {**EXPLODING, **IN_ONE_PIECE, "prior": None, "epochs": 2}
ARGUMENTS = SimpleNamespace(output_dir="/out/checkpoints")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_set(tmp_path_factory.mktemp("data"), 32)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def optimizer(rate: float = 0.5) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)


def step(watch: Watch, number: int, *losses: float, norm: float | None = 1.0, guided: torch.optim.Optimizer) -> None:
    """One step of a training whose micro-batches had these losses."""
    for loss in losses:
        watch.add_loss(torch.tensor(loss))
    watch.see_norm(norm)
    state = TrainerState(global_step=number - 1)
    watch.on_pre_optimizer_step(ARGUMENTS, state, TrainerControl(), optimizer=guided)


# ------------------------------------------------------------------------------------------ the line


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_none_is_told_with_step_rate_and_the_last_that_was_finite(loss: float) -> None:
    watch, adam = Watch(), optimizer()
    step(watch, 1, 1.0, 1.25, guided=adam)  # two micro-batches
    with pytest.raises(TrainingError) as caught:
        step(watch, 2, 1.0, loss, guided=adam)
    assert str(caught.value) == (
        f"step 2: the loss is {loss} (learning rate 0.5, last finite loss 2.25 at step 1); no model is written; "
        "lower train.learning_rate or raise train.warmup_ratio"
    )


@pytest.mark.parametrize("norm", [math.nan, math.inf, -1.0, torch.tensor(math.nan)])
def test_a_gradient_that_is_none_is_told_also_as_deepspeed_says_it(norm: object) -> None:
    watch, adam = Watch(), optimizer()
    step(watch, 1, 2.0, norm=None, guided=adam)  # not known: no fault
    with pytest.raises(TrainingError, match=r"^step 2: the gradient is NaN or infinite \(learning rate 0\.5, last fin"):
        step(watch, 2, 2.0, norm=norm, guided=adam)  # type: ignore[arg-type]


def test_a_step_that_deepspeed_has_skipped_is_no_step() -> None:
    skipping = optimizer()
    skipping.step_was_skipped = True  # type: ignore[attr-defined]
    with pytest.raises(TrainingError, match="step 1: the gradient is NaN or infinite"):
        step(Watch(), 1, 2.0, guided=skipping)


def test_at_the_first_step_the_learning_rate_is_not_to_blame() -> None:
    with pytest.raises(TrainingError, match=r"no step before it\); no model is written; the model or these rows are"):
        step(Watch(), 1, math.nan, guided=optimizer())


def test_a_checkpoint_that_was_saved_before_is_named() -> None:
    watch = Watch()
    watch.on_save(ARGUMENTS, TrainerState(global_step=4), TrainerControl())
    with pytest.raises(TrainingError, match=r"checkpoint-4 in /out/checkpoints is kept$"):
        step(watch, 5, math.nan, guided=optimizer())


@pytest.mark.parametrize("flag", ["should_save", "should_training_stop"])
def test_weights_are_looked_at_before_they_are_saved(flag: str) -> None:
    model, state = torch.nn.Linear(2, 2), TrainerState(global_step=3)
    saving, watch = TrainerControl(**{flag: True}), Watch()
    watch.on_step_end(ARGUMENTS, state, saving, model=model)
    with torch.no_grad():
        model.bias[1] = math.inf
    watch.on_step_end(ARGUMENTS, state, TrainerControl(), model=model)  # nothing is saved
    with pytest.raises(TrainingError, match=r"^step 3: the weight 'bias' is NaN or infinite"):
        watch.on_step_end(ARGUMENTS, state, saving, model=model)


def test_a_weight_that_overflows_the_dtype_of_the_file_is_not_written() -> None:
    network = torch.nn.Linear(2, 2)
    require_finite_result(network)
    with torch.no_grad():
        network.weight[0, 0] = 1e5  # the largest float16 is 65,504
    with pytest.raises(TrainingError, match=r"^the trained weight 'weight' is NaN or infinite as torch\.float16"):
        require_finite_result(network.half())


# -------------------------------------------------------------------------------------- real trainings


def test_a_learning_rate_without_bounds_ends_the_command_with_one_line_and_no_model(data: Path, tmp_path: Path) -> None:
    settings = [f"{key}={json.dumps(value)}" for key, value in ALONE.items()]
    out = tmp_path / "out"
    ended = drift("train", "--model", str(VLM), "--data", str(data), "--out", str(out), *settings)
    said = [line for line in ended.stderr.splitlines() if line.startswith("drift: ")]
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert not re.search("real_accelerator|Loading weights|FutureWarning", ended.stdout + ended.stderr)
    assert len(said) == 1 and re.match(r"drift: step [23]: .* \(learning rate 1e\+30, last finite loss \d", said[0])
    assert list(tmp_path.iterdir()) == []


def test_the_last_whole_checkpoint_stays_and_what_was_seen_until_then_is_told(data: Path, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    # 8 steps; the rate rises from 0 at the first: the second goes 2.5e29 far, and the third has no finite loss.
    rising = {"lr_scheduler": "constant_with_warmup", "warmup_ratio": 0.5, "save_steps": 1}
    with telling(spool, "r1/arm/sft", "arm", "sft"), pytest.raises(TrainingError) as caught:
        train(TrainConfig(**{**ALONE, **rising}), model=str(VLM), training_set=data, out=tmp_path / "out")
    checkpoints = tmp_path / "out.partial" / "checkpoints"
    assert str(caught.value).startswith("step 3: ") and "\n" not in str(caught.value)
    assert str(caught.value).endswith(f"; checkpoint-2 in {checkpoints} is kept")
    assert (checkpoints / "checkpoint-2" / "complete").exists() and not (checkpoints / "checkpoint-3").exists()
    kept = load_file(checkpoints / "checkpoint-2" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())
    assert not (tmp_path / "out").exists()
    told = [point for event, _ in read(spool) for point in event["metrics"]]
    assert sorted(number for name, _, _, number in told if name == "train/loss") == [1, 2]


class Break(TrainerCallback):
    """Makes one trained weight infinite when the optimizer has made its step."""

    def on_optimizer_step(self, args: object, state: object, control: object, **kwargs: Any) -> None:
        weights = next(one for one in kwargs["model"].parameters() if one.requires_grad)
        weights.data.view(-1)[7] = math.inf


def test_weights_that_the_last_step_broke_are_not_saved(data: Path, tmp_path: Path) -> None:
    once = TrainConfig(**{**ALONE, "per_device_batch_size": 32, "epochs": 1, "learning_rate": 1e-3})
    trainer = _trainer(Job(once, VLM, data, None, tmp_path), Grace(25))
    trainer.add_callback(Break())
    with pytest.raises(
        TrainingError, match=r"^step 1: the weight '.*' is NaN or infinite \(learning rate 0\.001, last "
    ):
        trainer.train()


def test_a_gradient_that_breaks_in_the_backward_pass_ends_the_training(data: Path, tmp_path: Path) -> None:
    job = Job(TrainConfig(**ALONE), VLM, data, None, tmp_path)
    trainer = _trainer(job, Grace(25))
    weight = next(one for one in trainer.model.parameters() if one.requires_grad)
    weight.register_hook(lambda gradient: gradient * math.inf)  # the loss stays finite
    with pytest.raises(TrainingError, match=r"^step 1: the gradient is NaN or infinite"):
        trainer.train()


def test_a_model_of_nan_is_refused_before_a_step(data: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(VLM, tmp_path / "vlm"))
    tensors = load_file(model / "model.safetensors")
    name = next(one for one in tensors if one.endswith("layers.0.self_attn.q_proj.weight"))
    tensors[name][0, 0] = math.nan
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"^{model}/model\.safetensors: '{re.escape(name)}' holds NaN"):
        train(TrainConfig(**ALONE), model=str(model), training_set=data, out=tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["ddp", "zero2", "zero3", "fsdp"])
def test_two_ranks_end_with_the_same_line(inputs: Path, tmp_path: Path, backend: str) -> None:
    sharded = {"ddp": {}, "fsdp": {"fsdp": True}}.get(backend, {"deepspeed": str(inputs / f"{backend}.json")})
    with pytest.raises(TrainingError, match=r"^step [23]: .* \(learning rate 1e\+30, last finite loss \d"):
        train(
            TrainConfig(**{**EXPLODING, **sharded}),
            model=str(VLM),
            training_set=inputs / "data",
            delta=inputs / "delta",
            out=tmp_path / "out",
        )
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
