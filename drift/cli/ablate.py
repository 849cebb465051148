"""The panel `Whole chain`, `drift ablate ...`: the tables of a paper, from a file each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drift.cli.ablate_view import show_ablation, show_budget
from drift.cli.options import (
    CHAIN,
    EXIT_BAD_INPUT,
    AsJson,
    Assumed,
    ResourcesFile,
    Rows,
    RunnerKind,
    Shown,
    app,
    command,
    gpus_of_steps,
    need_kubeflow,
)
from drift.cli.run_view import RunView
from drift.cli.show import show_text
from drift.config.section import validate

if TYPE_CHECKING:
    from drift.planning.ablation.expansion import Ablation
    from drift.planning.ablation.table import Table

ablate_app = typer.Typer(help="Ablations: arms from a grid, over seeds and data, as one table.", no_args_is_help=True)
app.add_typer(ablate_app, name="ablate", rich_help_panel=CHAIN)

AblationFile = Annotated[Path, typer.Argument(metavar="FILE", help="An ablation; see configs/ablations/.")]


@command(CHAIN, "plan", of=ablate_app)
def ablate_plan(
    file: AblationFile,
    assumed: Assumed,
    samples: Rows = None,
    resources: ResourcesFile = None,
    as_json: AsJson = False,
) -> None:
    """Say which cells and arms a file stands for, how many trainings, and what they cost together; runs nothing."""
    from drift.planning.ablation.budget import budget
    from drift.planning.ablation.expansion import expand
    from drift.planning.costs import Assumptions

    ablation, on = expand(file), validate(Assumptions, assumed)
    show_budget(ablation, budget(ablation, on, samples=samples, gpus=gpus_of_steps(resources)), as_json)


@command(CHAIN, "run", of=ablate_app)
def ablate_run(
    file: AblationFile,
    shown: Shown,
    runner: RunnerKind = "subprocess",
) -> None:
    """Run every cell on this machine and show the table; goes on where it stopped, and repeats no finished arm.

    An arm that fails is left out of its cell; exit code 2 if one did.
    """
    need_kubeflow()
    from drift.planning.ablation.expansion import expand
    from pipelines.local.ablation import run as run_cells

    ablation = expand(file)
    with RunView(quiet=shown.silent) as view:
        results = run_cells(
            ablation,
            on_event=view.event,
            on_cell=None if shown.silent else lambda cell: view.note(f"cell {cell.name}: {len(cell.config.arms)} arms"),
            runner=runner,
        )
    table = _table(ablation)
    show_ablation(ablation, table, results, shown.as_json)
    if any(one.failed for one in results):
        raise typer.Exit(EXIT_BAD_INPUT)


@command(CHAIN, "table", of=ablate_app)
def ablate_table(
    file: AblationFile,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for table.md, .csv, .tex and the plots; may exist.")
    ] = None,
    form: Annotated[Literal["md", "csv", "tex"], typer.Option("--format", help="Of what is printed.")] = "md",
) -> None:
    """Show what is there of a table, finished or not; what is missing is a dash, and why stands below."""
    need_kubeflow()
    from drift.planning.ablation.expansion import expand
    from drift.planning.ablation.plots import write_plots
    from drift.planning.ablation.writing import csv, latex, markdown, write_tables

    ablation = expand(file)
    table = _table(ablation)
    if out is None:
        show_text({"md": markdown, "csv": csv, "tex": latex}[form](table).rstrip("\n"))
        return
    for path in [*write_tables(out, table), *write_plots(out, ablation, table)]:
        show_text(str(path))


def _table(ablation: Ablation) -> Table:
    from drift.planning.ablation.table import tabulate
    from pipelines.local.ablation import found

    return tabulate(ablation, found(ablation))
