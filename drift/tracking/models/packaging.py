"""What lies beside the weights in MLflow so that MLflow itself can load them: `MLmodel`, a loader, and the card.

The weights stay where they are, uncopied: the flavour's data is the model's own folder. These files are no part of the
model's contents; `strip` takes them away again.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Mapping
from pathlib import Path

from drift.ground import decoding
from drift.tracking.models import served

ADDED = "drift.added"
"""Of a version: what lies beside its contents."""
BY_MLFLOW = "registered_model_meta"
"""What MLflow's download adds to a folder with an `MLmodel`."""
CARD = "README.md"
REQUIREMENTS = "requirements.txt"
CODE, LOADER, DECODER = "code", "drift_served", "drift_decoding"
PACKAGES = ("torch", "torchvision", "transformers", "pillow")


def package(folder: Path, model: Path, card: str, model_id: str) -> list[str]:
    """Write into ``folder`` what is to lie beside ``model``, except what it has itself; the names."""
    (folder / CODE).mkdir()
    shutil.copy(served.__file__, folder / CODE / f"{LOADER}.py")
    shutil.copy(decoding.__file__, folder / CODE / f"{DECODER}.py")
    (folder / REQUIREMENTS).write_text("".join(f"{line}\n" for line in _requirements()))
    (folder / CARD).write_text(card, encoding="utf-8")
    _write_mlmodel(folder, model_id)
    for path in folder.rglob("*"):
        if path.is_file() and (model / path.relative_to(folder)).exists():
            path.unlink()
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def added_to(tags: Mapping[str, str]) -> list[str]:
    """What lies beside a version's contents."""
    return tags.get(ADDED, "").split()


def strip(folder: Path, tags: Mapping[str, str]) -> None:
    """Remove what was added to a version's files."""
    added = added_to(tags)
    for name in [*added, BY_MLFLOW] if added else ():
        path = folder / name
        path.unlink(missing_ok=True)
        if path.parent != folder and path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()


def _write_mlmodel(folder: Path, model_id: str) -> None:
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import add_to_model
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    columns = [ColSpec(DataType.string, "question"), ColSpec(DataType.string, "image", required=False)]
    params = ParamSchema([ParamSpec("max_new_tokens", DataType.long, served.MAX_NEW_TOKENS)])
    signature = ModelSignature(Schema([*columns]), Schema([ColSpec(DataType.string)]), params)
    made = Model(signature=signature, model_id=model_id)
    add_to_model(made, loader_module=LOADER, data=".", code=CODE)
    made.save(str(folder / "MLmodel"))


def _requirements() -> list[str]:
    """The packages that the loader needs, of the versions that are here, as far as they are."""
    installed = {one.metadata["Name"].lower(): one.version for one in importlib.metadata.distributions()}
    return [f"{name}=={installed[name].partition('+')[0]}" if name in installed else name for name in PACKAGES]
