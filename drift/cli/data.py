"""The panel `Data`, `drift data ...`: a folder to look at, and a training set for another trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from drift.cli.browser import show_page
from drift.cli.options import DATA, AsJson, Out, app, command
from drift.cli.show import show_report, show_text

data_app = typer.Typer(help="A data folder to look at; a training set for another trainer.", no_args_is_help=True)
app.add_typer(data_app, name="data", rich_help_panel=DATA)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Of `drift ingest`, `generate` or `curate`.")]
TrainingSet = Annotated[Path, typer.Argument(metavar="FOLDER", help="Training set, as `drift curate` writes it.")]


@command(DATA, of=data_app)
def show(
    folder: Folder,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The page; default: FOLDER's name, .html.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    problems: Annotated[
        Path | None, typer.Option(help="Problems, for images and golds; default: those that FOLDER was made of.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows shown, and as many rejects.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the draw, where there are more.")] = 0,
) -> None:
    """Rows, images, verdicts and rejects on one HTML page, to search and filter."""
    from drift.data.exports.page import write_page

    page = out or Path(f"{folder.resolve().name}.html")
    show_text(f"{write_page(folder, page, problems=problems, limit=limit, seed=seed)}; written to {page}")
    if open_ and not show_page(page.resolve().as_uri()):
        show_text("no screen here to open it on")


@command(DATA, of=data_app)
def export(
    folder: TrainingSet,
    out: Out,
    to: Annotated[Literal["llamafactory", "ms-swift", "trl", "verl"], typer.Option(help="The other trainer.")],
    image_max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Scale images down to this area, as train.image_max_pixels does.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a training set for another trainer, which then sees the same tokens."""
    from drift.data.exports.export import export as step
    from drift.data.exports.formats import USE

    show_report(step(folder, to, out, image_max_pixels=image_max_pixels), out, as_json)
    if not as_json:
        show_text(f"{to}: {USE[to].format(folder=out)}")
