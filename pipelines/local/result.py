"""What a finished run on this machine gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.tracking.telling.delivery import Missing


def tracking_of(folder: Path, missing: Missing) -> str:
    """What MLflow does not have of the run in ``folder``, and how it gets it; empty if it has everything."""
    return f"{missing}; send them with `drift track {folder}`" if missing else ""


@dataclass(frozen=True)
class StepResult:
    """One step of a finished run. `seconds` is how long the work took when it was done."""

    step: str
    arm: str
    seconds: float
    cached: bool


LASTING = ("model", "version", "uri", "fingerprint")


def lasting(registered: Mapping[str, Any]) -> dict[str, Any]:
    """What of `registered.json` holds for good: which version, and not whose the aliases were then."""
    return {name: registered[name] for name in LASTING}


@dataclass(frozen=True)
class RunResult:
    """A finished run. `gate` is `gate.json`, `summary` is `summary.json`, `registered` is `registered.json`, whose
    aliases are those of now, or left out."""

    folder: Path
    steps: tuple[StepResult, ...]
    gate: dict[str, Any]
    summary: dict[str, Any]
    registered: dict[str, Any] | None
    report: Path
    mlflow_uri: str
    mlflow_run_id: str
    mlflow: str = ""
    """The run's page; '' in the embedded store, which `drift ui` serves."""
    missing: str = ""
    """See `tracking_of`."""

    @property
    def passed(self) -> bool:
        return bool(self.gate["passed"])
