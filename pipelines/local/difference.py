"""Two past runs side by side: what was asked for differently, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drift.tracking.steps import flatten
from pipelines.local.past import PastRun

ABSENT = "–"
ROLES = ("reasoning", "perception")


@dataclass(frozen=True)
class Difference:
    """Of two runs: keys of the configuration as (first's, second's), and percent right by model and role alike."""

    runs: tuple[str, str]
    config: Mapping[str, tuple[str, str]]
    scores: Mapping[tuple[str, str], tuple[float | None, float | None]]
    verdicts: tuple[str, str]


def difference(first: PastRun, second: PastRun) -> Difference:
    """What differs between two runs."""
    configs = [_flat(run.config) for run in (first, second)]
    scores = [_scores(run) for run in (first, second)]
    keys = dict.fromkeys([*configs[0], *configs[1]])
    pairs = {key: (configs[0].get(key, ABSENT), configs[1].get(key, ABSENT)) for key in keys}
    return Difference(
        runs=(first.name, second.name),
        config={key: pair for key, pair in pairs.items() if pair[0] != pair[1]},
        scores={key: (scores[0].get(key), scores[1].get(key)) for key in dict.fromkeys([*scores[0], *scores[1]])},
        verdicts=(verdict(first), verdict(second)),
    )


def verdict(run: PastRun) -> str:
    """`drift passed`, `drift refused`, or '' where the gate was not reached."""
    return f"{run.gate['candidate']} {'passed' if run.gate['passed'] else 'refused'}" if run.gate else ""


def _flat(config: Mapping[str, Any]) -> dict[str, str]:
    return {key: text for name, value in config.items() for key, text in flatten(name, value).items()}


def _scores(run: PastRun) -> dict[tuple[str, str], float]:
    rows = run.summary["rows"] if run.summary else []
    return {(row["label"], role): row[role]["mean"] for row in rows for role in ROLES if row[role]}
