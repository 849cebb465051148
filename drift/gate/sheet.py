"""`gate.md`: the decision for people."""

from __future__ import annotations

from drift.evaluate.scores import ROLES
from drift.gate.operating import DRAWS
from drift.gate.outcome import GateReport
from drift.gate.rules import Check
from drift.gate.statistics import POWER, Comparison

NO_CHAMPION = "There is no champion to compare with; that rule is left out."
READS = ("boxed", "declared", "bare", "none")


def markdown(report: GateReport) -> str:
    """The decision as a heading, a table of its checks, how the answers were read, and what the gate can see."""
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
        f"Alias champion: {report.succession.alias}",
        "",
        *_reads(report.comparisons[report.candidate]),
        "",
        *_operating(report),
    ]
    return "\n".join(lines) + "\n"


def _row(check: Check) -> str:
    interval = "" if check.low is None or check.high is None else f"{check.low:+.1f} to {check.high:+.1f}"
    result = "passed" if check.passed else "**refused**"
    cells = [check.name, result, f"{check.value:.1f}", interval, f"{check.threshold:.1f}", check.detail]
    return f"| {' | '.join(cells)} |"


def _reads(comparison: Comparison) -> list[str]:
    """How many replies of each side were read in which way."""
    seen = {read for roles in comparison.reads.values() for reads in roles.values() for read in reads}
    heads = [read for read in READS if read in seen] + sorted(seen - set(READS))
    names = {"candidate": comparison.candidate, "baseline": comparison.baseline}
    rows = [
        [f"{names[side]}, {role}", *(str(comparison.reads[side][role].get(read, 0)) for read in heads)]
        for role in ROLES
        for side in names
    ]
    lines = [["how answers were read", *heads], ["---", *["---:"] * len(heads)], *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _operating(report: GateReport) -> list[str]:
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
        f"| samples of each question that it asks for | {seen.samples or 'more questions instead'} |",
        "",
        f"Probabilities of passing the rules against {report.baseline} at one look, by the normal approximation with "
        f"the clusters' covariance at the disagreement seen here ({DRAWS} joint draws). Detectable: found with "
        f"probability {POWER:.0%}.",
    ]
