"""Answers as a person sees them, one below its thinking, several side by side; and the prompt of a dialogue."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from drift.cli.show import out, show_json

if TYPE_CHECKING:
    from drift.evaluate.asking import Answer

NARROW = 36
"""Columns of a terminal that an answer beside another one needs; else they stand one below the other."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a model may write and a terminal would obey."""
HELP = "/image PATH adds a picture to the next question, /new begins anew, Ctrl-D ends"


def show_answers(answers: Sequence[Answer], as_json: bool) -> None:
    """One answer, or a column for each model's; as JSON one object, or a list of them."""
    if as_json:
        rows = [asdict(answer) for answer in answers]
        show_json(json.dumps(rows if len(rows) > 1 else rows[0]))
        return
    if len(answers) > 1 and out.width // len(answers) >= NARROW:
        out.print(_side_by_side(answers))
        return
    for answer in answers:
        if len(answers) > 1:
            out.rule(Text(answer.model))
        out.print(_shown(answer))


def _side_by_side(answers: Sequence[Answer]) -> Table:
    table = Table(box=SIMPLE_HEAD, expand=True, padding=(0, 1))
    for answer in answers:
        table.add_column(Text(answer.model), ratio=1, overflow="fold")
    table.add_row(*map(_shown, answers))
    return table


def _shown(answer: Answer) -> RenderableType:
    thinking = [Panel(_text(answer.thinking, "dim"), title="thinking", border_style="dim")] if answer.thinking else []
    said = _text(answer.answer) if answer.answer else Text("no answer", "red")
    return Group(*thinking, said, Text(_how(answer), "dim"))


def _how(answer: Answer) -> str:
    tokens = "" if answer.tokens is None else f"{answer.tokens} tokens in "
    cut = ", cut at max_new_tokens" if answer.finish_reason == "length" else ""
    return f"{tokens}{answer.seconds:.1f} s{cut}"


def _text(text: str, style: str = "") -> Text:
    return Text(CONTROL.sub("", text), style)


def prompted() -> Iterator[str]:
    """Lines that a person types, until the end of the input or Ctrl-C."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # arrows and history
    sys.stderr.write(f"{HELP}\n")
    while True:
        try:
            if not sys.stdout.isatty():
                sys.stderr.write("> ")  # answers alone go where standard output goes
            yield input("> " if sys.stdout.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            sys.stderr.write("\n")
            return
