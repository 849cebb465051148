"""May the candidate be registered? Better at reasoning than the unmodified VLM, perception kept, no worse than the
registry's champion.

Differences are paired, in points of percent (`statistics`); the rules are in `rules`. Every check is listed with what
was measured, the threshold and a sentence that says why it passed or not; the gate passes if all do. The
baseline is always the original φ_VL, so that a chain of retrainings cannot drift away in steps that are each allowed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from drift.config.gate import GateConfig
from drift.config.section import suggest
from drift.evaluate.scores import read_scores
from drift.gate.comparison import compare
from drift.gate.operating import DRAWS, Operating, operating
from drift.gate.rules import Check, against_baseline, against_champion, answered, beats
from drift.gate.statistics import POWER, Comparison
from drift.ground.artifacts import SCHEMA, staged, write_json, write_provenance
from drift.ground.errors import DataError

NO_CHAMPION = "There is no champion to compare with; that rule is left out."


@dataclass(frozen=True)
class GateReport:
    """The decision, and everything it rests on."""

    candidate: str
    baseline: str
    model_sha256: str
    """Contents of the candidate's model directory: what may be registered, and nothing else."""
    checks: list[Check]
    comparisons: dict[str, Comparison]
    """Every arm against the baseline."""
    champion: Comparison | None
    """The candidate against the champion."""
    operating: Operating

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def winner(self) -> str:
        """The arm that may be registered; empty if none."""
        return self.candidate if self.passed else ""

    @property
    def reasons(self) -> list[str]:
        """Why it was refused; if it passed, why it could."""
        return [check.detail for check in self.checks if check.passed == self.passed]

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow: `gate/passed` (0 or 1), the value of each check, and the probabilities."""
        values = {f"gate/{check.name}": check.value for check in self.checks}
        return (
            {"gate/passed": float(self.passed)}
            | values
            | {f"gate/operating_{name}": value for name, value in dataclasses.asdict(self.operating).items()}
        )


def decide(
    config: GateConfig, *, baseline: Path, arms: Mapping[str, Path], out: Path, champion: Path | None = None
) -> GateReport:
    """Decide on ``config.candidate`` from score folders, and write `gate.json` and `gate.md` into ``out``.

    Raises DataError if an arm that the section names was not evaluated, if a role has no benchmark, or if the
    folders were measured differently; ConfigError for a margin that the benchmarks cannot resolve.
    """
    for name in (config.candidate, *config.beats):
        if name not in arms:
            raise DataError(f"gate: arm '{name}' has no scores{suggest(name, arms)}")
    with staged(out) as folder:
        report = _decide(config, baseline, arms, champion)
        write_json(folder / "gate.json", _as_json(report, config))
        (folder / "gate.md").write_text(markdown(report), encoding="utf-8")
        inputs = {"baseline": baseline, **{f"scores {name}": path for name, path in arms.items()}}
        inputs |= {"champion": champion} if champion else {}
        write_provenance(folder, "gate", config=config.model_dump(mode="json"), inputs=inputs)
    return report


def markdown(report: GateReport) -> str:
    """The decision as a heading, a table of its checks, and what the gate can see."""
    against = f"{report.baseline} and the champion" if report.champion else report.baseline
    lines = [
        f"# Gate: {report.candidate} {'passed' if report.passed else 'refused'}",
        "",
        f"Against {against}. Differences are paired, in points of percent.",
        *([] if report.champion else ["", NO_CHAMPION]),
        "",
        "| check | result | measured | interval | threshold | why |",
        "|---|---|---:|---|---:|---|",
        *(_row(check) for check in report.checks),
        "",
        *_operating_lines(report),
    ]
    return "\n".join(lines) + "\n"


def _row(check: Check) -> str:
    interval = "" if check.low is None or check.high is None else f"{check.low:+.1f} to {check.high:+.1f}"
    result = "passed" if check.passed else "**refused**"
    cells = [check.name, result, f"{check.value:.1f}", interval, f"{check.threshold:.1f}", check.detail]
    return f"| {' | '.join(cells)} |"


def _operating_lines(report: GateReport) -> list[str]:
    seen = report.operating
    return [
        "## What this gate can see",
        "",
        "| | |",
        "|---|---:|",
        f"| passes a model equal to {report.baseline} | {seen.equal:.1%} |",
        f"| passes the gains of the paper's DRIFT row | {seen.paper:.1%} |",
        f"| minimal detectable effect, reasoning | {seen.reasoning_detectable:.2f} points |",
        f"| minimal detectable effect, perception | {seen.perception_detectable:.2f} points |",
        "",
        f"Probabilities of passing the rules against {report.baseline}, by the normal approximation with the "
        f"bootstrap's covariance at the disagreement seen here ({DRAWS} joint draws). Detectable: found with "
        f"probability {POWER:.0%}.",
    ]


def _decide(config: GateConfig, baseline: Path, arms: Mapping[str, Path], champion: Path | None) -> GateReport:
    paired = partial(compare, confidence=config.confidence, resamples=config.resamples, seed=config.seed)
    comparisons = {name: paired(path, baseline) for name, path in arms.items()}
    candidate, against = arms[config.candidate], comparisons[config.candidate]
    to_champion = paired(candidate, champion) if champion else None
    scores = read_scores(candidate)
    checks = [
        *answered(config, scores),
        *against_baseline(config, against),
        *(against_champion(config, to_champion) if to_champion else ()),
        *(beats(name, paired(candidate, arms[name])) for name in config.beats),
    ]
    return GateReport(
        candidate=config.candidate,
        baseline=against.baseline,
        model_sha256=scores.model_sha256,
        checks=checks,
        comparisons=comparisons,
        champion=to_champion,
        operating=operating(config, against),
    )


def _as_json(report: GateReport, config: GateConfig) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "passed": report.passed,
        "candidate": report.candidate,
        "winner": report.winner,
        "baseline": report.baseline,
        "model_sha256": report.model_sha256,
        "max_perception_loss": config.max_perception_loss,
        "checks": [dataclasses.asdict(check) for check in report.checks],
        "reasons": report.reasons,
        "operating": dataclasses.asdict(report.operating),
        "comparisons": {name: comparison.to_json() for name, comparison in report.comparisons.items()},
        "champion": report.champion.to_json() if report.champion else None,
    }
