"""The versions of a registered model, as a person looks at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from drift.ground.artifacts import staged
from drift.ground.errors import DataError
from drift.tracking.models import registry
from drift.tracking.models.promotion import blocked, find_version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ROLES = ("reasoning", "perception")
UNKNOWN = "–"


@dataclass(frozen=True)
class RegisteredModel:
    """A line of `drift models list`."""

    model: str
    champion: str
    versions: int
    changed: str


@dataclass(frozen=True)
class Version:
    """A line of `drift models list NAME`."""

    version: int
    aliases: list[str]
    arm: str
    reasoning: str
    """Percent right, with its interval."""
    perception: str
    gate: str
    made: str
    age: str
    against: str
    """What a person said against it; '' for nothing."""


@dataclass(frozen=True)
class Details:
    """What `drift models show` says of one version."""

    model: str
    version: int
    aliases: list[str]
    made: str
    address: str
    run: str
    contents: str
    against: str
    tags: list[str]


def models() -> list[RegisteredModel]:
    """Every registered model at MLFLOW_TRACKING_URI. Raises ServiceError."""
    with registry.asking("asked for its models", "models") as client:
        return [
            RegisteredModel(
                model=one.name,
                champion=str(one.aliases.get("champion", UNKNOWN)),
                versions=len(registry.versions(client, one.name)),
                changed=_date(one.last_updated_timestamp),
            )
            for one in client.search_registered_models()
        ]


def versions_of(model: str) -> list[Version]:
    """The versions of a model, the newest first. Raises DataError if there is no such model, ServiceError."""
    with registry.asking("asked for its versions", model) as client:
        known = _aliases(client, model)
        return [_version(client, model, one, known) for one in registry.versions(client, model)]


def details_of(model: str, version: str) -> Details:
    """One version, by its number or an alias. Raises DataError if it does not exist, ServiceError."""
    with registry.asking("asked for a version", model) as client:
        chosen, known = find_version(client, model, version), _aliases(client, model)
        number = int(chosen.version)
        return Details(
            model=model,
            version=number,
            aliases=known.get(number, []),
            made=_date(chosen.creation_timestamp),
            address=f"models:/{model}/{number}",
            run=chosen.run_id or chosen.tags.get("drift.run", UNKNOWN),
            contents=chosen.tags.get(registry.FINGERPRINT, UNKNOWN),
            against=_against(client, model, number),
            tags=[f"{name}: {value}" for name, value in sorted(chosen.tags.items())],
        )


def card_of(model: str, version: str) -> str:
    """The version's model card. Raises DataError if there is no such version, or it has none."""
    with registry.asking("asked for a card", model) as client:
        chosen = find_version(client, model, version)
    if not chosen.description:
        raise DataError(f"{model} version {chosen.version}: has no card; registering it again writes one")
    return str(chosen.description)


def download(model: str, version: str, out: Path) -> Path:
    """A version's model directory in ``out``, which must not exist; its contents are those that were registered.

    Raises DataError or ServiceError.
    """
    with registry.asking("asked for the files of a version", model) as client:
        number = int(find_version(client, model, version).version)
        fingerprint = registry.fingerprint_of(client, model, number)
    with staged(out) as folder:
        aside = folder / "aside"
        aside.mkdir()
        fetched = registry.fetch(registry.Champion(model, number, fingerprint), aside)
        for path in list(fetched.iterdir()):
            path.rename(folder / path.name)
        for left in (fetched, aside):
            if left.is_dir():
                left.rmdir()
    return out


def _version(client: MlflowClient, model: str, one: ModelVersion, known: Mapping[int, list[str]]) -> Version:
    number, tags = int(one.version), one.tags
    reasoning, perception = (tags.get(f"drift.{role}", UNKNOWN) for role in ROLES)
    return Version(
        version=number,
        aliases=known.get(number, []),
        arm=tags.get("drift.arm", UNKNOWN),
        reasoning=reasoning,
        perception=perception,
        gate=tags.get("drift.gate", UNKNOWN),
        made=_date(one.creation_timestamp),
        age=_age(one.creation_timestamp),
        against=_against(client, model, number),
    )


def _against(client: MlflowClient, model: str, number: int) -> str:
    block = blocked(client, model, number)
    return str(block) if block else ""


def _aliases(client: MlflowClient, model: str) -> dict[int, list[str]]:
    """Aliases by version. Raises DataError if there is no such model."""
    if not registry.exists(client, model):
        there = ", ".join(one.name for one in client.search_registered_models()) or "none"
        raise DataError(f"{model}: no such registered model; there is {there}")
    found: dict[int, list[str]] = {}
    for alias, number in sorted(registry.aliases(client, model).items()):
        found.setdefault(number, []).append(alias)
    return found


def _date(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(sep=" ", timespec="minutes")[:16]


def _age(milliseconds: int) -> str:
    age = datetime.now(UTC) - datetime.fromtimestamp(milliseconds / 1000, UTC)
    hours = int(age.total_seconds() // 3600)
    return f"{age.days} d" if age.days else f"{hours} h" if hours else f"{int(age.total_seconds() // 60)} min"
