"""The scores of one model as a table for people, beside the paper's numbers where they are asked for."""

from __future__ import annotations

from pathlib import Path

from drift.config.catalog import KNOWN
from drift.config.published import AMBIGUOUS, ROWS, TOLERANCE
from drift.evaluate.scores import ROLES, BenchmarkScore, Mean, Scores

FILE = "scores.md"


def write_table(folder: Path, scores: Scores) -> None:
    """`scores.md`: a row per column, the means, and what the published numbers beside them are worth."""
    (folder / FILE).write_text(
        "\n".join([*_heading(scores), *_rows(scores), *_remarks(scores)]) + "\n", encoding="utf-8"
    )


def comparable(scores: Scores) -> dict[str, float]:
    """Published numbers that are made as ours: judged, on the whole table, under the benchmark's own name."""
    if not scores.published or scores.protocol["name"] != "judge" or scores.protocol["limit"] is not None:
        return {}
    published = ROWS[scores.published].percent
    names = [name for name in scores.benchmarks if name in KNOWN and name not in AMBIGUOUS]
    return {name: published[name] for one in names for name in scores.benchmarks[one].columns if name in published}


def deviations(scores: Scores) -> list[str]:
    """A sentence for each column further than the tolerance from its comparable number."""
    measured = {name: mean.mean for name, mean in scores.columns().items()}
    return [
        f"{name} is {measured[name]:.1f}, {measured[name] - number:+.1f} from the published {number:.1f}"
        for name, number in comparable(scores).items()
        if abs(measured[name] - number) > TOLERANCE
    ]


def _heading(scores: Scores) -> list[str]:
    heads = ["", "%", "interval", "questions", "failed", "truncated", "no answer"]
    heads += ["published", "difference"] if scores.published else []
    return [
        f"# {scores.label}",
        "",
        f"Protocol `{scores.protocol['name']}`, data `{scores.data_fingerprint[:12]}`.",
        "",
        f"| {' | '.join(heads)} |",
        f"|---|{'---:|' * (len(heads) - 1)}",
    ]


def _rows(scores: Scores) -> list[str]:
    lines = [
        _row(name, mean, benchmark, scores.published)
        for benchmark in scores.benchmarks.values()
        for name, mean in benchmark.columns.items()
    ]
    means = [(role, mean) for role in ROLES if (mean := scores.role(role))]
    return lines + [
        f"| **{role}** | {_percents(mean)} |{' |' * (6 if scores.published else 4)}" for role, mean in means
    ]


def _row(column: str, mean: Mean, benchmark: BenchmarkScore, published: str | None) -> str:
    counts = (benchmark.n, benchmark.failed, benchmark.truncated, benchmark.unparsed)
    cells = [column, _percents(mean), *map(str, counts)]
    if published:
        number = ROWS[published].percent.get(column)
        cells += ["–", ""] if number is None else [f"{number:.1f}", f"{mean.mean - number:+.1f}"]
    return f"| {' | '.join(cells)} |"


def _percents(mean: Mean) -> str:
    return f"{mean.mean:.1f} | {mean.low:.1f} to {mean.high:.1f}"


def _remarks(scores: Scores) -> list[str]:
    if not scores.published:
        return []
    said = f"Published: row `{scores.published}` of DRIFT, arXiv 2510.15050 v2."
    if not (names := comparable(scores)):
        return ["", f"{said} **Not comparable**: those were judged by VLMEvalKit, on the whole published tables."]
    found = deviations(scores) or [f"none of them is further away than {TOLERANCE:g} points"]
    return ["", f"{said} Comparable: {', '.join(names)}.", "", *(f"- {sentence}" for sentence in found)]
