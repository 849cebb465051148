"""What a result rests on: two results with one identity are one, whatever their arms and files are called."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from drift.config.chain import Config
from drift.config.plan import ArmStep, arm_steps, curate_step

BASELINE = "vlm"
"""The row of the unmodified VLM."""


def arm_content(config: Config, step: ArmStep) -> dict[str, Any]:
    """What makes an arm's weights, its name left out and the Δ of its merge and of its training resolved."""
    content = step.model_dump(mode="json", exclude={"name": True, "delta": True, "merge": {"delta"}})
    used = (step.merge.delta if step.merge else None, step.delta)
    return content | {"deltas": [config.deltas[name].model_dump(mode="json") if name else None for name in used]}


def arm_identities(config: Config) -> dict[str, str]:
    """Of each arm's weights within one run."""
    return {step.name: identity_of(arm_content(config, step)) for step in arm_steps(config)}


def result_identities(config: Config) -> dict[str, str]:
    """Of the scores of each arm and of `vlm`, in any run: the weights, the data they saw, and how they are measured."""
    measured = config.evaluate.model_dump(mode="json")
    baseline = {"vlm": config.models.vlm, "evaluate": measured}
    found = {BASELINE: identity_of(baseline)}
    for step in arm_steps(config):
        data = data_content(config) if step.train else None
        found[step.name] = identity_of({"arm": arm_content(config, step), "data": data, "evaluate": measured})
    return found


def data_content(config: Config) -> dict[str, Any]:
    """What makes the training set."""
    return teacher_content(config) | {"curate": curate_step(config).model_dump(mode="json")}


def teacher_content(config: Config) -> dict[str, Any]:
    """What makes the generations."""
    return {section: getattr(config, section).model_dump(mode="json") for section in ("ingest", "generate")}


def identity_of(content: Any) -> str:
    """Of any part of a configuration."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
