"""Where registered models came from that somebody may still ask for, so that nobody takes their files away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from drift.tracking import store
from drift.tracking.models import storage
from drift.tracking.models.registry import exists, refusal

if TYPE_CHECKING:
    from mlflow import MlflowClient

SOURCE = "drift.source_uri"


def named_sources(models: Iterable[str], uri: str) -> dict[str, str]:
    """Where the models at ``uri`` came from that an alias names, or that MLflow has no copy of: address → whose it is.

    An alias is `champion`, `previous` and every other. Raises ServiceError if MLflow does not answer.
    """
    client = store.open_client(uri)
    sources: dict[str, str] = {}
    for model in models:
        try:
            sources |= _sources(client, model)
        except Exception as error:  # connection, authentication, a broken store: all kinds
            raise refusal(model, uri, error) from error
    return sources


def _sources(client: MlflowClient, model: str) -> dict[str, str]:
    if not exists(client, model):
        return {}
    sources = {}
    for version in client.search_model_versions(f"name = '{model}'"):
        if not str(version.source).startswith(storage.KEPT):
            sources[str(version.source)] = f"version {version.version} of {model}, which is only an address"
    for alias, number in sorted(client.get_registered_model(model).aliases.items()):
        tags = client.get_model_version(model, str(number)).tags
        if SOURCE in tags:
            sources[str(tags[SOURCE])] = f"{alias} of {model} (version {number})"
    return sources
