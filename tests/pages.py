"""The code blocks of README, CONTRIBUTING and docs/: what each is, what of it can run here, and the commands in it.

Every block is fenced and names its language. A line `# needs: …` in it says, to readers and tests, that what follows
down to the block's end, or to the next such line, wants what a machine without GPU, network and cluster has not.
"""

from __future__ import annotations

import functools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.world import BASE, EXPERT, TEACHER, VLM

ROOT = Path(__file__).parent.parent
PAGES = [
    Path("README.md"),
    Path("CONTRIBUTING.md"),
    *(Path("docs") / page.name for page in (ROOT / "docs").glob("*.md")),
]
NEEDS = {"a cluster", "a GPU", "a server", "the hub", "the published tables", "Docker", "Slurm"}

WORDS = {
    "EXPERT": EXPERT, "MATH": EXPERT, "CODE": TEACHER, "VLM": VLM, "BASE": BASE, "ADAPTER": "lora/adapter",
    "START": VLM, "MODEL": VLM, "TEACHER": TEACHER, "DELTA": "delta", "FOLDER": "training_set", "OUT": "out",
    "DIR": "dir", "CONFIG": "mine.yaml", "RUN": "mini-01", "NAME": "drift-vlm",
    "...": f"--model {VLM} --data training_set --out out",
    "--rank 64": "--rank 4",
    "PROFILE": "configs/resources/one_gpu.yaml", "configs/resources/FILE": "configs/resources/one_gpu.yaml",
}  # fmt: skip
"""What the pages' placeholders stand for."""

_FENCE = re.compile(r"^```(?P<language>\w*)(?P<name>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_NEEDS = re.compile(r"^# needs: (.+)$")


@dataclass(frozen=True)
class Line:
    """One command, its continued lines joined. ``needs``: what it cannot do without, "" if nothing."""

    text: str
    needs: str

    @property
    def words(self) -> list[str]:
        """As a shell would split it, without its comment, and without where its output goes."""
        return shlex.split(re.split(r" [|<>] ", self.text)[0], comments=True)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the line of the page that it begins at."""

    page: Path
    at: int
    language: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.at}"

    @property
    def lines(self) -> list[Line]:
        """Its commands; of a transcript those behind `$`."""
        joined = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            return [Line(line[2:], "") for line in joined if line.startswith("$ ")]
        found, needs = [], ""
        for line in joined:
            if mark := _NEEDS.match(line):
                needs = mark[1]
            elif line.strip() and not line.startswith("#"):
                found.append(Line(line, needs))
        return found

    @property
    def needs(self) -> set[str]:
        """All its marks."""
        return set(re.findall(_NEEDS.pattern, self.text, re.MULTILINE))


@functools.cache
def blocks(page: Path) -> list[Block]:
    """In their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [(text.count("\n", 0, one.start()) + 1, one) for one in _FENCE.finditer(text)]
    return [Block(page, at, one["language"], one["name"].strip(), one["text"]) for at, one in found]


def drift_lines(page: Path) -> list[Line]:
    """Every `drift …` that stands in a line of its own, in whatever block, and the words behind it."""
    lines = [line for block in blocks(page) if block.language in {"bash", "console"} for line in block.lines]
    return [Line(found[1], line.needs) for line in lines if (found := _DRIFT.match(line.text))]


_DRIFT = re.compile(r"^(?:\w+=\S+ )*(drift .+)$")


def filled(text: str) -> str:
    """With something in the place of each placeholder."""
    for word, stands in WORDS.items():
        text = re.sub(rf"(?<![\w\".]){re.escape(word)}(?![\w.\"])", str(stands), text)
    return text
