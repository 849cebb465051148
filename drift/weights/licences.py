"""The checkpoints that a model comes from and their licences, as their own cards state them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drift.ground.artifacts import PROVENANCE, read_json, write_json

CARD = "README.md"


def licence_of(reference: str) -> str:
    """What the card of a checkpoint, a directory or a hub id, says of its licence; '' where it says nothing."""
    said = _card(reference)
    name = said.get("license_name") if said.get("license") == "other" else said.get("license")
    link = said.get("license_link")
    return " ".join(str(part) for part in (name, f"({link})" if link else "") if part)


def name_parents(model: Path, arm: str, parents: Mapping[str, str]) -> None:
    """Write into a model's provenance, which is no part of its contents, what it comes from and its licences."""
    named = [{"role": role, "uri": uri, "licence": licence_of(uri)} for role, uri in parents.items()]
    write_json(model / PROVENANCE, {**read_json(model / PROVENANCE), "arm": arm, "parents": named})


def _card(reference: str) -> dict[str, Any]:
    """The header of a checkpoint's card; of one on the hub only if the hub answers, since nothing else needs it."""
    from huggingface_hub import model_info
    from huggingface_hub.repocard import metadata_load

    try:
        if Path(reference).expanduser().is_dir():
            return dict(metadata_load(Path(reference).expanduser() / CARD) or {})
        repository, _, revision = reference.partition("@")
        card = model_info(repository, revision=revision or None, timeout=10).card_data
        return dict(card.to_dict()) if card else {}
    except Exception:  # no card, a broken one, or no hub: the licence is then not stated
        return {}
