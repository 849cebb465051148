"""Files in MLflow's artifact store and at other addresses: a model's folder fetched, and time enough for large ones.

A pipeline's bucket is read by Kubeflow with keys that no step has, and what lies there expires: what must be found
again is copied into MLflow.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from drift.ground.errors import ServiceError
from drift.tracking import limits, store

if TYPE_CHECKING:
    from mlflow.entities import FileInfo
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

KEPT = ("models:/", "runs:/", "mlflow-artifacts:/")
"""How addresses begin whose contents are MLflow's own."""
REMEDIES = {
    "boto3": "pip install 'drift-mllm[s3]'",
    "botocore": "pip install 'drift-mllm[s3]'",
    "google.cloud": "pip install google-cloud-storage",
    "azure": "pip install azure-storage-blob azure-identity",
}
"""By what is missing where a bucket is not reached."""


@contextlib.contextmanager
def folder_of(model: str, uri: str) -> Iterator[Path]:
    """`model`, a folder, or the contents of that address for as long as the block lasts.

    Raises ServiceError if it cannot be fetched.
    """
    if Path(model).exists():
        yield Path(model)
        return
    with tempfile.TemporaryDirectory(prefix="drift-model-") as aside:
        yield download(model, Path(aside), uri)


def download(address: str, into: Path, uri: str) -> Path:
    """What is at an address, such as `models:/NAME/1` or `s3://…`, in the empty folder ``into``; ``uri`` is MLflow's.

    Raises ServiceError that says what is missing.
    """
    import mlflow

    if no_way := why_not(address):
        raise ServiceError(f"{store.redact(address)}: cannot be downloaded: {no_way}")
    try:
        with patience():
            places = {"tracking_uri": store.models_uri(uri), "registry_uri": store.registry_uri(uri)}
            return Path(mlflow.artifacts.download_artifacts(address, dst_path=str(into), **places))
    except Exception as error:  # MLflow and the object store raise many kinds
        raise ServiceError(f"{store.redact(address)}: cannot be downloaded ({cause(error)})") from error


def repository(address: str, uri: str) -> ArtifactRepository:
    """The files at an address; ``uri`` is MLflow's."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    places = {"tracking_uri": store.models_uri(uri), "registry_uri": store.registry_uri(uri)}
    return get_artifact_repository(address, **places)


def files_below(files: ArtifactRepository, folder: str = "") -> Iterator[FileInfo]:
    """Every file, of folders within folders too."""
    for one in files.list_artifacts(folder or None):
        if one.is_dir:
            yield from files_below(files, one.path)
        else:
            yield one


def why_not(address: str) -> str:
    """Why MLflow cannot fetch an address of this kind, whatever lies there, and the remedy; '' if it knows the kind."""
    from mlflow.store.artifact.artifact_repository_registry import get_registered_artifact_repositories

    scheme, colon, _ = address.partition(":/")
    if not colon or scheme in get_registered_artifact_repositories():
        return ""
    return (
        f"MLflow does not know '{scheme}://'; give the model's folder, or, of an S3 server of one's own, its s3:// "
        "address with MLFLOW_S3_ENDPOINT_URL"
    )


def cause(error: BaseException) -> str:
    """What an error of MLflow or of a bucket says, on one line, with the remedy where a package is missing."""
    said = store.first_line(error)
    if said.endswith(":"):  # of several files MLflow only announces what it says on the lines below
        said = " ".join(store.redact(str(error)).split())[:600]
    remedy = next((remedy for name, remedy in REMEDIES.items() if f"'{name}" in said), "")
    return f"{said}; {remedy}" if remedy and "No module named" in said else said


def patience() -> AbstractContextManager[None]:
    """Time for a model's files, where the user did not say how long a request may take."""
    return limits.limit(limits.MODEL)
