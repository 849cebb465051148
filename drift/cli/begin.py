"""The first command of the panel `Whole chain`, `drift init`: asks what is not given, looks at it, writes a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drift.cli.options import CHAIN, Group, command
from drift.cli.show import show_text
from drift.config.section import validate
from drift.ground.errors import ConfigError

if TYPE_CHECKING:
    from drift.planning.beginning.examples import First

Text = str | None
QUESTIONS = {
    "vlm": "The multimodal model, a folder or a hub id",
    "expert": "The text model that reasons, a folder or a hub id",
    "data": "Your problems, a file, a folder or a hub id",
    "where": "Where it runs: machine (no GPU), gpu (one here), cluster (Kubeflow)",
}


def _basics(
    vlm: Annotated[Text, typer.Option(help="The multimodal model: a folder or a hub id.")] = None,
    expert: Annotated[Text, typer.Option(help="The text model that reasons: a folder or a hub id.")] = None,
    data: Annotated[Text, typer.Option(help="Problems: a file, a folder or a hub id.")] = None,
    where: Annotated[
        Literal["machine", "gpu", "cluster"] | None, typer.Option(help="This machine, a GPU in it, or Kubeflow.")
    ] = None,
) -> dict[str, str | None]:
    return {"vlm": vlm, "expert": expert, "data": data, "where": where}


def _columns(
    question: Annotated[Text, typer.Option(metavar="COLUMN", help="Of the question, where no name tells.")] = None,
    answer: Annotated[Text, typer.Option(metavar="COLUMN", help="Of the right answer.")] = None,
    image: Annotated[Text, typer.Option(metavar="COLUMN", help="Of the image or images.")] = None,
) -> dict[str, str]:
    named = {"problem_column": question, "answer_column": answer, "image_column": image}
    return {key: column for key, column in named.items() if column}


def _more(
    teacher: Annotated[Text, typer.Option(help="Who writes the chains; default: the VLM itself.")] = None,
    url: Annotated[Text, typer.Option(help="Of the server that has the teacher, such as http://HOST:8000/v1.")] = None,
    benchmarks: Annotated[
        Text, typer.Option(metavar="FOLDER", help="Of TSV tables; default: the paper's, in data/LMUData.")
    ] = None,
    perception: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A table that asks what is seen; may be repeated.")
    ] = None,
) -> dict[str, object]:
    return {"teacher": teacher, "url": url, "benchmarks": benchmarks, "perception": tuple(perception or ())}


@command(CHAIN)
def init(
    basics: Annotated[dict[str, str | None], Group(_basics)],
    columns: Annotated[dict[str, str], Group(_columns)],
    more: Annotated[dict[str, object], Group(_more)],
    example: Annotated[
        Text, typer.Option("--from", help="Copy an example: miniature, 2b, paper, published, code, rivals.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="To write.")] = Path("drift.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
) -> None:
    """Write a first configuration for your models and problems, or copy an example; asks what is not given."""
    from drift.planning.beginning.examples import copy_of, write_new
    from drift.planning.beginning.first import Asked, first

    if example is None:
        given = {**_answered(basics), "columns": columns, **more}
        begun = first(validate(Asked, given), out)
    else:
        _require_alone({**basics, **columns, **more})
        begun = copy_of(example, out)
    write_new(begun.files, force=force)
    _show(begun)


def _require_alone(given: dict[str, object]) -> None:
    for name, value in given.items():
        if value:
            flag = name.removesuffix("_column").replace("problem", "question")
            raise ConfigError(f"--from: an example brings its own {flag}; leave --{flag} out, and change the file")


def _answered(basics: dict[str, str | None]) -> dict[str, str]:
    """What was given, and in a terminal the answers to the rest. Raises ConfigError elsewhere."""
    return {name: value or _ask(name, question) for name, question in QUESTIONS.items() for value in [basics[name]]}


def _ask(name: str, question: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(f"--{name}: not given, and there is no terminal to ask in. {question}; or --from EXAMPLE")
    return str(typer.prompt(question, err=True, default="machine" if name == "where" else None))


def _show(begun: First) -> None:
    for note in begun.notes:
        show_text(note)
    for path in begun.files:
        show_text(f"written to {path}")
    show_text("next:")
    for line in begun.commands:
        show_text(f"    {line}")
