"""The panel `Other`: a configuration shown, its schema, the miniature family."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from drift.cli.options import OTHER, Loaded, Out, app, command
from drift.cli.show import show_json, show_report
from drift.config.file import schema
from drift.config.section import to_json

config_app = typer.Typer(help="Show a configuration, or the schema of its keys.", no_args_is_help=True)
miniature_app = typer.Typer(help="The tiny model family and its problems.", no_args_is_help=True)
app.add_typer(config_app, name="config", rich_help_panel=OTHER)
app.add_typer(miniature_app, name="miniature", rich_help_panel=OTHER)


@command(OTHER, of=config_app)
def show(config: Loaded) -> None:
    """Print a configuration as it is understood, defaults filled in."""
    show_json(to_json(config))


@command(OTHER, "schema", of=config_app)
def schema_() -> None:
    """Print the JSON schema of the configuration file, for editors."""
    show_json(json.dumps(schema()))


@command(OTHER, of=miniature_app)
def build(
    out: Out,
    seed: Annotated[int, typer.Option(help="Of everything: weights, problems, renderings.")] = 0,
    steps_scale: Annotated[float, typer.Option(help="Scale of all training lengths; 1 is the recipe.")] = 1.0,
) -> None:
    """Train the tiny model family from scratch and render its problems (about 3 minutes)."""
    from drift.planning.miniature.build import build as step

    show_report(step(out, seed, steps_scale=steps_scale), out, False)
