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
from drift.tracking.models.registry import find_champion, find_for_a_run, open_registry, refusal

if TYPE_CHECKING:
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
        if find_for_a_run(client, model):
            client.set_registered_model_tag(model, CHECKED, "now")
            client.delete_registered_model_tag(model, CHECKED)
            return f"{model} may be changed"
        client.create_registered_model(made := f"{model}-{uuid.uuid4().hex[:8]}")
        client.delete_registered_model(made)
        return f"{model} may be made"
    except MlflowException as error:
        remedy = "; ask for the right" if error.error_code == "PERMISSION_DENIED" else ""
        said = f"{model}: {store.answer_of(uri, error)}{remedy}; the steps gate and register would fail"
        raise ServiceError(said) from error


def check_files(experiment: str) -> str:
    """That a registration can put a model's files into MLflow.

    A small file is written beside the models of the experiment (made if need be: only then it has a place), read and,
    by who may, deleted. Raises ServiceError, naming the place and the step that would fail.
    """
    uri, client = open_registry("asked where files go")
    try:
        known = client.get_experiment(store.ensure_experiment(client, store.models_uri(uri), experiment))
    except Exception as error:  # connection, rights: all kinds
        raise refusal(f"experiment {experiment}", uri, error) from error
    place = str(known.artifact_location)
    _require_shared(place, store.models_uri(uri))
    _write_and_read(place, uri)
    return f"{store.redact(place)} may be written and read"


def check_champion(model: str) -> str:
    """That the champion, where there is one, can be fetched: its smallest file is. Raises ServiceError."""
    champion = find_champion(model)
    if champion is None:
        return f"{model} has none yet"
    address = f"models:/{model}/{champion.version}"
    uri, client = open_registry(f"asked for {address}")
    try:
        added = packaging.added_to(client.get_model_version(model, str(champion.version)).tags)
        files = storage.repository(address, uri)
        theirs = [one for one in storage.files_below(files) if one.path not in added]
        smallest = min(theirs, key=lambda one: one.file_size or 0)
        with tempfile.TemporaryDirectory() as folder:
            files.download_artifacts(smallest.path, dst_path=folder)
    except Exception as error:  # MLflow and the object store raise many kinds; and no file at all
        raise ServiceError(
            f"{address}: cannot be downloaded ({storage.cause(error)}); register it anew, the step evaluate_champion "
            "would fail"
        ) from error
    return f"{address} can be fetched ({smallest.path})"


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
            "and keys, or start the MLflow server with --artifacts-destination; register would fail, and no step's "
            "files would be kept"
        ) from error
    if back != said:
        raise ServiceError(f"{store.redact(place)}: gives back another file than was written; look at MLflow's storage")


def _delete(files: ArtifactRepository) -> None:
    """Where that is allowed: a server with users lets only who may manage an experiment, and no step needs it. Else one
    small file stays, which the next look from this machine writes again."""
    with contextlib.suppress(Exception):  # MLflow and the object store raise many kinds
        files.delete_artifacts()
