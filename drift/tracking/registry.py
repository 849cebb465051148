"""MLflow's model registry: a version exists only for a model that passed the gate, and once per model, whose files are
MLflow's own: a run's bucket expires, and steps have no key to it.

Order, safe to stop at any point and to repeat: the version with its fingerprint, alias `candidate`, then `previous` and
`best`, and `champion` last. `best` is the best champion ever: no later one may be worse than it by more than a margin,
so that allowed steps cannot add up.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drift.config.gate import RegisterConfig
from drift.ground.artifacts import content_sha256, read_json, staged, write_json
from drift.ground.errors import ConfigError, DataError, DriftError, ServiceError
from drift.tracking import storage, store
from drift.tracking.cluster import tracker_from_environment
from drift.tracking.plugin import TASK

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

FINGERPRINT = "drift.fingerprint"
MODEL_TYPE = "vlm"
RUN_ID = "DRIFT_RUN_ID"


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
    model, and ServiceError for an address that cannot be fetched; then nothing is registered.
    """
    decision = read_json(gate / "gate.json")
    decided = _decided(model, decision)
    uri = os.environ.get(store.URI)
    if not uri:
        raise ServiceError(f"{store.URI} is not set; there is no registry to put {model} into")
    client = store.open_client(uri)
    try:
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


@dataclass(frozen=True)
class Champion:
    """The version that the alias `champion` names."""

    model: str
    version: int
    fingerprint: str
    """Hash of its contents; empty where it was registered by other means, then it cannot be checked."""

    def to_json(self) -> str:
        """As a parameter of the steps that need it."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Champions:
    """The reigning champion, and the best one ever where that is another."""

    reigning: Champion
    best: Champion | None = None

    def to_json(self) -> str:
        """As a parameter of the step that evaluates them."""
        return json.dumps(asdict(self), sort_keys=True)


def parse_champions(text: str) -> Champions | None:
    """What `Champions.to_json` wrote; None for ''. Raises ConfigError for anything else."""
    try:
        return Champions(**{name: one and Champion(**one) for name, one in json.loads(text).items()}) if text else None
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"champion: '{text}' is not what the step champion returned") from error


def parse_champion(text: str) -> Champion | None:
    """The champion that `Champion.to_json` wrote; None for ''. Raises ConfigError for anything else."""
    try:
        return Champion(**json.loads(text)) if text else None
    except (ValueError, TypeError) as error:
        raise ConfigError(f"champion: '{text}' is not what the step champion returned") from error


def find_champion(model: str) -> Champion | None:
    """The champion of a registered model at MLFLOW_TRACKING_URI; None if there is none.

    Raises ServiceError if MLflow does not answer.
    """
    return _by_alias(model, "champion")


def find_champions(model: str) -> Champions | None:
    """The same with the best champion ever, where that is another version."""
    reigning = find_champion(model)
    if reigning is None:
        return None
    best = _by_alias(model, "best")
    return Champions(reigning, None if best == reigning else best)


def model_tags(model: str) -> dict[str, str]:
    """Tags of a registered model at MLFLOW_TRACKING_URI; none where it does not exist. Raises ServiceError."""
    from mlflow.exceptions import MlflowException

    uri, client = open_registry(f"asked for the tags of {model}")
    try:
        return dict(client.get_registered_model(model).tags) if exists(client, model) else {}
    except MlflowException as error:
        raise refusal(model, uri, error) from error


def tag_model(model: str, tag: str, value: str) -> None:
    """Set a tag of a registered model, which is made if need be. Raises ServiceError."""
    from mlflow.exceptions import MlflowException

    uri, client = open_registry(f"given tags of {model}")
    try:
        _ensure_model(client, model)
        client.set_registered_model_tag(model, tag, value)
    except MlflowException as error:
        raise refusal(model, uri, error) from error


def _by_alias(model: str, alias: str) -> Champion | None:
    from mlflow.exceptions import MlflowException

    uri, client = open_registry(f"asked for the {alias} of {model}")
    try:
        found = client.get_model_version_by_alias(model, alias)
    except MlflowException as error:
        # no such model, or a model without the alias
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise refusal(model, uri, error) from error
    return Champion(model, int(found.version), found.tags.get(FINGERPRINT, ""))


def refusal(model: str, uri: str, error: Exception) -> ServiceError:
    """What MLflow said about a model, as an error of one line."""
    return ServiceError(f"{model}: MLflow at {store.redact(uri)} {store.first_line(error)}")


def exists(client: MlflowClient, model: str) -> bool:
    """Whether there is a registered model of that name."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def fetch(champion: Champion, into: Path) -> Path:
    """The champion's model directory, downloaded into the empty folder ``into``.

    Raises ServiceError if it cannot be downloaded, DataError if its contents are not those that were registered.
    """
    uri, client = open_registry(f"asked for version {champion.version} of {champion.model}")
    address = f"models:/{champion.model}/{champion.version}"
    _require_kept(client, champion)
    path = storage.download(address, into, uri)
    if champion.fingerprint not in ("", found := content_sha256(path)):
        raise DataError(
            f"{address}: its contents are {found[:12]}, not {champion.fingerprint[:12]} as registered; move the alias "
            "champion to a whole version"
        )
    return path


def _require_kept(client: MlflowClient, champion: Champion) -> None:
    """Raise ServiceError if the version is only an address, of a kind that MLflow cannot fetch."""
    from mlflow.exceptions import MlflowException

    try:
        source = str(client.get_model_version(champion.model, str(champion.version)).source)
    except MlflowException:  # the download says why
        return
    if storage.why_not(source):
        raise ServiceError(
            f"models:/{champion.model}/{champion.version}: only its address was registered, and MLflow does not know "
            f"'{source.partition(':')[0]}://'; register its files anew (`drift register --model FOLDER`), or remove "
            "the alias champion"
        )


def open_registry(what: str) -> tuple[str, MlflowClient]:
    """The address and a client of MLFLOW_TRACKING_URI; ``what`` is to be done there. Raises ServiceError."""
    uri = os.environ.get(store.URI)
    if not uri:
        raise ServiceError(f"{store.URI} is not set; there is no registry to be {what}")
    return uri, store.open_client(uri)


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
        **({"kfp.pipeline_run_id": run} if run else {}),
    }


def _register(
    client: MlflowClient, config: RegisterConfig, model: Path, decision: Mapping[str, Any], tags: Mapping[str, str]
) -> RegisterReport:
    _ensure_model(client, config.model)
    fingerprint = tags[FINGERPRINT]
    same = client.search_model_versions(f"name = '{config.model}' and tags.`{FINGERPRINT}` = '{fingerprint}'")
    known = [version for version in same if str(version.source).startswith(storage.KEPT)]
    version = known[0] if known else _create(client, config.model, model, fingerprint, tags)
    number = int(version.version)
    if not known:
        _replace(client, config.model, [int(one.version) for one in same], number)
    client.set_registered_model_alias(config.model, "candidate", str(number))
    stays = _why_it_stays(client, config, decision, number)
    previous = None if stays else _promote(client, config.model, number, best=bool(decision.get("best_ever", True)))
    champion = _aliases(client, config.model).get("champion") == number
    return RegisterReport(
        model=config.model,
        version=number,
        uri=f"models:/{config.model}/{number}",
        champion=champion,
        previous=previous,
        created=not known,
        fingerprint=fingerprint,
        alias=stays or str(decision.get("alias", "")),
    )


def _why_it_stays(client: MlflowClient, config: RegisterConfig, decision: Mapping[str, Any], number: int) -> str:
    """Why `champion` does not move to the version; '' if it does.

    It moves only from the champion that the gate compared with: of two runs at once the later one stays a candidate.
    """
    if not config.promote:
        return "register.promote is false: the alias champion stays where it is."
    reigning = _aliases(client, config.model).get("champion")
    if reigning in (None, number):
        return ""
    if not decision.get("promotes"):
        why = decision.get("alias", "The gate did not say who is better.")
        return f"{why} The alias champion stays at version {reigning}."
    compared, theirs = decision.get("champion_sha256"), _fingerprint_of(client, config.model, reigning)
    if compared is None or theirs not in ("", compared):
        return f"The gate did not compare with version {reigning}, which is champion now; run again. The alias stays."
    return ""


def _fingerprint_of(client: MlflowClient, name: str, number: int) -> str:
    return str(client.get_model_version(name, str(number)).tags.get(FINGERPRINT, ""))


def _create(client: MlflowClient, name: str, model: Path, fingerprint: str, tags: Mapping[str, str]) -> ModelVersion:
    run = _pipeline_run()
    logged = _logged_model(client, name, model, fingerprint, run, tags)
    return client.create_model_version(
        name, source=logged.model_uri, run_id=run, tags=dict(tags), model_id=logged.model_id
    )


def _replace(client: MlflowClient, name: str, versions: Collection[int], number: int) -> None:
    """The aliases of versions of the same contents, which were addresses only, go over to the copy."""
    for alias, version in _aliases(client, name).items():
        if version in versions:
            client.set_registered_model_alias(name, alias, str(number))


def _logged_model(
    client: MlflowClient, name: str, model: Path, fingerprint: str, run: str | None, tags: Mapping[str, str]
) -> LoggedModel:
    """The model's copy in MLflow, made if there is no whole one yet."""
    experiment = client.get_run(run).info.experiment_id if run else _experiment(client)
    mine = f"name = '{name}' and tags.`{FINGERPRINT}` = '{fingerprint}'"
    for found in client.search_logged_models([experiment], mine):
        if str(found.status) == "READY":
            return found
        client.finalize_logged_model(found.model_id, "FAILED")
    made = client.create_logged_model(experiment, name=name, source_run_id=run, tags=dict(tags), model_type=MODEL_TYPE)
    with storage.patience():
        client.log_model_artifacts(made.model_id, str(model))
    return client.finalize_logged_model(made.model_id, "READY")


def _promote(client: MlflowClient, name: str, number: int, *, best: bool) -> int | None:
    """Move `champion` to the version; the one before stays at `previous`. Returns the one before.

    ``best``: whether it is better than every champion before; if not, the one before is `best` where none is yet.
    """
    aliases = _aliases(client, name)
    champion = aliases.get("champion")
    if champion == number:
        return aliases.get("previous")
    if champion is not None:
        client.set_registered_model_alias(name, "previous", str(champion))
        client.set_model_version_tag(name, str(number), "drift.promoted_from", str(champion))
    if best or "best" not in aliases:
        client.set_registered_model_alias(name, "best", str(number if best or champion is None else champion))
    client.set_registered_model_alias(name, "champion", str(number))
    return champion


def _aliases(client: MlflowClient, name: str) -> dict[str, int]:
    return {alias: int(version) for alias, version in client.get_registered_model(name).aliases.items()}


def _ensure_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _pipeline_run() -> str | None:
    """The MLflow run of the pipeline run this process belongs to, where it does."""
    if run := os.environ.get(store.RUN):
        return run
    tracker = tracker_from_environment() if os.environ.get(RUN_ID) or os.environ.get(TASK) else None
    return tracker.parent if tracker else None


def _experiment(client: MlflowClient) -> str:
    return store.ensure_experiment(client, os.environ[store.URI], os.environ.get(store.EXPERIMENT, "drift"))
