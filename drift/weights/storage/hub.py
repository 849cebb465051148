"""What the Hugging Face hub has of what a configuration names, without downloading its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from drift.ground.errors import ConfigError
from drift.ground.findings import Noted

if TYPE_CHECKING:
    from huggingface_hub.utils._safetensors import SafetensorsFileMetadata


def on_hub(key: str, reference: str, kind: Literal["model", "dataset"]) -> str:
    """Where ``reference`` (`id` or `id@revision`) was found: in this machine's cache, or on the hub.

    Raises ConfigError if it cannot be had: no such id, no right to it, or HF_HUB_OFFLINE and not in the cache;
    Noted if the hub does not answer.
    """
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    repository, _, revision = reference.partition("@")
    try:
        snapshot_download(repository, revision=revision or None, repo_type=kind, local_files_only=True)
        return "in the cache"
    except (errors.LocalEntryNotFoundError, errors.RevisionNotFoundError):
        if constants.HF_HUB_OFFLINE:
            raise ConfigError(
                f"{key}: '{reference}' is not in the hub's cache, and HF_HUB_OFFLINE is set; download it first "
                f"(hf download {repository})"
            ) from None
    except errors.HFValidationError as error:
        raise ConfigError(f"{key}: '{reference}' is neither a path here nor a hub id (owner/name)") from error
    try:
        HfApi().repo_info(repository, revision=revision or None, repo_type=kind, timeout=10)
        return "on the hub"
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.GatedRepoError) as error:
        raise ConfigError(
            f"{key}: the hub has no '{reference}' for you ({type(error).__name__}); check its name, HF_TOKEN and your "
            "rights"
        ) from error
    except Exception as error:  # huggingface_hub and httpx raise many kinds
        raise Noted(f"'{reference}': hub not reachable ({type(error).__name__})") from error


def outline(reference: str, folder: Path) -> Path:
    """A model of the hub as a folder that says all but its weights: its JSON files, and files of weights with true
    headers and holes behind them, in ``folder``. Where the hub does not answer, the cache's: it may be half a download.

    Raises Noted where the hub does not answer, or has no safetensors there.
    """
    from huggingface_hub import HfApi, snapshot_download

    repository, _, revision = reference.partition("@")
    place = folder / repository
    try:
        snapshot_download(repository, revision=revision or None, allow_patterns=["*.json"], local_dir=place)
        files = HfApi().get_safetensors_metadata(repository, revision=revision or None).files_metadata
    except Exception as error:  # huggingface_hub and httpx raise many kinds
        if here := _in_cache(repository, revision):
            return here
        raise Noted(f"'{reference}': its headers cannot be read on the hub ({type(error).__name__})") from error
    for name, header in files.items():
        _write_header(place / name, header)
    return place


def _in_cache(repository: str, revision: str) -> Path | None:
    """Where this machine has a model with its weights."""
    from huggingface_hub import errors, snapshot_download

    try:
        place = Path(snapshot_download(repository, revision=revision or None, local_files_only=True))
    except errors.LocalEntryNotFoundError:
        return None
    return place if any(place.glob("*.safetensors")) else None


def _write_header(file: Path, header: SafetensorsFileMetadata) -> None:
    tensors = {
        name: {"dtype": one.dtype, "shape": one.shape, "data_offsets": one.data_offsets}
        for name, one in header.tensors.items()
    }
    text = json.dumps({"__metadata__": header.metadata, **tensors}).encode()
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + max((one.data_offsets[1] for one in header.tensors.values()), default=0))
