"""Whether a training can matter, and whether it did: worked by hand, and said in the report."""

import logging
from pathlib import Path

import torch
from safetensors.torch import save_file

from drift.config.models import DeltaConfig
from drift.config.train import TrainConfig
from drift.ground.artifacts import write_json
from drift.training.safety.effect import foretell, look_back, steps_of, storable
from drift.training.sft import train
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import load_delta
from drift.weights.storage.checkpoints import Checkpoint
from tests.ranks import IN_ONE_PIECE, QUICK
from tests.world import BASE, EXPERT, VLM, training_set


def checkpoint(folder: Path, **tensors: torch.Tensor) -> Checkpoint:
    folder.mkdir()
    write_json(folder / "config.json", {"model_type": "llama"})
    save_file(tensors, folder / "model.safetensors")
    return Checkpoint(folder)


def test_steps_worked_by_hand() -> None:
    # 2 ranks of 2 rows, twice: 8 a step; 20 rows are 3 steps, and 1.5 epochs of them 5.
    config = TrainConfig(epochs=1.5, per_device_batch_size=2, gradient_accumulation=2)
    assert steps_of(config, 20, 2) == 5


def test_a_stored_value_changes_from_half_the_way_to_the_next_one_on(tmp_path: Path) -> None:
    # bfloat16 has 8 bits: from 1 the next lower value is 1 - 2^-8, and the half of that way 2^-9 = 0.00195 (a tie goes
    # back to the even 1). Below 4 the next is 2^-6 away, half of it 0.0078. Zero changes at once.
    weights = torch.tensor([[1.0, 4.0, 0.0, -1.0]], dtype=torch.bfloat16)
    model = checkpoint(tmp_path / "model", weight=weights, bias=torch.zeros(9), count=torch.zeros(3, 3).int())
    shares = [storable(model, rates) for rates in (1e-9, 2.0**-9, 0.002, 0.0077, 0.0079)]
    assert shares == [0.25, 0.25, 0.75, 0.75, 1.0]


def test_a_model_without_matrices_is_not_foretold(tmp_path: Path) -> None:
    assert storable(checkpoint(tmp_path / "model", bias=torch.zeros(2)), 1e-9) == 1.0


def test_what_cannot_matter_is_foretold(tmp_path: Path) -> None:
    compute_delta(DeltaConfig(minus="base"), expert=str(EXPERT), vlm=str(VLM), base=str(BASE), out=tmp_path / "delta")
    prior = load_delta(tmp_path / "delta")
    slow = TrainConfig(learning_rate=1e-12, prior={})
    said = foretell(slow, VLM, prior, rows=32, ranks=1)
    assert [sentence.split(":")[0] for sentence in said] == [
        "α cannot matter at this learning rate",
        said[1].split(":")[0],
    ]
    assert said[1].startswith("at most ") and said[1].endswith("raise train.learning_rate")
    assert len(foretell(TrainConfig(learning_rate=1e-12), VLM, None, rows=32, ranks=1)) == 1
    assert foretell(TrainConfig(learning_rate=1e-3, prior={}), VLM, prior, rows=32, ranks=1) == []
    assert foretell(TrainConfig(learning_rate=1e-12, lora={}), VLM, None, rows=32, ranks=1) == []


def test_what_did_not_matter_is_said_afterwards() -> None:
    assert look_back(0.5, 100, [{"loss": 1.0}, {"loss": 0.5, "projection": 0.2}]) == []
    few, stayed = look_back(0.0, 100, [{"loss": 1.0, "projection": 1e-5}])
    assert few.startswith("0 of 100 trained weights are stored with another value than before")
    assert stayed == "the weights have not left φ_VL along Δ (projection 1e-05); raise train.learning_rate"


def test_a_training_that_cannot_matter_says_so_before_and_after(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.WARNING)
    quick = {**QUICK, **IN_ONE_PIECE, "prior": None}
    data = training_set(tmp_path / "data", 16)
    report = train(
        TrainConfig(**{**quick, "learning_rate": 1e-12}), model=str(VLM), training_set=data, out=tmp_path / "out"
    )
    assert len(report.warnings) == 2 and report.weights_changed < 0.01
    assert all(sentence in caplog.text for sentence in report.warnings)
    lively = train(TrainConfig(**quick), model=str(VLM), training_set=data, out=tmp_path / "two")
    assert lively.warnings == ()
