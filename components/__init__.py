"""The doors: one Kubeflow component per step, each of which calls one function of the library."""

import importlib
from typing import Any

ELSEWHERE = {
    "evaluate_vlm": "evaluate",
    "evaluate_arm": "evaluate",
    "evaluate_champion": "champion",
    "answer_vlm": "sharded",
    "answer_arm": "sharded",
    "start": "champion",
}
"""Modules of steps that do not have one of their own name."""


def component(step: str) -> Any:
    """The component of a step of `drift.config.plan`."""
    return getattr(importlib.import_module(f"components.{ELSEWHERE.get(step, step)}"), step)
