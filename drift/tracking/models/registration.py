"""A model that passed the gate becomes a version in MLflow's registry: once per contents, with a copy of its files.

A run's bucket expires, and steps have no key to it.
Rights are asked for before anything is uploaded. Then, safe to stop at any point and to repeat: the files, the version
with its fingerprint, alias `candidate`, and what `promotion` moves. A version whose files are gone gets them anew.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drift.config.catalog import ROLES
from drift.config.gate import RegisterConfig
from drift.ground.artifacts import content_sha256, read_json, staged, write_json
from drift.ground.errors import DataError, DriftError, ServiceError
from drift.tracking import store
from drift.tracking.models import copies, packaging, storage
from drift.tracking.models.card import made_how, metrics_of, score_text, write_card
from drift.tracking.models.promotion import BEST_EVER, COMPARED_WITH, promote, why_it_stays
from drift.tracking.models.registry import FINGERPRINT, SOURCE, aliases, ensure_model, open_models, versions
from drift.tracking.models.rights import check_rights
from drift.tracking.models.standing import BLOCKED
from drift.tracking.steps import flatten

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ABOUT = (
    "Models that passed drift's gate. `champion` serves, `previous` served before, `best` is the best champion ever, "
    "`candidate` the last that passed. `drift models` lists, promotes, rolls back and downloads them; each version's "
    "description is its card."
)
"""The description of a registered model that has none."""


@dataclass(frozen=True)
class RegisterReport:
    """`registered.json`: the version, and whether this call made it or found it."""

    model: str
    version: int
    uri: str
    champion: bool
    previous: int | None
    created: bool
    fingerprint: str
    alias: str
    """Why `champion` is where it is now."""
    repaired: bool = False
    """Whether the version was there, its files were not, and are again."""

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow."""
        return {"register/version": float(self.version), "register/created": float(self.created)}

    def run_tags(self) -> dict[str, str]:
        """What the whole run is found by in MLflow: the version that it gave, and what came of the alias."""
        return {"drift.registered": self.uri, "drift.champion": self.alias}


def register(
    config: RegisterConfig, *, model: str, gate: Path, out: Path | None = None, source: str | None = None
) -> RegisterReport:
    """Put `model`, a directory or an address such as `s3://…`, into the registry at MLFLOW_TRACKING_URI.

    Its files are copied into MLflow. The same contents again give the same version. ``source``: where a directory came
    from, for the version's tag. Raises DriftError if `gate`, a folder with `gate.json`, refused, or decided on another
    model, and ServiceError for an address that cannot be fetched or a user without the right; then nothing is
    registered.
    """
    decision = read_json(gate / "gate.json")
    decided = _decided(model, decision)
    uri = os.environ.get(store.URI)
    if not uri:
        raise ServiceError(f"{store.URI} is not set; there is no registry to put {model} into")
    client = open_models(uri)
    try:
        check_rights(config.model)
        with storage.folder_of(model, uri) as folder:
            _require_same(model, folder, decided)
            tags = _tags(decision, source or model)
            report = _register(client, config, _Passed(config.model, folder, decision, tags, made_how(folder)))
    except DriftError:
        raise
    except Exception as error:  # MLflow and the object store raise many kinds
        raise ServiceError(
            f"{model}: MLflow at {store.redact(uri)} did not register it ({storage.cause(error)})"
        ) from error
    if out is not None:
        with staged(out) as folder:
            write_json(folder / "registered.json", asdict(report))
    return report


def _decided(model: str, decision: Mapping[str, Any]) -> str:
    """The fingerprint of what the gate passed."""
    if decision.get("passed") is not True or not decision.get("winner"):
        reason = next(iter(decision.get("reasons", [])), "no reason given")
        raise DriftError(f"{model}: the gate refused it ({reason}); nothing is registered")
    if not Path(model).exists() and ":/" not in model:
        raise DataError(f"{model}: no such model directory; nothing is registered")
    if not decision.get("model_sha256"):
        raise DataError(
            f"{model}: gate.json names no model_sha256, as for a served model; evaluate the directory, then the gate"
        )
    return str(decision["model_sha256"])


def _require_same(model: str, folder: Path, decided: str) -> None:
    if decided != (ours := content_sha256(folder)):
        raise DriftError(
            f"{model}: the gate decided on another model (contents {decided[:12]}, not {ours[:12]}); "
            "nothing is registered"
        )


def _tags(decision: Mapping[str, Any], source: str) -> dict[str, str]:
    run = os.environ.get(store.RUN_ID)
    return {
        FINGERPRINT: str(decision["model_sha256"]),
        SOURCE: store.redact(source),
        "drift.gate": "passed",
        "drift.arm": str(decision["winner"]),
        COMPARED_WITH: decision.get("champion_sha256") or "",
        BEST_EVER: "yes" if decision.get("best_ever", True) else "no",
        **{f"drift.{role}": text for role in ROLES if (text := score_text(decision, role))},
        **({"kfp.pipeline_run_id": run} if run else {}),
        **copies.run_elsewhere(),
    }


@dataclass(frozen=True)
class _Passed:
    """A model that the gate passed, and all that is said of it."""

    name: str
    """Of the registered model."""
    folder: Path
    decision: Mapping[str, Any]
    tags: Mapping[str, str]
    provenance: Mapping[str, Any]

    def card(self, version: str) -> str:
        return write_card(self.name, version, self.decision, self.provenance)

    def content(self) -> copies.Content:
        """The card there has an alias: what number the version gets is not known yet."""
        return copies.Content(self.folder, self.card("candidate"), flatten("made", self.provenance.get("config", {})))


def _register(client: MlflowClient, config: RegisterConfig, passed: _Passed) -> RegisterReport:
    ensure_model(client, config.model)
    same = _same(client, passed)
    version, created, repaired = _version(client, passed, same)
    number = int(version.version)
    _describe(client, passed, version)
    if created:
        _replace(client, config.model, [int(one.version) for one in same], number)
    else:
        _compared_anew(client, passed, version)
    client.set_registered_model_alias(config.model, "candidate", str(number))
    stays = why_it_stays(client, config, passed.decision, number)
    stays = stays or promote(client, config.model, number, best=bool(passed.decision.get("best_ever", True)))
    return _report(passed, number, stays, aliases(client, config.model), created=created, repaired=repaired)


def _same(client: MlflowClient, passed: _Passed) -> list[ModelVersion]:
    """The versions with these contents."""
    return [one for one in versions(client, passed.name) if one.tags.get(FINGERPRINT) == passed.tags[FINGERPRINT]]


def _version(client: MlflowClient, passed: _Passed, same: Sequence[ModelVersion]) -> tuple[ModelVersion, bool, bool]:
    """The version of these contents, whether it was made now, and whether its files were put back."""
    for known in same:
        if copy := copies.copy_behind(client, known):
            return known, False, copies.repair(client, copy, passed.content())
        if not copies.id_of(known) and str(known.source).startswith(storage.KEPT):
            return known, False, False
    tags = {**_blocks(same), **passed.tags}
    copy = copies.copy_of(client, passed.name, passed.content(), tags)
    beside = {copies.MODEL_ID: copy.model_id, packaging.ADDED: copy.tags.get(packaging.ADDED, "")}
    made = client.create_model_version(
        passed.name,
        source=copy.model_uri,
        run_id=copy.source_run_id or None,  # MLflow with users refuses an empty one
        tags={**tags, **beside},
        model_id=copy.model_id,
    )
    if first := _made_meanwhile(client, passed, same, made):
        client.delete_model_version(passed.name, str(made.version))
        return first, False, False
    return made, True, False


def _made_meanwhile(
    client: MlflowClient, passed: _Passed, before: Sequence[ModelVersion], ours: ModelVersion
) -> ModelVersion | None:
    """The version that another process has made of the same contents at the same time, if it was the first."""
    known = {int(one.version) for one in before}
    others = [one for one in _same(client, passed) if int(one.version) not in known]
    first = min(others, key=lambda one: int(one.version), default=ours)
    return first if int(first.version) < int(ours.version) else None


def _report(
    passed: _Passed, number: int, stays: str, known: Mapping[str, int], *, created: bool, repaired: bool
) -> RegisterReport:
    """``stays``: why `champion` did not move; ``known``: version by alias, as it is now."""
    return RegisterReport(
        model=passed.name,
        version=number,
        uri=f"models:/{passed.name}/{number}",
        champion=known.get("champion") == number,
        previous=None if stays else known.get("previous"),
        created=created,
        fingerprint=passed.tags[FINGERPRINT],
        alias=stays or str(passed.decision.get("alias", "")),
        repaired=repaired,
    )


def _describe(client: MlflowClient, passed: _Passed, version: ModelVersion) -> None:
    """The version's page: its card, where nobody wrote another text, and its scores on its model's page."""
    if copy := copies.copy_behind(client, version):
        copies.tell_scores(client, copy, metrics_of(passed.decision))
    if not version.description:
        client.update_model_version(passed.name, str(version.version), passed.card(str(version.version)))
    if not client.get_registered_model(passed.name).description:
        client.update_registered_model(passed.name, ABOUT)


def _blocks(same: Sequence[ModelVersion]) -> dict[str, str]:
    """What a person said against a version is said against its contents."""
    return {name: value for one in same for name, value in one.tags.items() if name.startswith(BLOCKED)}


def _compared_anew(client: MlflowClient, passed: _Passed, version: ModelVersion) -> None:
    """The gate's last decision on a version is the one that a person goes by; with itself it compared nothing."""
    if passed.tags[COMPARED_WITH] == passed.tags[FINGERPRINT]:
        return
    for tag in (COMPARED_WITH, BEST_EVER):
        client.set_model_version_tag(passed.name, str(version.version), tag, passed.tags[tag])


def _replace(client: MlflowClient, name: str, old: Sequence[int], number: int) -> None:
    """The aliases of versions of the same contents, which were addresses only, go over to the copy."""
    for alias, version in aliases(client, name).items():
        if version in old:
            client.set_registered_model_alias(name, alias, str(number))
