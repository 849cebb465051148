"""May the candidate be registered? Better at reasoning than the unmodified VLM, and perception retained.

Differences are paired, in points of percent (see `drift.statistics`). Every check is listed with what was measured,
the threshold and a sentence that says why it passed or not; the gate passes if all do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from drift.artifacts import SCHEMA, staged, write_json, write_provenance
from drift.config import GateConfig
from drift.errors import DataError
from drift.evaluate.scores import Role, Scores, read_scores
from drift.statistics import Comparison, Difference, compare
from drift.validation import suggest

ROUNDING = 1e-9  # points; a loss of exactly the allowed size passes


@dataclass(frozen=True)
class Check:
    """One condition: the measured value (points, or a count), its threshold, its interval where it has one."""

    name: str
    passed: bool
    value: float
    threshold: float
    low: float | None
    high: float | None
    detail: str


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
        """Flat numbers for MLflow: `gate/passed` (0 or 1) and the value of each check."""
        return {"gate/passed": float(self.passed)} | {f"gate/{check.name}": check.value for check in self.checks}


def gate(config: GateConfig, *, baseline: Path, arms: Mapping[str, Path], out: Path) -> GateReport:
    """Decide on ``config.candidate`` from score folders, and write `gate.json` and `gate.md` into ``out``.

    Raises DataError if an arm that the section names was not evaluated, if a role has no benchmark, or if the
    folders were measured differently.
    """
    for name in (config.candidate, *config.beats):
        if name not in arms:
            raise DataError(f"gate: arm '{name}' has no scores{suggest(name, arms)}")
    with staged(out) as folder:
        report = _decide(config, baseline, arms)
        write_json(folder / "gate.json", _as_json(report, config))
        (folder / "gate.md").write_text(markdown(report), encoding="utf-8")
        inputs = {"baseline": baseline, **{f"scores {name}": path for name, path in arms.items()}}
        write_provenance(folder, "gate", config=config.model_dump(mode="json"), inputs=inputs)
    return report


def markdown(report: GateReport) -> str:
    """The decision as a heading and a table of its checks."""
    verdict = "passed" if report.passed else "refused"
    lines = [
        f"# Gate: {report.candidate} {verdict}",
        "",
        f"Against {report.baseline}. Differences are paired, in points of percent.",
        "",
        "| check | result | measured | interval | threshold | why |",
        "|---|---|---:|---|---:|---|",
    ]
    for check in report.checks:
        interval = "" if check.low is None or check.high is None else f"{check.low:+.1f} to {check.high:+.1f}"
        result = "passed" if check.passed else "**refused**"
        cells = [check.name, result, f"{check.value:.1f}", interval, f"{check.threshold:.1f}", check.detail]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _decide(config: GateConfig, baseline: Path, arms: Mapping[str, Path]) -> GateReport:
    paired = partial(compare, confidence=config.confidence, resamples=config.resamples, seed=config.seed)
    comparisons = {name: paired(path, baseline) for name, path in arms.items()}
    candidate = arms[config.candidate]
    reasoning = _of_role(comparisons[config.candidate], "reasoning", candidate)
    perception = _of_role(comparisons[config.candidate], "perception", candidate)
    beats = {name: _of_role(paired(candidate, arms[name]), "reasoning", candidate) for name in config.beats}
    ours, theirs = read_scores(candidate), read_scores(baseline)
    checks = [
        _complete(ours, theirs),
        _gain(reasoning, config.min_reasoning_gain),
        _significant(reasoning, config.confidence),
        _retained(perception, config.max_perception_loss),
        *(_beats(name, difference) for name, difference in beats.items()),
    ]
    return GateReport(config.candidate, theirs.label, ours.model_sha256, checks, comparisons)


def _of_role(comparison: Comparison, role: Role, folder: Path) -> Difference:
    difference = comparison.role(role)
    if difference is None:
        raise DataError(f"{folder}: no benchmark of role '{role}'; the gate needs both roles")
    return difference


def _complete(ours: Scores, theirs: Scores) -> Check:
    failed, allowed = ours.count("failed"), theirs.count("failed")
    detail = f"{failed} questions could not be asked of the candidate, and {allowed} of the baseline."
    return Check("evaluated", failed <= allowed, float(failed), float(allowed), None, None, detail)


def _gain(reasoning: Difference, at_least: float) -> Check:
    passed = reasoning.points >= at_least - ROUNDING
    detail = (
        f"Reasoning {'rose' if reasoning.points >= 0 else 'fell'} by {abs(reasoning.points):.1f} points; "
        f"at least {at_least:.1f} are asked for."
    )
    return Check("reasoning_gain", passed, reasoning.points, at_least, reasoning.low, reasoning.high, detail)


def _significant(reasoning: Difference, confidence: float) -> Check:
    passed = reasoning.low > 0
    detail = (
        f"The {confidence:.0%} interval of the gain starts at {reasoning.low:+.1f} points, "
        f"{'above' if passed else 'not above'} 0 (McNemar p = {reasoning.p_value:.2g})."
    )
    return Check("reasoning_significant", passed, reasoning.low, 0.0, reasoning.low, reasoning.high, detail)


def _retained(perception: Difference, at_most: float) -> Check:
    loss = 0.0 - perception.points
    passed = loss <= at_most + ROUNDING
    detail = (
        f"Perception {'fell' if loss > 0 else 'rose'} by {abs(loss):.1f} points; "
        f"a loss of at most {at_most:.1f} is allowed."
    )
    return Check("perception_loss", passed, loss, at_most, -perception.high, -perception.low, detail)


def _beats(name: str, difference: Difference) -> Check:
    passed = difference.points > ROUNDING
    detail = f"Reasoning is {difference.points:+.1f} points from {name}'s; it must be above."
    return Check(f"beats_{name}", passed, difference.points, 0.0, difference.low, difference.high, detail)


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
        "comparisons": {name: comparison.to_json() for name, comparison in report.comparisons.items()},
    }
