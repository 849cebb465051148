"""How the run was made: only what its folders and its journal say, and nothing where they are silent."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from drift.config.data import CurateConfig
from drift.config.evaluate import EvaluateConfig
from drift.config.gate import GateConfig
from drift.config.models import DeltaConfig, MergeConfig
from drift.config.plan import GateStep
from drift.config.section import validate
from drift.config.train import TrainConfig
from drift.gate.report.summary import Folders
from drift.ground.artifacts import PROVENANCE, read_json
from drift.ground.errors import ConfigError
from drift.tracking.facts import RunFacts
from drift.tracking.store import redact

log = logging.getLogger(__name__)

Given = list[tuple[str, type[BaseModel], Mapping[str, Any]]]
"""(dotted name, section, its content)."""


@dataclass(frozen=True)
class Setup:
    """`changed` and `seeds`: value by dotted key."""

    date: str
    commits: list[str]
    versions: list[str]
    """Of this code, in every step whose folder says so."""
    changed: dict[str, str]
    """What was set to something else than its default."""
    unknown: list[str]
    """Sections that another version of this code has written, so that nobody knows what was their default."""
    seeds: dict[str, str]
    run: RunFacts
    registered: str
    registered_page: str

    @property
    def seconds(self) -> float:
        """Of all steps together, those from the cache too."""
        return sum(step.seconds for step in self.run.steps)


def setup(
    folders: Mapping[str, Path], arms: Mapping[str, Folders], run: RunFacts | None, registered: str = ""
) -> Setup:
    """``folders``: what the report is made from, by name: `baseline`, `gate`, `training set`, `delta NAME` ..."""
    made = {name: read_json(path / PROVENANCE) for name, path in folders.items() if (path / PROVENANCE).is_file()}
    given = list(_given(made, arms))
    changed, unknown = _changed(given)
    known = run or RunFacts()
    return Setup(
        date=str(made.get("gate", {}).get("created", "")),
        commits=_distinct(made, "code_version"),
        versions=_distinct(made, "drift_version"),
        changed=changed,
        unknown=unknown,
        seeds={f"{name}.seed": str(content["seed"]) for name, _, content in given if "seed" in content},
        run=known,
        registered=registered,
        registered_page=_registered_page(registered, known.links.get("MLflow", "")),
    )


def _given(made: Mapping[str, Mapping[str, Any]], arms: Mapping[str, Folders]) -> Iterator[tuple[str, Any, Any]]:
    named: dict[str, tuple[str, type[BaseModel]]] = {
        "evaluate": ("baseline", EvaluateConfig),
        "gate": ("gate", GateStep if "model" in made.get("gate", {}).get("config", {}) else GateConfig),
        "curate": ("training set", CurateConfig),
    }
    for section, (folder, kind) in named.items():
        if config := made.get(folder, {}).get("config"):
            yield section, kind, config
    for folder, provenance in made.items():
        if folder.startswith("delta ") and provenance.get("config"):
            yield f"deltas.{folder.removeprefix('delta ')}", DeltaConfig, provenance["config"]
    for name, (_, record) in arms.items():
        arm = read_json(record / "arm.json") if record else {}
        if arm.get("merge"):
            yield f"arms.{name}.merge", MergeConfig, arm["merge"]
        if arm.get("train"):
            yield f"arms.{name}.train", TrainConfig, arm["train"]


def _changed(given: Given) -> tuple[dict[str, str], list[str]]:
    changed: dict[str, str] = {}
    unknown = []
    for name, section, content in given:
        try:
            read = validate(section, content, where=name)
        except ConfigError as error:
            log.warning("the report does not say what was set in %s: %s", name, error)
            unknown.append(name)
            continue
        changed |= flat(name, read.model_dump(mode="json", by_alias=True, exclude_defaults=True))
    return changed, unknown


def flat(name: str, value: Any) -> dict[str, str]:
    """A tree as dotted keys with their values as text, passwords in addresses left out."""
    if isinstance(value, Mapping) and value:
        return {key: text for inner, below in value.items() for key, text in flat(f"{name}.{inner}", below).items()}
    return {} if isinstance(value, Mapping) else {name: redact(str(value))}


def _distinct(made: Mapping[str, Mapping[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(str(one[key]) for one in made.values() if one.get(key)))


def _registered_page(registered: str, mlflow: str) -> str:
    """The version's page beside the run's own; '' without a server."""
    model, _, version = registered.removeprefix("models:/").rpartition("/")
    server = mlflow.partition("/#/")[0]
    return f"{server}/#/models/{model}/versions/{version}" if model and server else ""
