"""The panel `Registry`, `drift models ...`: what is registered, and which version serves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drift.cli.options import REGISTRY, AsJson, Group, Out, app, command
from drift.cli.show import show_record, show_records, show_text

models_app = typer.Typer(help="Registered models: which version serves, and why.", no_args_is_help=True)
app.add_typer(models_app, name="models", rich_help_panel=REGISTRY)

Model = Annotated[str, typer.Argument(metavar="NAME", help="Of the registered model.")]
VersionOf = Annotated[str, typer.Argument(metavar="VERSION", help="Its number or an alias, such as champion.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept with the version, with who and when.")]


def _store(
    runs: Annotated[Path, typer.Option(help="Folder of the embedded MLflow store.")] = Path("runs"),
) -> None:
    from drift.tracking.store import require_store

    require_store(runs)


InRegistry = Annotated[None, Group(_store)]
"""Whose registry: MLFLOW_REGISTRY_URI, MLFLOW_TRACKING_URI, or the store of a folder of runs."""


@command(REGISTRY, "list", of=models_app)
def models_list(
    store: InRegistry,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Its versions; left out: all models.")] = None,
    as_json: AsJson = False,
) -> None:
    """Registered models, or one's versions with scores, gate, age, aliases and what was said against them."""
    from drift.tracking.models.versions import models, versions_of

    show_records(models() if name is None else versions_of(name), as_json)


@command(REGISTRY, "show", of=models_app)
def models_show(store: InRegistry, name: Model, version: VersionOf, as_json: AsJson = False) -> None:
    """A version: its scores, what the gate compared it with, who promoted it and why, where it came from."""
    from drift.tracking.models.versions import details_of

    show_record(details_of(name, version), as_json)


@command(REGISTRY, "promote", of=models_app)
def models_promote(
    store: InRegistry,
    name: Model,
    version: VersionOf,
    reason: Reason = "",
    yes_again: Annotated[
        bool, typer.Option("--yes-again", help="Although somebody took it back, or the champion is another one.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a version champion. It must have passed the gate against the one that is champion now."""
    from drift.tracking.models.by_hand import promote_by_hand

    show_record(promote_by_hand(name, version, reason=reason, yes_again=yes_again), as_json)


@command(REGISTRY, "rollback", of=models_app)
def models_rollback(
    store: InRegistry,
    name: Model,
    reason: Reason,
    to: Annotated[str | None, typer.Option(help="Another version than the one before; none: no champion.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make the champion before it champion again. No run promotes the one that was taken back."""
    from drift.tracking.models.by_hand import roll_back

    show_record(roll_back(name, reason=reason, to=to), as_json)


@command(REGISTRY, "reject", of=models_app)
def models_reject(store: InRegistry, name: Model, version: VersionOf, reason: Reason, as_json: AsJson = False) -> None:
    """Say that no run may promote a version."""
    from drift.tracking.models.by_hand import reject

    show_record(reject(name, version, reason=reason), as_json)


@command(REGISTRY, "download", of=models_app)
def models_download(store: InRegistry, name: Model, version: VersionOf, out: Out) -> None:
    """Fetch a version's model directory, and check that it is what was registered."""
    from drift.tracking.models.versions import download

    show_text(f"written to {download(name, version, out)}")


@command(REGISTRY, "card", of=models_app)
def models_card(store: InRegistry, name: Model, version: VersionOf) -> None:
    """Print a version's model card, in Markdown."""
    from drift.tracking.models.versions import card_of

    show_text(card_of(name, version))
