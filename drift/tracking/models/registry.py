"""MLflow's registry as it is read: a registered model, its aliases, its versions, its champions.

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
"""Of a version: hash of its contents; without it it was registered by other means."""
SOURCE = "drift.source_uri"
"""Of a version: where its files were."""
SHOWN = 10
"""Registered models that an error names."""


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
    champions = find_champions(model)
    return champions.reigning if champions else None


def find_champions(model: str) -> Champions | None:
    """The same with the best champion ever, where that is another version."""
    with asking(f"asked for the champion of {model}", model) as client:
        known = find_for_a_run(client, model)
        reigning, best = (_named(client, known, alias) for alias in ("champion", "best"))
        return Champions(reigning, None if best == reigning else best) if reigning else None


def address_of(model: str, fingerprint: str) -> str:
    """The address of the version with these contents, such as `models:/NAME/2`; '' if there is none. Raises
    ServiceError."""
    with asking(f"asked for a version of {model}", model) as client:
        numbers = [int(one.version) for one in versions(client, model) if one.tags.get(FINGERPRINT) == fingerprint]
        return f"models:/{model}/{numbers[0]}" if numbers and fingerprint else ""


def model_tags(model: str) -> dict[str, str]:
    """Tags of a registered model at MLFLOW_TRACKING_URI; none where it does not exist. Raises ServiceError."""
    with asking(f"asked for the tags of {model}", model) as client:
        known = find_for_a_run(client, model)
        return dict(known.tags) if known else {}


def tag_model(model: str, tag: str, value: str) -> None:
    """Set a tag of a registered model, which is made if need be. Raises ServiceError."""
    with asking(f"given tags of {model}", model) as client:
        ensure_model(client, model)
        client.set_registered_model_tag(model, tag, value)


def _named(client: MlflowClient, known: RegisteredModel | None, alias: str) -> Champion | None:
    """The version that an alias names."""
    number = _by_alias(known).get(alias)
    if known is None or number is None:
        return None
    tags = client.get_model_version(known.name, str(number)).tags
    return Champion(known.name, number, str(tags.get(FINGERPRINT, "")))


@contextlib.contextmanager
def asking(what: str, model: str, *, at: str | None = None) -> Iterator[MlflowClient]:
    """A client of the registry; ``what`` is done there with a model. Its refusals are a ServiceError.

    ``at``: the store it belongs to, if not MLFLOW_TRACKING_URI.
    """
    from mlflow.exceptions import MlflowException

    uri, client = (at, open_models(at)) if at else open_registry(what)
    try:
        yield client
    except MlflowException as error:
        raise refusal(model, uri, error) from error


def refusal(model: str, uri: str, error: Exception) -> ServiceError:
    """What MLflow said about a model, as an error of one line."""
    return ServiceError(f"{model}: {store.answer_of(uri, error)}")


def find_model(client: MlflowClient, model: str) -> RegisteredModel | None:
    """The registered model; None if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def find_for_a_run(client: MlflowClient, model: str) -> RegisteredModel | None:
    """The same for what a run is to fill.

    A server may refuse a user to look at what does not exist, in the words of what exists and is not theirs. Which of
    both it is, only making the model shows, which the user's first run does anyway.
    """
    from mlflow.exceptions import MlflowException

    try:
        return find_model(client, model)
    except MlflowException as refused:
        if refused.error_code != "PERMISSION_DENIED":
            raise
        try:
            return client.create_registered_model(model)
        except MlflowException:
            raise refused from None


def ensure_model(client: MlflowClient, model: str) -> None:
    """Make the registered model if there is none."""
    from mlflow.exceptions import MlflowException

    if find_for_a_run(client, model):
        return
    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was quicker
            raise


def require_model(client: MlflowClient, model: str) -> RegisteredModel:
    """The registered model. Raises DataError with those that there are."""
    if known := model and find_model(client, model):
        return known
    there = [one.name for one in every_model(client)]
    names = ", ".join(there[:SHOWN]) + (f" and {len(there) - SHOWN} more" if len(there) > SHOWN else "")
    raise DataError(f"{model or repr('')}: no such registered model; there is {names or 'none'}")


def every_model(client: MlflowClient) -> Iterator[RegisteredModel]:
    """All that this user may look at. MLflow hands them out in pages."""
    page = client.search_registered_models()
    yield from page
    while page.token:
        page = client.search_registered_models(page_token=page.token)
        yield from page


def aliases(client: MlflowClient, model: str) -> dict[str, int]:
    """Version by alias. Asked of the model: of an alias that is not set, some servers say that it is forbidden."""
    return _by_alias(find_model(client, model))


def _by_alias(known: RegisteredModel | None) -> dict[str, int]:
    return {alias: int(version) for alias, version in known.aliases.items()} if known else {}


def versions(client: MlflowClient, model: str) -> list[ModelVersion]:
    """All versions, the newest first."""
    found = client.search_model_versions(f"name = '{model}'")
    return sorted(found, key=lambda version: int(version.version), reverse=True)


def find_version(client: MlflowClient, model: str, version: str) -> ModelVersion:
    """A version by its number or an alias. Raises DataError with what there is."""
    known, every = _by_alias(require_model(client, model)), versions(client, model)
    number = str(known.get(version.removeprefix("@"), version))
    if chosen := next((one for one in every if str(one.version) == number), None):
        return chosen
    there = ", ".join([*(str(one.version) for one in reversed(every)), *known]) or "no version at all"
    raise DataError(f"{model}: no version or alias '{version}'; there is {there}")


def fetch(champion: Champion, into: Path) -> Path:
    """The champion's model directory, downloaded into the empty folder ``into``.

    Raises ServiceError if it cannot be downloaded, DataError if its contents are not those that were registered.
    """
    address = f"models:/{champion.model}/{champion.version}"
    with asking(f"asked for {address}", champion.model) as client:
        version = client.get_model_version(champion.model, str(champion.version))
    _require_kept(address, str(version.source))
    path = storage.download(address, into, os.environ[store.URI])
    packaging.strip(path, version.tags)
    require_contents(champion, path)
    return path


def require_contents(champion: Champion, path: Path) -> None:
    """Raise DataError if the contents of the folder ``path`` are not those that were registered."""
    if champion.fingerprint not in ("", found := content_sha256(path)):
        raise DataError(
            f"models:/{champion.model}/{champion.version}: its contents are {found[:12]}, not "
            f"{champion.fingerprint[:12]} as registered; `drift register` with that model puts missing files back, "
            "`drift models rollback` makes the one before champion"
        )


def _require_kept(address: str, source: str) -> None:
    """Raise ServiceError if a version is only an address, of a kind that MLflow cannot fetch."""
    if storage.why_not(source):
        raise ServiceError(
            f"{address}: only its address was registered, and MLflow does not know '{source.partition(':')[0]}://'; "
            "register its files anew (`drift register --model FOLDER`), or remove the alias champion"
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
