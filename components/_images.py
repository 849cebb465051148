"""The container image of each step, by its role, read when a pipeline is defined: its digest is the code's version.

Local runs use no image; the names contain "python" because Kubeflow's local runner warns of others.
"""

from __future__ import annotations

import os

from drift import __version__

IMAGES = {
    role: os.environ.get(f"DRIFT_IMAGE_{role.upper()}", f"drift-{role}-python:{__version__}")
    for role in ("pipeline", "train", "evaluate")
}
"""`pipeline` needs no accelerator; `train` and `evaluate` hold a model."""
HOLD_A_MODEL = {
    "generate": "evaluate",
    "answer_vlm": "evaluate",
    "answer_arm": "evaluate",
    "evaluate_vlm": "evaluate",
    "evaluate_champion": "evaluate",
    "evaluate_arm": "evaluate",
    "arm": "train",
}


def role(step: str) -> str:
    """The role of a step of `drift.config.plan`: `train` or `evaluate` if it holds a model, else `pipeline`."""
    return HOLD_A_MODEL.get(step, "pipeline")


def image(step: str) -> str:
    """The image that a step runs in."""
    return IMAGES[role(step)]
