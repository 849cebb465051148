"""Which version serves: the aliases of a registered model moved, by a run or by a person, and what stands against it.

Every order is safe to stop at any point and to repeat: `previous`, `best`, and `champion` last. What a person took back
or rejected stays so by its contents: no run promotes it again.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from drift.config.gate import RegisterConfig
from drift.ground.errors import DataError, DriftError
from drift.tracking.models.registry import FINGERPRINT, aliases, asking, fingerprint_of, versions

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

BLOCKED = "drift.blocked"
PROMOTED_FROM = "drift.promoted_from"
"""The champion before; of a version that is or was champion."""
PROMOTED_AT = "drift.promoted_at"
"""Set when it is champion, so that a version without the alias was champion once."""
COMPARED_WITH = "drift.compared_with"
"""Contents of the champion that the gate compared a version with; '' for none."""
BEST_EVER = "drift.best_ever"
"""`yes` where the gate found a version above every champion before it."""
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


@dataclass(frozen=True)
class Moved:
    """Where the alias `champion` is now, and where it was."""

    model: str
    champion: int
    before: int | None
    by: str
    reason: str


def blocked(client: MlflowClient, model: str, number: int) -> Block | None:
    """What a person said against a version: rolled back, rejected, or the alias moved back by hand."""
    every = versions(client, model)
    tags = next((one.tags for one in every if int(one.version) == number), {})
    if what := tags.get(BLOCKED):
        return Block(what, *(tags.get(f"{BLOCKED}_{name}", "") for name in WHY))
    champion = aliases(client, model).get("champion")
    if PROMOTED_AT not in tags or champion == number:
        return None
    after = [one for one in every if one.tags.get(PROMOTED_FROM) == str(number) and PROMOTED_AT in one.tags]
    followed = any(BLOCKED not in one.tags or int(one.version) == champion for one in after)
    return None if followed else Block("champion, until somebody moved the alias back in MLflow")


def why_it_stays(client: MlflowClient, config: RegisterConfig, decision: Mapping[str, Any], number: int) -> str:
    """Why `champion` does not move to a version that a run registered; '' if it does.

    It moves only from the champion that the gate compared with: of two runs at once the later one stays a candidate.
    """
    reigning = aliases(client, config.model).get("champion")
    if reigning == number:
        return ""
    command = f"`drift models promote {config.model} {number}"
    if config.promotion == "manual":
        return f"register.promotion is manual: the alias champion stays; {command}` moves it."
    if block := blocked(client, config.model, number):
        return f"Version {number} {block}: the alias champion stays; {command} --yes-again` moves it."
    if reigning is not None and not decision.get("promotes"):
        why = decision.get("alias", "The gate did not say who is better.")
        return f"{why} The alias champion stays at version {reigning}."
    changed = what_changed(client, config.model, reigning, decision.get("champion_sha256") or "")
    return f"{changed}; run again. The alias stays." if changed else ""


def what_changed(client: MlflowClient, model: str, reigning: int | None, compared: str) -> str:
    """Who is champion instead of the one that the gate compared with, whose contents are `compared`; '' if it is."""
    if reigning is None:
        same = not compared
    else:  # of one that was registered by other means no contents are known
        same = bool(compared) and fingerprint_of(client, model, reigning) in ("", compared)
    if same:
        return ""
    known = (f"version {int(one.version)}" for one in versions(client, model) if _is(one, compared))
    with_whom = next(known, "a champion that is gone" if compared else "no champion")
    now = "no version is champion now" if reigning is None else f"version {reigning} is champion now"
    return f"The gate compared with {with_whom}, and {now}"


def _is(version: ModelVersion, fingerprint: str) -> bool:
    return bool(fingerprint) and version.tags.get(FINGERPRINT) == fingerprint


def promote(client: MlflowClient, model: str, number: int, *, best: bool) -> str:
    """Move `champion` to the version; the one before stays at `previous`. Why not, if it moved meanwhile, or ''.

    ``best``: whether it is better than every champion before; if not, the one before is `best` where none is yet.
    """
    known = aliases(client, model)
    champion = known.get("champion")
    if champion != number:
        if champion is not None:
            client.set_registered_model_alias(model, "previous", str(champion))
            client.set_model_version_tag(model, str(number), PROMOTED_FROM, str(champion))
        if best or "best" not in known:
            client.set_registered_model_alias(model, "best", str(number if best or champion is None else champion))
        if (now := aliases(client, model).get("champion")) != champion:
            if "best" in known:
                client.set_registered_model_alias(model, "best", str(known["best"]))
            return f"The champion changed from version {champion} to {now} meanwhile; run again. The alias stays."
        client.set_registered_model_alias(model, "champion", str(number))
    if PROMOTED_AT not in client.get_model_version(model, str(number)).tags:
        client.set_model_version_tag(model, str(number), PROMOTED_AT, _now())
    return ""


def promote_by_hand(model: str, version: str, *, reason: str = "", yes_again: bool = False) -> Moved:
    """Move `champion` to a version, its number or an alias, because a person says so.

    Raises DataError for a version that does not exist, DriftError for one that the gate did not pass or compared with
    another champion, or, without ``yes_again``, that a person took back; ServiceError if MLflow refuses.
    """
    with asking("promoted in", model) as client:
        chosen, before = find_version(client, model, version), aliases(client, model).get("champion")
        number = int(chosen.version)
        block = blocked(client, model, number)
        if block and not yes_again:
            raise DriftError(f"{model} version {number} {block}; --yes-again promotes it all the same")
        if not yes_again and before != number:
            _require_compared(client, model, chosen, before)
        if changed := promote(client, model, number, best=chosen.tags.get(BEST_EVER) == "yes"):
            raise DriftError(f"{model}: {changed}")
        _unblock(client, model, chosen)
        return _said(client, model, number, before, "drift.promoted", reason)


def _require_compared(client: MlflowClient, model: str, chosen: ModelVersion, reigning: int | None) -> None:
    again = "run again, or give --yes-again"
    if chosen.tags.get("drift.gate") != "passed":
        raise DriftError(f"{model} version {chosen.version}: no gate passed it; {again}")
    compared = chosen.tags.get(COMPARED_WITH, "")
    if changed := what_changed(client, model, reigning, compared):
        raise DriftError(f"{model} version {chosen.version}: {changed}; {again}")


def roll_back(model: str, *, reason: str, to: str | None = None) -> Moved:
    """Move `champion` back to the version before, or to another one; the one it leaves is not promoted again by a run.

    Raises DataError if there is no champion or none before it, DriftError for a version that was taken back itself,
    ServiceError if MLflow refuses.
    """
    with asking("rolled back in", model) as client:
        known = aliases(client, model)
        if (champion := known.get("champion")) is None:
            raise DataError(f"{model}: has no champion; there is nothing to roll back")
        target = int(find_version(client, model, to).version) if to else _before(client, model, champion, known)
        if target == champion:
            raise DataError(f"{model}: version {target} is champion already; name another with --to")
        if BLOCKED in client.get_model_version(model, str(target)).tags:
            raise DriftError(f"{model} version {target} {blocked(client, model, target)}; name another with --to")
        _block(client, model, champion, "rolled back", reason)
        _step_back(client, model, champion, target)
        return _said(client, model, target, champion, "drift.promoted", reason)


def _step_back(client: MlflowClient, model: str, champion: int, target: int) -> None:
    known = aliases(client, model)
    if known.get("best") == champion:
        client.set_registered_model_alias(model, "best", str(target))
    if known.get("previous") == target:
        client.delete_registered_model_alias(model, "previous")
    client.set_registered_model_alias(model, "champion", str(target))


def _before(client: MlflowClient, model: str, champion: int, known: Mapping[str, int]) -> int:
    """The champion before, and before that, as far as a person took them back. `previous` alone may be behind."""
    tags = {int(one.version): one.tags for one in versions(client, model)}
    seen, number = {champion}, champion
    while (text := tags[number].get(PROMOTED_FROM)) and (number := int(text)) in tags and number not in seen:
        if BLOCKED not in tags[number]:
            return number
        seen.add(number)
    previous = known.get("previous")
    if previous in tags and previous not in seen and BLOCKED not in tags[previous]:
        return previous
    raise DataError(f"{model}: no champion before version {champion} is left; name a version with --to")


def reject(model: str, version: str, *, reason: str) -> Block:
    """Say that no run may promote a version. Raises DriftError for the champion, DataError if there is no such one."""
    with asking("asked to reject a version of", model) as client:
        chosen = find_version(client, model, version)
        if aliases(client, model).get("champion") == int(chosen.version):
            raise DriftError(f"{model} version {chosen.version}: is champion; `drift models rollback` takes it back")
        return _block(client, model, int(chosen.version), "rejected", reason)


def find_version(client: MlflowClient, model: str, version: str) -> ModelVersion:
    """A version by its number or an alias. Raises DataError with what there is."""
    from mlflow.exceptions import MlflowException

    known = aliases(client, model)
    number = known.get(version.removeprefix("@"), version)
    try:
        return client.get_model_version(model, str(number))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    numbers = [one.version for one in versions(client, model)]
    there = ", ".join([*map(str, reversed(numbers)), *known]) if numbers else "no version at all"
    raise DataError(f"{model}: no version or alias '{version}'; there is {there}")


def person() -> str:
    """Who says so: MLflow's user, else this machine's."""
    return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()


def _block(
    client: MlflowClient, model: str, number: int, what: Literal["rolled back", "rejected"], reason: str
) -> Block:
    block = Block(what, reason, person(), _now())
    for name in WHY:
        client.set_model_version_tag(model, str(number), f"{BLOCKED}_{name}", getattr(block, name))
    client.set_model_version_tag(model, str(number), BLOCKED, what)
    return block


def _unblock(client: MlflowClient, model: str, chosen: ModelVersion) -> None:
    for name in (BLOCKED, *(f"{BLOCKED}_{why}" for why in WHY)):
        if name in chosen.tags:
            client.delete_model_version_tag(model, str(chosen.version), name)


def _said(client: MlflowClient, model: str, number: int, before: int | None, prefix: str, reason: str) -> Moved:
    for name, value in (("at", _now()), ("by", person()), ("reason", reason)):
        client.set_model_version_tag(model, str(number), f"{prefix}_{name}", value)
    return Moved(model, number, before, person(), reason)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
