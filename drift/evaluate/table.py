"""The scores of one model as a table for people, beside the paper's numbers where they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drift.config.catalog import KNOWN
from drift.config.published import AMBIGUOUS, MADE_WITH, ROWS, TOLERANCE
from drift.evaluate.scores import ROLES, BenchmarkScore, Mean, Scores

FILE = "scores.md"


def write_table(folder: Path, scores: Scores) -> None:
    """`scores.md`: a row per column, the means, and what the published numbers beside them are worth."""
    (folder / FILE).write_text(
        "\n".join([*_heading(scores), *_rows(scores), *_remarks(scores)]) + "\n", encoding="utf-8"
    )


def comparable(scores: Scores) -> dict[str, float]:
    """Published numbers that are made as ours (`differences`), under the benchmark's own name."""
    if not scores.published or differences(scores):
        return {}
    published = ROWS[scores.published].percent
    names = [name for name in scores.benchmarks if name in KNOWN and name not in AMBIGUOUS]
    return {name: published[name] for one in names for name in scores.benchmarks[one].columns if name in published}


def differences(scores: Scores) -> list[str]:
    """What ours are made with otherwise than the published ones: `image_max_pixels 262144 (published 12845056)`."""
    made = {key: _made_with(scores, key) for key in MADE_WITH}
    return [f"{key} {made[key]!s} (published {MADE_WITH[key]!s})" for key in made if made[key] != MADE_WITH[key]]


def _made_with(scores: Scores, key: str) -> Any:
    """An entry of the protocol. Of prompts, the first of a published benchmark that is another one than theirs."""
    if key == "neutral":  # older folders do not say it
        return scores.protocol.get(key, scores.protocol.get("inference") != "endpoint")
    if key == "prompts":
        prompts = scores.protocol.get(key, {})
        own = [prompt for name, prompt in prompts.items() if name in KNOWN and prompt != MADE_WITH[key]]
        return own[0] if own else MADE_WITH[key]
    return scores.protocol.get(key)


def overlapping(scores: Scores) -> list[str]:
    """A sentence for each table that holds questions of a benchmark."""
    return [
        f"{name}: {count} of {benchmark.questions} questions are in {other} too"
        for name, benchmark in scores.benchmarks.items()
        for other, count in benchmark.overlaps.items()
    ]


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
    heads += ["agreement"] if scores.judged else []
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
        _row(name, mean, benchmark, scores)
        for benchmark in scores.benchmarks.values()
        for name, mean in benchmark.columns.items()
    ]
    means = [(role, mean) for role in ROLES if (mean := scores.role(role))]
    empty = 4 + bool(scores.judged) + 2 * bool(scores.published)
    return lines + [f"| **{role}** | {_percents(mean)} |{' |' * empty}" for role, mean in means]


def _row(column: str, mean: Mean, benchmark: BenchmarkScore, scores: Scores) -> str:
    counts = (benchmark.failed, benchmark.truncated, benchmark.unparsed)
    cells = [column, _percents(mean), asked_text(benchmark), *map(str, counts)]
    cells += [_agreement(benchmark)] if scores.judged else []
    if scores.published:
        number = ROWS[scores.published].percent.get(column)
        cells += ["–", ""] if number is None else [f"{number:.1f}", f"{mean.mean - number:+.1f}"]
    return f"| {' | '.join(cells)} |"


def _percents(mean: Mean) -> str:
    return f"{mean.mean:.1f} | {mean.low:.1f} to {mean.high:.1f}"


def asked_text(benchmark: BenchmarkScore) -> str:
    """How many questions, and how many answers to each if there are several."""
    return f"{benchmark.questions}" + (f"×{benchmark.samples}" if benchmark.samples > 1 else "")


def agreements(scores: Scores) -> list[str]:
    """A sentence for each judged benchmark: on how many answers that the judge decided the rule says the same."""
    return [
        f"{name}: judge and rule agree on {_agreement(benchmark)} % of the answers; the judge left "
        f"{benchmark.undetermined} undecided"
        for name, benchmark in scores.benchmarks.items()
        if benchmark.judge
    ]


def _agreement(benchmark: BenchmarkScore) -> str:
    return f"{benchmark.judge['agreement']:.1f}" if "agreement" in benchmark.judge else "–"


def _remarks(scores: Scores) -> list[str]:
    passed = [
        f"{name}: {metric} {value:.1f}"
        for name, benchmark in scores.benchmarks.items()
        for metric, value in benchmark.metrics.items()
        if metric.startswith("pass@")
    ]
    sentences = [*passed, *overlapping(scores)]
    return [*([""] if sentences else []), *(f"- {sentence}" for sentence in sentences), *_beside_published(scores)]


def _beside_published(scores: Scores) -> list[str]:
    if not scores.published:
        return []
    said = f"Published: row `{scores.published}` of DRIFT, arXiv 2510.15050 v2."
    if found := differences(scores):
        return ["", f"{said} **Not comparable**: made with another {', '.join(found)}."]
    if not (names := comparable(scores)):
        return ["", f"{said} **Not comparable**: it has none of these columns, or does not say what they are."]
    found = deviations(scores) or [f"none of them is further away than {TOLERANCE:g} points"]
    return ["", f"{said} Comparable: {', '.join(names)}.", "", *(f"- {sentence}" for sentence in found)]
