"""What a person says of a version: it serves, it does no longer, it never may. Kept with it, with who, when and why.

Each ends with the write that counts, so that the same command after any stop does what is left.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from drift.ground.errors import DataError, DriftError
from drift.tracking import store
from drift.tracking.models.promotion import BEST_EVER, COMPARED_WITH, promote, what_changed
from drift.tracking.models.registry import aliases, asking, find_version, require_model, versions
from drift.tracking.models.standing import BLOCKED, PROMOTED, PROMOTED_AT, PROMOTED_FROM, WHY, against, blocked, now

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

NOBODY = "none"
"""In place of a version: nobody is champion."""


@dataclass(frozen=True)
class Moved:
    """Where the alias `champion` is now, and where it was."""

    model: str
    champion: int | None
    before: int | None
    by: str
    reason: str


@dataclass(frozen=True)
class Rejected:
    """A version that no run promotes."""

    model: str
    version: int
    by: str
    reason: str


def promote_by_hand(model: str, version: str, *, reason: str = "", yes_again: bool = False) -> Moved:
    """Move `champion` to a version, its number or an alias, because a person says so.

    Raises DataError for a version that does not exist, DriftError for one that the gate did not pass or compared with
    another champion, or, without ``yes_again``, that a person took back; ServiceError if MLflow refuses.
    """
    with asking("promoted in", model) as client:
        chosen, before = find_version(client, model, version), aliases(client, model).get("champion")
        number = int(chosen.version)
        if not yes_again:
            _require_may(client, model, chosen, before)
        if changed := promote(client, model, number, best=chosen.tags.get(BEST_EVER) == "yes"):
            raise DriftError(f"{model}: {changed}")
        _say(client, model, number, PROMOTED, reason)
        _unblock(client, model, chosen)
        return Moved(model, number, before, person(), reason)


def roll_back(model: str, *, reason: str, to: str | None = None) -> Moved:
    """Move `champion` back to the version before, or to another one; the one it leaves is not promoted again by a run.

    ``to``: a number, an alias, or `none` for no champion at all.
    Raises DataError without a reason, without a champion or one before it, DriftError for a version that was taken back
    itself, ServiceError if MLflow refuses.
    """
    _require_reason(reason)
    with asking("rolled back in", model) as client:
        champion, every = require_model(client, model).aliases.get("champion"), versions(client, model)
        if champion is None:
            raise DataError(f"{model}: has no champion; there is nothing to roll back")
        target = None if to == NOBODY else _target(client, model, int(champion), every, to)
        _block(client, model, int(champion), "rolled back", reason)
        if target is not None:
            _say(client, model, target, PROMOTED, f"version {champion} was rolled back: {reason}")
        _step_back(client, model, int(champion), target, every)
        return Moved(model, target, int(champion), person(), reason)


def reject(model: str, version: str, *, reason: str) -> Rejected:
    """Say that no run may promote a version.

    Raises DriftError for the champion, DataError without a reason, or if there is no such version.
    """
    _require_reason(reason)
    with asking("asked to reject a version of", model) as client:
        number = int(find_version(client, model, version).version)
        if aliases(client, model).get("champion") == number:
            raise DriftError(f"{model} version {number}: is champion; `drift models rollback` takes it back")
        _block(client, model, number, "rejected", reason)
        return Rejected(model, number, person(), reason)


def person() -> str:
    """Who says so: MLflow's user, else this machine's."""
    from mlflow.utils.credentials import read_mlflow_creds

    return urlsplit(os.environ.get(store.URI, "")).username or read_mlflow_creds().username or getpass.getuser()


def _require_reason(reason: str) -> None:
    if not reason.strip():
        raise DataError("--reason: is empty; say why, for whoever looks at the version later")


def _require_may(client: MlflowClient, model: str, chosen: ModelVersion, reigning: int | None) -> None:
    """Raise DriftError for a version that a person took back, or that no gate found better than the champion."""
    number, again = int(chosen.version), "run again, or give --yes-again"
    if block := blocked(client, model, number):
        raise DriftError(f"{model} version {number} {block}; --yes-again promotes it all the same")
    if reigning == number:
        return
    if chosen.tags.get("drift.gate") != "passed":
        raise DriftError(f"{model} version {number}: no gate passed it; {again}")
    if changed := what_changed(client, model, reigning, chosen.tags.get(COMPARED_WITH, "")):
        raise DriftError(f"{model} version {number}: {changed}; {again}")


def _target(client: MlflowClient, model: str, champion: int, every: Sequence[ModelVersion], to: str | None) -> int:
    """The version that serves again: the one before, or that of ``to``, if nobody took it back."""
    if to is None:
        return _before(model, champion, every, aliases(client, model))
    chosen = find_version(client, model, to)
    if (number := int(chosen.version)) == champion:
        raise DataError(f"{model}: version {number} is champion already; name another with --to")
    if BLOCKED in chosen.tags:
        raise DriftError(f"{model} version {number} {against(chosen, every, champion)}; name another with --to")
    return number


def _before(model: str, champion: int, every: Sequence[ModelVersion], known: Mapping[str, int]) -> int:
    """The champion before, and before that, as far as a person took them back. `previous` alone may be behind."""
    tags = {int(one.version): one.tags for one in every}
    seen, number = {champion}, champion
    while (text := tags[number].get(PROMOTED_FROM)) and (number := int(text)) in tags and number not in seen:
        if BLOCKED not in tags[number]:
            return number
        seen.add(number)
    previous = known.get("previous")
    if previous in tags and previous not in seen and BLOCKED not in tags[previous]:
        return previous
    raise DataError(
        f"{model}: no champion before version {champion} is left; name a version with --to, or `--to {NOBODY}` for none"
    )


def _step_back(
    client: MlflowClient, model: str, champion: int, target: int | None, every: Sequence[ModelVersion]
) -> None:
    known = aliases(client, model)
    if known.get("best") == champion:
        _name(client, model, "best", _best_without(champion, every) or target)
    if target is not None and known.get("previous") == target:
        client.delete_registered_model_alias(model, "previous")
    _name(client, model, "champion", target)


def _name(client: MlflowClient, model: str, alias: str, number: int | None) -> None:
    if number is None:
        client.delete_registered_model_alias(model, alias)
    else:
        client.set_registered_model_alias(model, alias, str(number))


def _best_without(champion: int, every: Sequence[ModelVersion]) -> int | None:
    """The best champion ever that nobody took back: the last that was above all before it."""
    others = [one for one in every if int(one.version) != champion and BLOCKED not in one.tags]
    titled = [one for one in others if one.tags.get(BEST_EVER) == "yes" and PROMOTED_AT in one.tags]
    last = max(titled, key=lambda one: str(one.tags[PROMOTED_AT]), default=None)
    return int(last.version) if last else None


def _block(client: MlflowClient, model: str, number: int, what: Literal["rolled back", "rejected"], why: str) -> None:
    _say(client, model, number, BLOCKED, why)
    client.set_model_version_tag(model, str(number), BLOCKED, what)


def _unblock(client: MlflowClient, model: str, chosen: ModelVersion) -> None:
    for name in (BLOCKED, *(f"{BLOCKED}_{why}" for why in WHY)):
        if name in chosen.tags:
            client.delete_model_version_tag(model, str(chosen.version), name)


def _say(client: MlflowClient, model: str, number: int, what: str, reason: str) -> None:
    for name, value in zip(WHY, (reason, person(), now()), strict=True):
        client.set_model_version_tag(model, str(number), f"{what}_{name}", value)
