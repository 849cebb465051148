"""A training small enough for several ranks on two cores, and how far its weights lie from another's."""

import socket
from pathlib import Path

import torch
from safetensors.torch import load_file

from drift.config.models import DeltaConfig
from drift.ground.artifacts import write_json
from drift.weights.delta.delta import compute_delta
from tests.world import BASE, EXPERT, VLM, training_set

QUICK = {
    "learning_rate": 1e-3,
    "epochs": 1,
    "bf16": False,
    "gradient_checkpointing": False,
    "threads": 1,
    "per_device_batch_size": 2,
    "gradient_accumulation": 2,
    "processes": 2,
    "prior": {},
}
IN_ONE_PIECE = {"processes": 1, "per_device_batch_size": 8, "gradient_accumulation": 1}
"""The same global batch of 8 in one process."""


def write_inputs(folder: Path) -> Path:
    """A training set, a Δ, and the two ZeRO configurations that ship, but with every parameter partitioned."""
    training_set(folder / "data", 32)
    compute_delta(DeltaConfig(minus="base"), expert=str(EXPERT), vlm=str(VLM), base=str(BASE), out=folder / "delta")
    for stage in (2, 3):
        zero = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True}
        automatic = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
        content = dict.fromkeys(automatic, "auto") | {"bf16": {"enabled": "auto"}}
        write_json(
            folder / f"zero{stage}.json",
            {**content, "zero_optimization": {**zero, "stage3_param_persistence_threshold": 0}},
        )
    return folder


def apart(weights: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> float:
    """How far two results lie apart, relative to how far the reference went."""
    start = load_file(VLM / "model.safetensors")
    assert weights.keys() == start.keys()
    difference = torch.cat([(weights[name] - reference[name]).flatten() for name in start])
    return float(difference.norm() / torch.cat([(reference[n] - start[n]).flatten() for n in start]).norm())


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
