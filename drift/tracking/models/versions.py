"""The versions of a registered model, as a person looks at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drift.config.catalog import ROLES
from drift.ground.artifacts import staged
from drift.ground.errors import DataError
from drift.tracking.models import registry
from drift.tracking.models.promotion import COMPARED_WITH, champion_text
from drift.tracking.models.standing import PROMOTED, PROMOTED_AT, against

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

UNKNOWN = "–"


@dataclass(frozen=True)
class RegisteredModel:
    """A line of `drift models list`."""

    model: str
    champion: str
    latest: int
    """Its newest version."""
    changed: str


@dataclass(frozen=True)
class Listed:
    """What a version is known by."""

    version: int
    aliases: list[str]
    arm: str
    reasoning: str
    """Percent right, with its interval."""
    perception: str
    gate: str
    against: str
    """What a person said against it; '' for nothing."""


@dataclass(frozen=True)
class Version(Listed):
    """A line of `drift models list NAME`."""

    age: str


@dataclass(frozen=True)
class Details(Listed):
    """What `drift models show` says of one version."""

    compared_with: str
    """Who was champion when the gate decided."""
    promoted: str
    """When it became champion, and who said so; '' if it never was."""
    made: str
    run: str
    """Of MLflow."""
    source: str
    """Where its files were."""
    contents: str
    address: str
    tags: list[str]
    """Those that are not drift's."""


@dataclass(frozen=True)
class Standing:
    """What the registry says of a version now."""

    champion: bool
    said: str


def models() -> list[RegisteredModel]:
    """Every registered model at MLFLOW_TRACKING_URI. Raises ServiceError."""
    with registry.asking("asked for its models", "models") as client:
        return [
            RegisteredModel(
                model=one.name,
                champion=str(one.aliases.get("champion", UNKNOWN)),
                latest=max((int(version.version) for version in one.latest_versions), default=0),
                changed=_date(one.last_updated_timestamp),
            )
            for one in registry.every_model(client)
        ]


def versions_of(model: str) -> list[Version]:
    """The versions of a model, the newest first. Raises DataError if there is no such model, ServiceError."""
    with registry.asking("asked for its versions", model) as client:
        shelf = _look(client, model)
    return [Version(**_listed(shelf, one), age=_age(one.creation_timestamp)) for one in shelf.every]


def details_of(model: str, version: str) -> Details:
    """One version, by its number or an alias. Raises DataError if it does not exist, ServiceError."""
    with registry.asking("asked for a version", model) as client:
        chosen, shelf = registry.find_version(client, model, version), _look(client, model)
    tags = chosen.tags
    return Details(
        **_listed(shelf, chosen),
        compared_with=_compared(shelf, tags),
        promoted=_promoted(tags),
        made=_date(chosen.creation_timestamp),
        run=chosen.run_id or tags.get("drift.run", UNKNOWN),
        source=tags.get(registry.SOURCE, UNKNOWN),
        contents=tags.get(registry.FINGERPRINT, UNKNOWN),
        address=f"models:/{model}/{chosen.version}",
        tags=[f"{name}: {value}" for name, value in sorted(tags.items()) if not name.startswith("drift.")],
    )


def standing(model: str, number: int, *, at: str) -> Standing:
    """Whether a version is champion now, and if not, why and which one is; ``at``: the store. Raises ServiceError."""
    with registry.asking("asked for its champion", model, at=at) as client:
        every, champion = registry.versions(client, model), registry.aliases(client, model).get("champion")
    version = next((one for one in every if int(one.version) == number), None)
    if version is None:
        return Standing(False, f"Version {number} is not in the registry any more: {champion_text(champion)}.")
    if champion == number:
        return Standing(True, f"Version {number} is champion.")
    block = against(version, every, champion)
    said = f"Version {number} {block}: {champion_text(champion)}." if block else f"{champion_text(champion)}."
    return Standing(False, said[0].upper() + said[1:])


def card_of(model: str, version: str) -> str:
    """The version's model card. Raises DataError if there is no such version, or it has none."""
    with registry.asking("asked for a card", model) as client:
        chosen = registry.find_version(client, model, version)
    if not chosen.description:
        raise DataError(f"{model} version {chosen.version}: has no card; registering it again writes one")
    return str(chosen.description)


def download(model: str, version: str, out: Path) -> Path:
    """A version's model directory in ``out``, which must not exist; its contents are those that were registered.

    Raises DataError or ServiceError.
    """
    with registry.asking("asked for the files of a version", model) as client:
        chosen = registry.find_version(client, model, version)
    with staged(out) as folder:
        registry.fetch(registry.Champion(model, int(chosen.version), chosen.tags.get(registry.FINGERPRINT, "")), folder)
    return out


@dataclass(frozen=True)
class _Shelf:
    """All versions of a model, and version by alias."""

    every: Sequence[ModelVersion]
    known: Mapping[str, int]


def _look(client: MlflowClient, model: str) -> _Shelf:
    """Raises DataError if there is no such model."""
    registry.require_model(client, model)
    return _Shelf(registry.versions(client, model), registry.aliases(client, model))


def _listed(shelf: _Shelf, one: ModelVersion) -> dict[str, Any]:
    """The fields of `Listed`."""
    number, tags = int(one.version), one.tags
    said = {name: tags.get(f"drift.{name}", UNKNOWN) for name in ("arm", *ROLES, "gate")}
    aliases = sorted(alias for alias, named in shelf.known.items() if named == number)
    block = against(one, shelf.every, shelf.known.get("champion"))
    return {"version": number, "aliases": aliases, **said, "against": str(block or "")}


def _compared(shelf: _Shelf, tags: Mapping[str, str]) -> str:
    if COMPARED_WITH not in tags:
        return UNKNOWN
    if not (sha256 := tags[COMPARED_WITH]):
        return "no champion"
    same = (f"version {one.version}" for one in shelf.every if one.tags.get(registry.FINGERPRINT) == sha256)
    return next(same, f"a champion that is gone ({sha256[:12]})")


def _promoted(tags: Mapping[str, str]) -> str:
    """The gate says nothing beside the time."""
    if PROMOTED_AT not in tags:
        return ""
    reason, by = (tags.get(f"{PROMOTED}_{why}", "") for why in ("reason", "by"))
    said = f" by {by or 'the gate'}" + (f" ({reason})" if reason else "")
    return f"{tags[PROMOTED_AT][:16].replace('T', ' ')}{said}"


def _date(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(sep=" ", timespec="minutes")[:16]


def _age(milliseconds: int) -> str:
    age = datetime.now(UTC) - datetime.fromtimestamp(milliseconds / 1000, UTC)
    hours = int(age.total_seconds() // 3600)
    return f"{age.days} d" if age.days else f"{hours} h" if hours else f"{int(age.total_seconds() // 60)} min"
