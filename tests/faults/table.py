"""The table of docs/reliability.md, between its markers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PAGE = Path("docs/reliability.md")
MARKERS = "<!-- the table of `make faults` -->", "<!-- its end -->"


@dataclass(frozen=True)
class Tried:
    """A command under one variant of a fault, and what was wrong."""

    command: str
    fault: str
    variant: str
    wrong: tuple[str, ...]


def table(tried: Iterable[Tried], commands: list[str], faults: list[str]) -> str:
    """Markdown: in each cell how many were right, or how many of how many; `-` where the fault has no meaning."""
    tried = list(tried)
    lines = ["| | " + " | ".join(faults) + " |", "|---|" + "---:|" * len(faults)]
    for command in commands:
        cells = [_cell([one for one in tried if (one.command, one.fault) == (command, fault)]) for fault in faults]
        lines.append(f"| `{command}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(tried: list[Tried]) -> str:
    right = sum(not one.wrong for one in tried)
    if not tried:
        return "-"
    return str(right) if right == len(tried) else f"**{right} of {len(tried)}**"


def summary(tried: Iterable[Tried]) -> str:
    """How many cells and tries were right."""
    tried = list(tried)
    cells = {(one.command, one.fault) for one in tried}
    wrong = {(one.command, one.fault) for one in tried if one.wrong}
    right = sum(not one.wrong for one in tried)
    return f"{len(cells) - len(wrong)} of {len(cells)} cells right; {right} of {len(tried)} tries"


def write(text: str, page: Path = PAGE) -> None:
    """Put ``text`` between the markers of the page."""
    begin, end = MARKERS
    content = page.read_text(encoding="utf-8")
    between = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
    page.write_text(between.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", content), encoding="utf-8")
