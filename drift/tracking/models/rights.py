"""What the user of MLFLOW_TRACKING_URI may do in the registry and with files, by doing it and taking it back."""

from __future__ import annotations

import contextlib
import platform
import posixpath
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from drift.ground.errors import ServiceError
from drift.tracking import store
from drift.tracking.models import packaging, storage
from drift.tracking.models.registry import Champion, exists, find_champion, open_registry, refusal

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

CHECKED = "drift.checked"
FILE = "drift-doctor.txt"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_rights(model: str) -> str:
    """That a registered model may be changed: a tag is set and removed, which needs the same right as an alias.

    Where the model does not exist yet, one of another name is made and deleted. Raises ServiceError if MLflow refuses.
    """
    from mlflow.exceptions import MlflowException

    uri, client = open_registry(f"asked about {model}")
    try:
        if exists(client, model):
            client.set_registered_model_tag(model, CHECKED, "now")
            client.delete_registered_model_tag(model, CHECKED)
            return f"{model} may be changed"
        client.create_registered_model(made := f"{model}-{uuid.uuid4().hex[:8]}")
        client.delete_registered_model(made)
        return f"{model} may be made"
    except MlflowException as error:
        if error.error_code != "PERMISSION_DENIED":
            raise refusal(model, uri, error) from error
        said = store.first_line(error)
        raise ServiceError(f"{model}: MLflow at {store.redact(uri)} refuses ({said}); ask for the right") from error


def check_artifacts(model: str, experiment: str) -> str:
    """That a promoted model can be copied into MLflow and fetched again.

    A small file is written beside the models of the experiment (made if need be: only then it has a place), read and,
    by who may, deleted; of the champion, where there is one, the smallest file is downloaded. Raises ServiceError,
    naming the place, if either fails.
    """
    uri, client = open_registry(f"asked for the files of {model}")
    try:
        place = str(
            client.get_experiment(store.ensure_experiment(client, store.models_uri(uri), experiment)).artifact_location
        )
    except Exception as error:  # connection, rights: all kinds
        raise refusal(model, uri, error) from error
    _require_shared(place, store.models_uri(uri))
    _write_and_read(place, uri)
    champion = find_champion(model)
    if champion is None:
        return f"{store.redact(place)} may be written and read; {model} has no champion yet"
    address = f"models:/{champion.model}/{champion.version}"
    return (
        f"{store.redact(place)} may be written and read; {address} can be fetched ({_fetched(client, champion, uri)})"
    )


def _require_shared(place: str, uri: str) -> None:
    """Raise ServiceError if a server elsewhere has its files put into a folder: into one of whoever writes them."""
    server = urlsplit(uri)
    if urlsplit(place).scheme in ("", "file") and server.scheme.startswith("http") and server.hostname not in LOOPBACK:
        raise ServiceError(
            f"MLflow at {store.redact(uri)} keeps files in {place}, a folder of whoever writes them, where no other "
            "pod finds them; start the server with --artifacts-destination"
        )


def _write_and_read(place: str, uri: str) -> None:
    """Put a file there for a moment. Raises ServiceError."""
    said = uuid.uuid4().hex
    try:
        files = storage.repository(posixpath.join(place, f"doctor-{platform.node()}"), uri)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / FILE).write_text(said)
            files.log_artifact(str(Path(folder) / FILE))
            (Path(folder) / "back").mkdir()
            back = Path(files.download_artifacts(FILE, dst_path=str(Path(folder) / "back"))).read_text()
        _delete(files)
    except Exception as error:  # MLflow and the object store raise many kinds
        raise ServiceError(
            f"{store.redact(place)}: cannot be written and read ({storage.cause(error)}); give the steps the rights "
            "and keys, or start the MLflow server with --artifacts-destination"
        ) from error
    if back != said:
        raise ServiceError(f"{store.redact(place)}: gives back another file than was written; look at MLflow's storage")


def _delete(files: ArtifactRepository) -> None:
    """Where that is allowed: a server with users lets only who may manage an experiment, and no step needs it. Else one
    small file stays, which the next look from this machine writes again."""
    with contextlib.suppress(Exception):  # MLflow and the object store raise many kinds
        files.delete_artifacts()


def _fetched(client: MlflowClient, champion: Champion, uri: str) -> str:
    """The name of the smallest file of the champion, once it was downloaded. Raises ServiceError."""
    address = f"models:/{champion.model}/{champion.version}"
    try:
        files = storage.repository(address, uri)
        added = packaging.added_to(client.get_model_version(champion.model, str(champion.version)).tags)
        theirs = [one for one in storage.files_below(files) if one.path not in added]
        smallest = min(theirs, key=lambda one: one.file_size or 0)
        with tempfile.TemporaryDirectory() as folder:
            files.download_artifacts(smallest.path, dst_path=folder)
    except Exception as error:  # as above; and no file at all
        raise ServiceError(f"{address}: cannot be downloaded ({storage.cause(error)}); register it anew") from error
    return str(smallest.path)
