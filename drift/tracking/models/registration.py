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

from drift.config.gate import RegisterConfig
from drift.ground.artifacts import content_sha256, read_json, staged, write_json
from drift.ground.errors import DataError, DriftError, ServiceError
from drift.tracking import store
from drift.tracking.models import copies, packaging, storage
from drift.tracking.models.card import ROLES, made_how, metrics_of, score_text, write_card
from drift.tracking.models.promotion import BEST_EVER, BLOCKED, COMPARED_WITH, promote, why_it_stays
from drift.tracking.models.registry import FINGERPRINT, aliases, ensure_model, open_models, versions
from drift.tracking.models.rights import check_rights
from drift.tracking.steps import flatten

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

RUN_ID = "DRIFT_RUN_ID"
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
        """What the whole run is found by in MLflow: the version that it gave."""
        return {"drift.registered": self.uri}


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
            report = _register(client, config, folder, decision, _tags(decision, source or model))
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
    run = os.environ.get(RUN_ID)
    return {
        FINGERPRINT: str(decision["model_sha256"]),
        "drift.source_uri": store.redact(source),
        "drift.gate": "passed",
        "drift.arm": str(decision["winner"]),
        COMPARED_WITH: decision.get("champion_sha256") or "",
        BEST_EVER: "yes" if decision.get("best_ever", True) else "no",
        **{f"drift.{role}": text for role in ROLES if (text := score_text(decision, role))},
        **({"kfp.pipeline_run_id": run} if run else {}),
        **copies.run_elsewhere(),
    }


def _register(
    client: MlflowClient, config: RegisterConfig, model: Path, decision: Mapping[str, Any], tags: Mapping[str, str]
) -> RegisterReport:
    ensure_model(client, config.model)
    same = [one for one in versions(client, config.model) if one.tags.get(FINGERPRINT) == tags[FINGERPRINT]]
    known = next((one for one in same if copies.is_kept(client, one)), None)
    provenance = made_how(model)
    version = known or _create(client, config.model, model, (decision, provenance), {**_blocks(same), **tags})
    repaired = known is not None and copies.repair(client, known, model)
    number = int(version.version)
    _describe(client, config.model, version, decision, provenance)
    if known is None:
        _replace(client, config.model, [int(one.version) for one in same], number)
    else:
        _compared_anew(client, config.model, number, tags)
    client.set_registered_model_alias(config.model, "candidate", str(number))
    before = aliases(client, config.model).get("champion")
    stays = why_it_stays(client, config, decision, number)
    stays = stays or promote(client, config.model, number, best=bool(decision.get("best_ever", True)))
    now = aliases(client, config.model)
    return RegisterReport(
        model=config.model,
        version=number,
        uri=f"models:/{config.model}/{number}",
        champion=now.get("champion") == number,
        previous=None if stays else now.get("previous") if before == number else before,
        created=known is None,
        fingerprint=tags[FINGERPRINT],
        alias=stays or str(decision.get("alias", "")),
        repaired=repaired,
    )


def _create(
    client: MlflowClient,
    name: str,
    model: Path,
    about: tuple[Mapping[str, Any], Mapping[str, Any]],
    tags: Mapping[str, str],
) -> ModelVersion:
    """``about``: the gate's decision, and the model's provenance."""
    card = write_card(name, "candidate", *about)
    copy = copies.copy_of(client, name, model, tags, card, flatten("made", about[1].get("config", {})))
    return client.create_model_version(
        name,
        source=copy.model_uri,
        run_id=copy.source_run_id or None,  # MLflow with users refuses an empty one
        tags={**tags, copies.MODEL_ID: copy.model_id, packaging.ADDED: copy.tags.get(packaging.ADDED, "")},
        model_id=copy.model_id,
    )


def _describe(
    client: MlflowClient, name: str, version: ModelVersion, decision: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:
    """The version's page: its card, where nobody wrote another text, and its scores on its model's page."""
    if model_id := copies.id_of(version):
        copies.tell_scores(client, client.get_logged_model(model_id), metrics_of(decision))
    if not version.description:
        card = write_card(name, str(version.version), decision, provenance)
        client.update_model_version(name, str(version.version), card)
    if not client.get_registered_model(name).description:
        client.update_registered_model(name, ABOUT)


def _blocks(same: Sequence[ModelVersion]) -> dict[str, str]:
    """What a person said against a version is said against its contents."""
    return {name: value for one in same for name, value in one.tags.items() if name.startswith(BLOCKED)}


def _compared_anew(client: MlflowClient, name: str, number: int, tags: Mapping[str, str]) -> None:
    """The gate's last decision on a version is the one that a person goes by."""
    for tag in (COMPARED_WITH, BEST_EVER):
        client.set_model_version_tag(name, str(number), tag, tags[tag])


def _replace(client: MlflowClient, name: str, old: Sequence[int], number: int) -> None:
    """The aliases of versions of the same contents, which were addresses only, go over to the copy."""
    for alias, version in aliases(client, name).items():
        if version in old:
            client.set_registered_model_alias(name, alias, str(number))
