"""Whether the Hugging Face hub has what a configuration names, without downloading it."""

from __future__ import annotations

from typing import Literal

from drift.ground.errors import ConfigError
from drift.ground.findings import Noted


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
