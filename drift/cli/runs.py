"""The panel `Past runs`: found again, compared, and their disk freed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drift.cli.browser import show_page
from drift.cli.options import RUNS, AsJson, RunsFolder, about_runs, app, command, need_kubeflow
from drift.cli.runs_view import show_cleaned, show_difference, show_past, show_runs
from drift.cli.show import show_text
from drift.ground.errors import ConfigError

runs_app = typer.Typer(help="Runs of this machine: what they found, and where it is.", no_args_is_help=True)
app.add_typer(runs_app, name="runs", rich_help_panel=RUNS)

RunName = Annotated[str, typer.Argument(metavar="RUN", help="Its folder, its id, or a name: the latest so called.")]


@command(RUNS, "list", of=runs_app)
def runs_list(
    runs: RunsFolder,
    name: Annotated[str | None, typer.Option(help="Runs of this configuration's name alone.")] = None,
    as_json: AsJson = False,
) -> None:
    """Past runs, the latest first: how each ended, what its gate said, percent right, duration, disk."""
    need_kubeflow()
    from pipelines.local.past import past_runs

    known = past_runs(runs.resolve())
    show_runs([run for run in known if name in (None, run.folder.state["name"])], as_json)


@command(RUNS, "show", of=runs_app)
def runs_show(run: RunName, runs: RunsFolder, as_json: AsJson = False) -> None:
    """What a run found, where its models and scores are, and what each step took."""
    need_kubeflow()
    from pipelines.local.past import find_run

    show_past(find_run(runs.resolve(), run), as_json)


@command(RUNS, "compare", of=runs_app)
def runs_compare(first: RunName, second: RunName, runs: RunsFolder, as_json: AsJson = False) -> None:
    """Two runs side by side: keys of the configuration that differ, and percent right of every model."""
    need_kubeflow()
    from pipelines.local.difference import difference
    from pipelines.local.past import find_run

    show_difference(difference(*(find_run(runs.resolve(), name) for name in (first, second))), as_json)


@command(RUNS, "open", of=runs_app)
def runs_open(
    run: RunName,
    runs: RunsFolder,
    mlflow: Annotated[bool, typer.Option("--mlflow", help="Its page in MLflow, of a server.")] = False,
) -> None:
    """Open a run's report in the browser; where there is none, only say where it is."""
    need_kubeflow()
    from pipelines.local.past import find_run

    past = find_run(runs.resolve(), run)
    if mlflow:
        page = past.folder.state.get("mlflow", "")
        remedy = about_runs("drift ui", runs)
    else:
        report = past.output("report", "", "report/report.html")
        page = report.as_uri() if report else ""
        remedy = f"it is {past.status}; {about_runs(f'drift runs show {past.name}', runs)} says why"
    if not page:
        raise ConfigError(f"{past.name}: no {'page of a server' if mlflow else 'report'} ({remedy})")
    show_text(page)
    show_page(page)


@command(RUNS)
def clean(
    runs: RunsFolder,
    keep: Annotated[int, typer.Option(min=1, help="Finished runs of each name that stay whole.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be freed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Free the models, Δ and data of older runs: never what a champion, an unfinished run or a kept one's cache needs.

    Verdicts, reports, scores and logs of all runs stay.
    """
    need_kubeflow()
    from pipelines.local.clean import clean as clean_

    show_cleaned(clean_(runs, keep, dry_run=dry_run), dry_run=dry_run, as_json=as_json)


def scores_named(text: str, runs: Path) -> Path:
    """A folder of scores: a path, or RUN:ARM. Raises ConfigError for a run or arm that does not exist."""
    if Path(text).exists() or ":" not in text:
        return Path(text)
    need_kubeflow()
    from pipelines.local.past import scores_of

    return scores_of(runs.resolve(), text)
