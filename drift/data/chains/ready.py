"""Chains of thought that came with the problems, written as if a teacher had just drawn them."""

from __future__ import annotations

import json
from pathlib import Path

from drift.data import tables
from drift.data.chains.generations import KEY
from drift.ground.artifacts import content_sha256
from drift.ground.errors import DataError
from drift.inference.parts import Parts, Row


def write_ready(problems: Path, model: str, folder: Path) -> int:
    """Write the chains beside ``problems`` as parts of ``folder``, in their order; how many. Raises DataError: none."""
    path = problems / tables.CHAINS_FILE
    if not path.is_file():
        raise DataError(f"{path}: no such file; `drift ingest --ready SOURCE` writes it")
    fingerprint = content_sha256(path)[:16]
    parts = Parts(folder, fingerprint, KEY)
    with path.open(encoding="utf-8") as file:
        for line in file:
            parts.append(json.loads(line) | _drawn(model, fingerprint))
    return len(parts.done)


def _drawn(model: str, fingerprint: str) -> Row:
    """What a row of a teacher has besides its key and text; nobody counted the tokens."""
    usage = {"prompt_tokens": None, "completion_tokens": None}
    drawn: Row = {"reasoning": None, "finish_reason": "stop", "usage": usage, "seed": None}
    return drawn | {"model": model, "fingerprint": fingerprint, "error": None}
