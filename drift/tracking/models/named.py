"""Where registered models came from that somebody may still ask for, so that nobody takes their files away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from drift.tracking.models import storage
from drift.tracking.models.registry import SOURCE, find_for_a_run, open_models, refusal, versions

if TYPE_CHECKING:
    from mlflow import MlflowClient


def named_sources(models: Iterable[str], uri: str) -> dict[str, str]:
    """Where models came from that an alias names, or that MLflow has no copy of: address → whose it is.

    ``uri``: of the store that the registry belongs to. An alias is `champion`, `previous` and every other.
    Raises ServiceError if MLflow does not answer.
    """
    client = open_models(uri)
    sources: dict[str, str] = {}
    for model in models:
        try:
            sources |= _sources(client, model)
        except Exception as error:  # connection, authentication, a broken store: all kinds
            raise refusal(model, uri, error) from error
    return sources


def _sources(client: MlflowClient, model: str) -> dict[str, str]:
    if (known := find_for_a_run(client, model)) is None:
        return {}
    sources, every = {}, {str(one.version): one for one in versions(client, model)}
    for version in every.values():
        if not str(version.source).startswith(storage.KEPT):
            sources[str(version.source)] = f"version {version.version} of {model}, which is only an address"
    for alias, number in sorted(known.aliases.items()):
        tags = every[str(number)].tags
        if SOURCE in tags:
            sources[str(tags[SOURCE])] = f"{alias} of {model} (version {number})"
    return sources
