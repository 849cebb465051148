"""Which version serves: the alias `champion` moved, by a run that registers or by `by_hand`.

Safe to stop at any point and to repeat: `previous`, `best`, and `champion` last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from drift.config.gate import RegisterConfig
from drift.tracking.models.registry import FINGERPRINT, aliases, versions
from drift.tracking.models.standing import PROMOTED, PROMOTED_AT, PROMOTED_FROM, WHY, blocked, now

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMPARED_WITH = "drift.compared_with"
"""Contents of the champion that the gate compared a version with; '' for none."""
BEST_EVER = "drift.best_ever"
"""`yes` where the gate found a version above every champion before it."""


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
    contents = {int(one.version): one.tags.get(FINGERPRINT, "") for one in versions(client, model)}
    if not compared and reigning is None:
        return ""
    if compared and reigning is not None and contents.get(reigning, "") in ("", compared):
        return ""  # of one that was registered by other means no contents are known
    known = (f"version {number}" for number, sha256 in contents.items() if compared and sha256 == compared)
    with_whom = next(known, "a champion that is gone" if compared else "no champion")
    return f"The gate compared with {with_whom}, and {champion_text(reigning)}"


def champion_text(reigning: int | None) -> str:
    """Who is champion, in words."""
    return "no version is champion now" if reigning is None else f"version {reigning} is champion now"


def promote(client: MlflowClient, model: str, number: int, *, best: bool) -> str:
    """Move `champion` to the version; the one before stays at `previous`. Why not, if it moved meanwhile, or ''.

    ``best``: whether it is better than every champion before; if not, the one before is `best` where none is yet.
    """
    known = aliases(client, model)
    champion = known.get("champion")
    if champion != number:
        _prepare(client, model, number, champion)
        if best or "best" not in known:
            client.set_registered_model_alias(model, "best", str(number if best or champion is None else champion))
        if (meanwhile := aliases(client, model).get("champion")) != champion:
            if "best" in known:
                client.set_registered_model_alias(model, "best", str(known["best"]))
            return f"The champion changed from version {champion} to {meanwhile} meanwhile; run again. The alias stays."
        client.set_registered_model_alias(model, "champion", str(number))
    if PROMOTED_AT not in client.get_model_version(model, str(number)).tags:
        client.set_model_version_tag(model, str(number), PROMOTED_AT, now())
    return ""


def _prepare(client: MlflowClient, model: str, number: int, champion: int | None) -> None:
    """What a version that becomes champion says of the one before; when and by whom is said when it is champion."""
    if champion is not None:
        client.set_registered_model_alias(model, "previous", str(champion))
        client.set_model_version_tag(model, str(number), PROMOTED_FROM, str(champion))
    tags = client.get_model_version(model, str(number)).tags
    for tag in (f"{PROMOTED}_{why}" for why in WHY):
        if tag in tags:
            client.delete_model_version_tag(model, str(number), tag)
