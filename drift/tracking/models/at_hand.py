"""A registered version as something else asks for it by name: which one it is, where its files are, and these at hand.

NAME                  its champion
NAME@ALIAS, NAME/2    that version; `models:/` before either is MLflow's own spelling
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drift.ground.errors import ConfigError, DataError
from drift.tracking import store
from drift.tracking.models import copies, packaging, registry, storage
from drift.tracking.models.standing import blocked

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

_VERSION = re.compile(r"(?:models:/)?([^/:@\s.~][^/:@\s]*)(?:@([^/:@\s]+)|/(\d+))?")


@dataclass(frozen=True)
class AtHand:
    """A version, and its files."""

    champion: registry.Champion
    location: str
    """Where MLflow keeps the files: a folder, a bucket, or `mlflow-artifacts:/…` of a server that hands them out."""
    folder: Path | None
    """That place, if it is a folder of this machine."""
    beside: frozenset[str]
    """Files that lie there and are not the model's."""

    @property
    def address(self) -> str:
        """Such as `models:/NAME/2`."""
        return f"models:/{self.champion.model}/{self.champion.version}"


def named(text: str) -> tuple[str, str] | None:
    """Name and version or alias, where a text names a registered model; None for a path or a hub id (`owner/name`)."""
    found = _VERSION.fullmatch(text)
    if found is None or Path(text).expanduser().exists():
        return None
    name, alias, version = found.groups()
    return name, alias or version or "champion"


def find(text: str, runs: Path) -> AtHand | None:
    """The version that a text names, in the registry or the store of ``runs``; None if it names none, see `named`.

    What a person said against it is a warning.
    Raises ConfigError where there is no registry, DataError where there is no such version, ServiceError.
    """
    if (wanted := named(text)) is None:
        return None
    try:
        store.require_store(runs)
    except ConfigError as error:
        raise ConfigError(f"{text}: no such directory; if it is a registered model: {error}") from None
    name, version = wanted
    with registry.asking("asked for a version", name) as client:
        chosen = registry.find_version(client, name, version)
        found = _at_hand(client, chosen)
        if said := blocked(client, name, found.champion.version):
            logger.warning("%s %s", found.address, said)
        return found


@contextlib.contextmanager
def directory_of(found: AtHand) -> Iterator[Path]:
    """The version's model directory as long as the block lasts: links to its files on this machine, else a download.

    Raises DataError if its contents are not those that were registered, ServiceError if they cannot be fetched.
    """
    with tempfile.TemporaryDirectory(prefix="drift-model-") as aside:
        if found.folder is None:
            yield registry.fetch(found.champion, Path(aside))
            return
        _link(found.folder, Path(aside), found.beside)
        registry.require_contents(found.champion, Path(aside))
        yield Path(aside)


def _at_hand(client: MlflowClient, chosen: ModelVersion) -> AtHand:
    copy = copies.copy_behind(client, chosen)
    location = str(copy.artifact_location if copy else chosen.source)
    beside = [*packaging.added_to(chosen.tags), packaging.BY_MLFLOW]
    champion = registry.Champion(str(chosen.name), int(chosen.version), str(chosen.tags.get(registry.FINGERPRINT, "")))
    return AtHand(champion, store.redact(location), _here(location), frozenset(beside))


def _here(location: str) -> Path | None:
    """The folder that an address names on this machine; None for another kind, or if there is nothing."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    if storage.why_not(location) or location.startswith(storage.KEPT):
        return None
    files = storage.repository(location, os.environ[store.URI])
    folder = Path(files.artifact_dir) if isinstance(files, LocalArtifactRepository) else None
    return folder if folder and folder.is_dir() else None


def _link(folder: Path, into: Path, beside: frozenset[str]) -> None:
    """Links to every file of a folder but those ``beside``. Raises DataError for a folder without files."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        name = path.relative_to(folder)
        if str(name) not in beside:
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            (into / name).symlink_to(path.resolve())
    if not files:
        raise DataError(f"{folder}: no files; `drift register` with that model puts them back")
