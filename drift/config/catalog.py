"""The benchmarks of the paper by name: role, headline columns, rows and MD5 of the published table. No imports.

A column is one number of a paper's table. WeMath has two, strict and loose; both count in the mean over a suite.
Names, tables and sums are VLMEvalKit's. A benchmark of one's own may have the form of one of these
(`evaluate.benchmarks.NAME.format`); the form `plain` is a table of questions with a share of right answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["reasoning", "perception"]
ROLES: tuple[Role, ...] = ("reasoning", "perception")

PLAIN = "plain"


@dataclass(frozen=True)
class Known:
    """A published benchmark."""

    role: Role
    rows: int
    md5: str
    columns: tuple[str, ...] = ()
    """Headline columns; empty: one, of the benchmark's name."""
    required: tuple[str, ...] = ()
    """Columns its table has besides index, image, question and answer."""


KNOWN: dict[str, Known] = {
    "MathVista_MINI": Known(
        "reasoning",
        1000,
        "f199b98e178e5a2a20e7048f5dcb0464",
        required=("question_type", "answer_type", "choices", "answer_option", "task", "skills"),
    ),
    "MathVision": Known("reasoning", 3040, "93f6de14f7916e598aa1b7165589831e", required=("choices", "category")),
    "MathVerse_MINI_Vision_Only": Known(
        "reasoning",
        788,
        "68a11d4680014ac881fa37adeadea3a4",
        required=("question_for_eval", "problem_version", "metadata"),
    ),
    "WeMath": Known(
        "reasoning",
        1740,
        "b5e969a075f01290a542411fb7766388",
        columns=("strict", "loose"),
        required=("ID", "key", "A", "B"),
    ),
    "LogicVista": Known("reasoning", 447, "41c5d33adf33765c399e0e6ae588c061", required=("skill",)),
    "HallusionBench": Known(
        "perception", 951, "0c23ac0dc9ef46832d7a24504f2a0c7c", required=("category", "l2-category")
    ),
    "RealWorldQA": Known("perception", 765, "4de008f55dc4fd008ca9e15321dc44b7", required=("A", "B")),
    "MMStar": Known("perception", 1500, "e1ecd2140806c1b1bbf54b43372efb9e", required=("A", "B", "category")),
}

SUITES: dict[str, tuple[str, ...]] = {
    role: tuple(name for name, known in KNOWN.items() if known.role == role) for role in ROLES
}


def expand(suite: str) -> tuple[str, ...]:
    """Names by comma, each once; a role's name stands for its suite."""
    named = (one.strip() for one in suite.split(","))
    return tuple(dict.fromkeys(name for one in named for name in SUITES.get(one, (one,))))


def columns_of(name: str, form: str) -> tuple[str, ...]:
    """Names of a benchmark's headline columns: its own name, or `WeMath-strict` and `WeMath-loose`."""
    parts = KNOWN[form].columns if form in KNOWN else ()
    return tuple(f"{name}-{part}" for part in parts) or (name,)
