"""What stands against a version: a person rejected it or took it back, here or by moving the alias in MLflow itself.

It is said against the contents: no run promotes these again, and a person only with `--yes-again`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from drift.tracking.models.registry import aliases, versions

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

BLOCKED = "drift.blocked"
PROMOTED_FROM = "drift.promoted_from"
"""The champion before; of a version that is or was champion."""
PROMOTED = "drift.promoted"
PROMOTED_AT = f"{PROMOTED}_at"
"""Set when it is champion, so that a version without the alias was champion once."""
WHY = ("reason", "by", "at")


@dataclass(frozen=True)
class Block:
    """Why a version is not promoted again without a person."""

    what: str
    reason: str = ""
    by: str = ""
    at: str = ""

    def __str__(self) -> str:
        said = f" ({self.reason})" if self.reason else ""
        return f"was {self.what}{f' by {self.by}' if self.by else ''}{f' on {self.at[:10]}' if self.at else ''}{said}"


def blocked(client: MlflowClient, model: str, number: int) -> Block | None:
    """What stands against a version, its number."""
    every = versions(client, model)
    (version,) = (one for one in every if int(one.version) == number)
    return against(version, every, aliases(client, model).get("champion"))


def against(version: ModelVersion, every: Sequence[ModelVersion], champion: int | None) -> Block | None:
    """The same of a version among all, by who is champion."""
    tags = version.tags
    if what := tags.get(BLOCKED):
        return Block(what, *(tags.get(f"{BLOCKED}_{name}", "") for name in WHY))
    if PROMOTED_AT not in tags or champion == int(version.version) or _followed(version, every, champion):
        return None
    return Block("champion, until somebody moved the alias back in MLflow")


def now() -> str:
    """When something is said, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _followed(version: ModelVersion, every: Sequence[ModelVersion], champion: int | None) -> bool:
    """Whether another one became champion after it, and was not taken back."""
    since = version.tags[PROMOTED_AT]
    after = [one for one in every if one.tags.get(PROMOTED_FROM) == str(version.version)]
    return any(
        one.tags.get(PROMOTED_AT, "") >= since and (BLOCKED not in one.tags or int(one.version) == champion)
        for one in after
    )
