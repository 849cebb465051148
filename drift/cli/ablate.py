"""The panel `Whole chain`, `drift ablate ...`: the tables of a paper, from a file each."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from drift.cli.ablate_view import show_ablated, show_ablation, show_budget, show_submitted
from drift.cli.cluster import comes_back
from drift.cli.options import (
    CHAIN,
    EXIT_BAD_INPUT,
    AsJson,
    Assumed,
    Group,
    OnCluster,
    Overrides,
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
from drift.ground.errors import ConfigError

if TYPE_CHECKING:
    from drift.planning.ablation.expansion import Ablation, Cell
    from drift.planning.ablation.table import Table

ablate_app = typer.Typer(help="Ablations: arms from a grid, over seeds and data, as one table.", no_args_is_help=True)
app.add_typer(ablate_app, name="ablate", rich_help_panel=CHAIN)


def _expanded(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An ablation; see configs/ablations/.")],
    overrides: Overrides = None,
) -> Any:
    from drift.planning.ablation.expansion import expand

    return expand(file, overrides or ())


Expanded = Annotated[Any, Group(_expanded)]
"""The cells of a file (`drift.planning.ablation.expansion.Ablation`), with overrides for all of them."""


@command(CHAIN, "plan", of=ablate_app)
def ablate_plan(
    ablation: Expanded,
    assumed: Assumed,
    samples: Rows = None,
    resources: ResourcesFile = None,
    as_json: AsJson = False,
) -> None:
    """Say which cells and arms a file stands for, how many trainings, and what they cost together; runs nothing."""
    from drift.planning.ablation.budget import budget
    from drift.planning.costs import Assumptions

    on = validate(Assumptions, assumed)
    show_budget(ablation, budget(ablation, on, samples=samples, gpus=gpus_of_steps(resources)), as_json)


@command(CHAIN, "run", of=ablate_app)
def ablate_run(
    ablation: Expanded,
    shown: Shown,
    runner: RunnerKind = "subprocess",
    cell: Annotated[
        list[str] | None, typer.Option(help="Only this one, as `plan` names it; may be repeated. Default: all.")
    ] = None,
) -> None:
    """Run every cell on this machine and show the table; goes on where it stopped, and repeats no finished arm.

    An arm that fails is left out of its cell; exit code 2 if one did.
    """
    need_kubeflow()
    from pipelines.local.ablation import run as run_cells

    count, begun = len(cell or ablation.cells), itertools.count(1)
    with RunView(quiet=shown.silent) as view:

        def tell(one: Cell) -> None:
            view.note(f"cell {one.name}, {next(begun)} of {count}: {len(one.config.arms)} arms")

        on_cell = None if shown.silent else tell
        results = run_cells(ablation, cells=cell or (), on_event=view.event, on_cell=on_cell, runner=runner)
    table = _table(ablation)
    show_ablation(ablation, table, results, shown.as_json)
    if any(one.failed for one in results):
        raise typer.Exit(EXIT_BAD_INPUT)


@command(CHAIN, "submit", of=ablate_app)
def ablate_submit(
    ablation: Expanded,
    cluster: OnCluster,
    shown: Shown,
    wait: Annotated[bool, typer.Option(help="One cell after the other; without, all at once.")] = True,
) -> None:
    """Run every cell on a Kubeflow cluster, a run each, in one experiment; exit code 2 if one failed.

    Numbers and reports are in MLflow, and of each run `drift watch` tells; `table --mlflow` makes the table.
    """
    target = cluster.target()
    from pipelines.cluster.ablation import submit

    with comes_back(), RunView(quiet=shown.silent) as view:
        ended = submit(ablation, target, wait=wait, on_event=view.event, on_note=view.note)
    show_submitted(ended, shown.as_json)
    if any(one.state in ("FAILED", "CANCELED") for one in ended):
        raise typer.Exit(EXIT_BAD_INPUT)


@command(CHAIN, "table", of=ablate_app)
def ablate_table(
    ablation: Expanded,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for table.md, .csv, .tex and the plots; may exist.")
    ] = None,
    form: Annotated[
        Literal["text", "md", "csv", "tex"], typer.Option("--format", help="Of what is printed; text: for a terminal.")
    ] = "text",
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Of runs on a cluster, too: from the MLflow at MLFLOW_TRACKING_URI.")
    ] = False,
) -> None:
    """Show what is there of a table, finished or not; what is missing is a dash, and why stands below."""
    need_kubeflow()
    from drift.planning.ablation.plots import write_plots
    from drift.planning.ablation.writing import csv, latex, markdown, write_tables

    table = _table(ablation, mlflow=mlflow)
    if out is None and form == "text":
        show_ablated(table)
        return
    if out is None:
        show_text({"md": markdown, "csv": csv, "tex": latex}[form](table).rstrip("\n"))
        return
    for path in [*write_tables(out, table), *write_plots(out, ablation, table)]:
        show_text(str(path))


def _table(ablation: Ablation, *, mlflow: bool = False) -> Table:
    from drift.planning.ablation.table import tabulate
    from pipelines.local.ablation import found

    results = found(ablation)
    if mlflow:
        from drift.tracking.runs.records import Records
        from pipelines.cluster.ablation import found as found_there

        if not (records := Records.open()):
            raise ConfigError("--mlflow: MLFLOW_TRACKING_URI is not set; it says where the cluster's steps log")
        results |= {key: one for key, one in found_there(ablation, records).items() if not results[key].folder}
    return tabulate(ablation, results)
