"""MLflow's registry as it is read: a registered model, its aliases, its champions.

`champion` is the model in service, `best` the best champion ever: no later one may be worse than it by more than a
margin, so that allowed steps cannot add up. Both are aliases; a model that does not exist yet has neither.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drift.ground.artifacts import content_sha256
from drift.ground.errors import ConfigError, DataError, ServiceError
from drift.tracking import store
from drift.tracking.models import packaging, storage

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

FINGERPRINT = "drift.fingerprint"


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


def address_of(model: str, fingerprint: str) -> str:
    """The address of the version with these contents, such as `models:/NAME/2`; '' if there is none. Raises
    ServiceError."""
    with asking(f"asked for a version of {model}", model) as client:
        numbers = [int(one.version) for one in versions(client, model) if one.tags.get(FINGERPRINT) == fingerprint]
        return f"models:/{model}/{numbers[0]}" if numbers and fingerprint else ""


def model_tags(model: str) -> dict[str, str]:
    """Tags of a registered model at MLFLOW_TRACKING_URI; none where it does not exist. Raises ServiceError."""
    with asking(f"asked for the tags of {model}", model) as client:
        known = find_model(client, model)
        return dict(known.tags) if known else {}


def tag_model(model: str, tag: str, value: str) -> None:
    """Set a tag of a registered model, which is made if need be. Raises ServiceError."""
    with asking(f"given tags of {model}", model) as client:
        ensure_model(client, model)
        client.set_registered_model_tag(model, tag, value)


def _by_alias(model: str, alias: str) -> Champion | None:
    with asking(f"asked for the {alias} of {model}", model) as client:
        number = aliases(client, model).get(alias)
        return None if number is None else Champion(model, number, fingerprint_of(client, model, number))


@contextlib.contextmanager
def asking(what: str, model: str) -> Iterator[MlflowClient]:
    """A client of the registry; ``what`` is done there with a model. Its refusals are a ServiceError."""
    from mlflow.exceptions import MlflowException

    uri, client = open_registry(what)
    try:
        yield client
    except MlflowException as error:
        raise refusal(model, uri, error) from error


def refusal(model: str, uri: str, error: Exception) -> ServiceError:
    """What MLflow said about a model, as an error of one line."""
    return ServiceError(f"{model}: MLflow at {store.redact(uri)} {store.first_line(error)}")


def find_model(client: MlflowClient, model: str) -> RegisteredModel | None:
    """The registered model; None if there is none.

    A server may refuse a user to look at what does not exist, in the words of what exists and is not theirs. Which of
    both it is, only making the model shows, which the user's first run does anyway.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(model)
    except MlflowException as refused:
        if refused.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        if refused.error_code != "PERMISSION_DENIED":
            raise
        try:
            return client.create_registered_model(model)
        except MlflowException:
            raise refused from None


def exists(client: MlflowClient, model: str) -> bool:
    """Whether there is a registered model of that name."""
    return find_model(client, model) is not None


def ensure_model(client: MlflowClient, model: str) -> None:
    """Make the registered model if there is none."""
    from mlflow.exceptions import MlflowException

    if exists(client, model):
        return
    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was quicker
            raise


def aliases(client: MlflowClient, model: str) -> dict[str, int]:
    """Version by alias. Asked of the model: of an alias that is not set, some servers say that it is forbidden."""
    known = find_model(client, model)
    return {alias: int(version) for alias, version in known.aliases.items()} if known else {}


def versions(client: MlflowClient, model: str) -> list[ModelVersion]:
    """All versions, the newest first."""
    found = client.search_model_versions(f"name = '{model}'")
    return sorted(found, key=lambda version: int(version.version), reverse=True)


def fingerprint_of(client: MlflowClient, model: str, number: int) -> str:
    """Hash of a version's contents; '' where it was registered by other means."""
    return str(client.get_model_version(model, str(number)).tags.get(FINGERPRINT, ""))


def fetch(champion: Champion, into: Path) -> Path:
    """The champion's model directory, downloaded into the empty folder ``into``.

    Raises ServiceError if it cannot be downloaded, DataError if its contents are not those that were registered.
    """
    uri, client = open_registry(f"asked for version {champion.version} of {champion.model}")
    address = f"models:/{champion.model}/{champion.version}"
    _require_kept(client, champion)
    path = storage.download(address, into, uri)
    packaging.strip(path, client.get_model_version(champion.model, str(champion.version)).tags)
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
    return uri, open_models(uri)


def open_models(uri: str) -> MlflowClient:
    """A client of the registry that belongs to the store at `uri`, and of its models' files."""
    return store.open_client(store.models_uri(uri), registry=store.registry_uri(uri))
