"""The panel `Whole chain`, `drift ablate ...`: the tables of a paper, from a file each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drift.cli.ablate_view import show_budget
from drift.cli.options import (
    CHAIN,
    AsJson,
    Assumed,
    ResourcesFile,
    Rows,
    app,
    command,
    gpus_of_steps,
)
from drift.config.section import validate

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
