"""The prior in other people's trainers: TRL's SFTTrainer on images, with nothing but the callback."""

import io
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from drift.config.models import DeltaConfig
from drift.config.train import PriorConfig
from drift.ground.errors import PriorError
from drift.prior.callback import PriorCallback
from drift.prior.prior import Prior
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import load_delta
from drift.weights.modeling import load_processor, load_vlm
from tests.world import EXPERT, VLM, training_set


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    compute_delta(DeltaConfig(), expert=str(EXPERT), vlm=str(VLM), base=None, out=folder / "delta")
    training_set(folder, 16)
    return folder


def conversations(world):
    from datasets import Dataset

    rows = pq.read_table(world / "train.parquet").to_pylist()
    images = [[Image.open(io.BytesIO(row["images"][0]["bytes"]))] for row in rows]
    pairs = zip(rows, images, strict=True)
    return Dataset.from_list([{"messages": row["messages"], "images": image} for row, image in pairs])


def sft(world, out, prior=None, **arguments):
    """TRL's SFTTrainer, as its documentation has it, plus one line."""
    from trl import SFTConfig, SFTTrainer

    settings = {"max_steps": 4, "learning_rate": 1e-3, "per_device_train_batch_size": 2, "logging_steps": 1}
    settings |= {"gradient_accumulation_steps": 2, "max_length": None, "save_steps": 2, "bf16": False}
    settings |= {"use_cpu": True, "report_to": "none", "activation_checkpointing": False, "disable_tqdm": True}
    trainer = SFTTrainer(
        model=load_vlm(VLM, dtype="float32"),
        args=SFTConfig(output_dir=str(out), **(settings | arguments)),
        train_dataset=conversations(world),
        processing_class=load_processor(VLM),
    )
    if prior:
        trainer.add_callback(PriorCallback(prior))
    return trainer


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def prior_of(world, folder="delta", **config):
    return Prior(PriorConfig(**config), load_delta(world / folder))


def test_trl_moves_towards_the_expert_and_shows_it_beside_its_own_numbers(world, tmp_path):
    trainer = sft(world, tmp_path, prior_of(world))
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    projections = [row["projection"] for row in rows]
    assert len(rows) == 4 and projections == sorted(projections) and projections[-1] > 0.01
    assert {"cos_mean", "alpha_mean", "prior_ratio", "grad_norm", "mean_token_accuracy"} <= rows[-1].keys()


def test_alpha_zero_is_trls_own_training_to_the_bit_clipping_included(world, tmp_path):
    plain = sft(world, tmp_path / "plain", max_grad_norm=0.1)
    plain.train()
    guided = sft(world, tmp_path / "guided", prior_of(world, alpha=0.0), max_grad_norm=0.1)
    guided.train()
    assert torch.equal(weights(plain), weights(guided))
    norms = [[row["grad_norm"] for row in t.state.log_history if "loss" in row] for t in (plain, guided)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


@pytest.mark.parametrize("clip", ["before", "after"])
def test_the_order_of_bias_and_clipping_is_the_configured_one(world, tmp_path, clip):
    prior = prior_of(world, scale="grad_norm", clip=clip)
    trainer = sft(world, tmp_path, prior, max_grad_norm=0.1, max_steps=1, optim="sgd", learning_rate=1.0)
    start = weights(trainer)
    trainer.train()
    moved = float((weights(trainer) - start).norm())  # one step of SGD at rate 1: the gradient's norm
    if clip == "before":
        assert moved == pytest.approx(0.1, rel=1e-3)
    else:
        assert 0.1 * 1.05 < moved <= 0.1 * 2  # (1 + |α|) times the clipped norm, at the most


def test_the_clipping_is_given_back_after_the_training(world, tmp_path):
    trainer = sft(world, tmp_path, prior_of(world), max_grad_norm=0.25, max_steps=1)
    trainer.train()
    assert trainer.args.max_grad_norm == 0.25


def test_a_resumed_training_goes_on_with_the_schedule_and_the_cosines_where_it_was(world, tmp_path):
    settings = {"scale": "grad_norm", "schedule": {"kind": "cosine", "warmup": 0.25}}
    whole = sft(world, tmp_path, prior_of(world, **settings))
    whole.train()
    again = sft(world, tmp_path, prior_of(world, **settings))
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    callback = next(c for c in again.callback_handler.callbacks if isinstance(c, PriorCallback))
    assert [row["step"] for row in callback.cosines] == [1, 2, 3, 4]
    alphas = [[row["alpha_mean"] for row in t.state.log_history if "loss" in row] for t in (whole, again)]
    # (1 + cos(π t/4))/2 for t = 0, 1, 2, 3
    assert alphas[0] == alphas[1] == pytest.approx([-1, -0.853553, -0.5, -0.146447], abs=1e-5)


def test_another_delta_refuses_to_go_on_by_name(world, tmp_path):
    sft(world, tmp_path / "run", prior_of(world)).train()
    shutil.copytree(world / "delta", tmp_path / "other")
    tensors = load_file(world / "delta" / "delta.safetensors")
    tensors["layers.0.mlp.up_proj.weight"][0, 0] += 1e-3
    save_file(tensors, tmp_path / "other" / "delta.safetensors", metadata={"format": "drift-delta"})
    other = sft(world, tmp_path / "run", Prior(PriorConfig(), load_delta(tmp_path / "other")))
    with pytest.raises(PriorError, match=r"other: sha256 \w{12}…, but the checkpoint was trained with a Δ of \w{12}…"):
        other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))


def test_another_strength_refuses_to_go_on_by_its_key(world, tmp_path):
    sft(world, tmp_path, prior_of(world)).train()
    with pytest.raises(PriorError, match=r"prior\.alpha: -1\.0 in the checkpoint, -0\.5 here"):
        sft(world, tmp_path, prior_of(world, alpha=-0.5)).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_checkpoint_of_plain_sft_does_not_become_drift_in_the_middle(world, tmp_path):
    sft(world, tmp_path).train()
    with pytest.raises(PriorError, match="the checkpoint was trained without a prior"):
        sft(world, tmp_path, prior_of(world)).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
