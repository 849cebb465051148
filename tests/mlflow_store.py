"""A fresh embedded MLflow store per test: the schema is made once and copied, since making it takes seconds."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from drift.tracking.store import open_client


@functools.cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="drift-mlflow-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    open_client(f"sqlite:///{folder}/mlflow.db")
    return folder / "mlflow.db"


def fresh_store(folder: Path) -> str:
    """Address of a new store in `folder`."""
    shutil.copy(_template(), folder / "mlflow.db")
    return f"sqlite:///{folder}/mlflow.db"
