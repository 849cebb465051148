"""May the candidate be registered? Better at reasoning than the unmodified VLM, perception kept, no worse than any
champion; and does it take the champion's place?

Differences are paired, in points of percent (`statistics`); the rules are in `rules`. Every check is listed with what
was measured, the threshold and a sentence that says why it passed or not; the gate passes if all do. The
baseline is always the original φ_VL, so that a chain of retrainings cannot drift away in steps that are each allowed.
Every decision is a look at the same questions, which a ledger counts (`drift.tracking.models.ledger`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from drift.config.gate import GateConfig
from drift.config.section import suggest
from drift.evaluate import samples
from drift.evaluate.scores import Scores, read_scores
from drift.gate.answers import Replies, count_replies
from drift.gate.champion import ChampionScores
from drift.gate.comparison import compare
from drift.gate.operating import operating
from drift.gate.outcome import GateReport, measured
from drift.gate.rules import BEST, Check, against_baseline, against_champion, answered, beats, is_champion, looked
from drift.gate.sheet import markdown
from drift.gate.statistics import Comparison
from drift.gate.succession import succession
from drift.ground.artifacts import content_sha256, staged, write_json, write_provenance
from drift.ground.errors import DataError
from drift.tracking.models.ledger import Ledger, Look, conclude, take_look


def decide(
    config: GateConfig,
    *,
    baseline: Path,
    arms: Mapping[str, Path],
    out: Path,
    champions: ChampionScores = ChampionScores(),  # noqa: B008  # frozen
    ledger: Ledger | None = None,
) -> GateReport:
    """Decide on ``config.candidate`` from score folders, and write `gate.json` and `gate.md` into ``out``.

    The look is written into the ``ledger`` before it is taken; without one it is not counted. Raises DataError if an
    arm that the section names was not evaluated, if a role has no benchmark, or if the folders were measured
    differently; ServiceError if the ledger cannot be reached.
    """
    for name in (config.candidate, *config.beats):
        if name not in arms:
            raise DataError(f"gate: arm '{name}' has no scores{suggest(name, arms)}")
    with staged(out) as folder:
        report = _decide(config, baseline, arms, champions, ledger)
        write_json(folder / "gate.json", report.to_json(config))
        (folder / "gate.md").write_text(markdown(report), encoding="utf-8")
        inputs = {"baseline": baseline, **{f"scores {name}": path for name, path in arms.items()}}
        inputs |= {"champion": champions.reigning} if champions.reigning else {}
        inputs |= {"best champion": champions.best} if champions.best else {}
        write_provenance(folder, "gate", config=config.model_dump(mode="json"), inputs=inputs)
    return report


def _decide(
    config: GateConfig, baseline: Path, arms: Mapping[str, Path], champions: ChampionScores, ledger: Ledger | None
) -> GateReport:
    paired = partial(compare, confidence=config.confidence, resamples=config.resamples, seed=config.seed)
    candidate, scores = arms[config.candidate], read_scores(arms[config.candidate])
    comparisons = {name: paired(path, baseline) for name, path in arms.items()}
    against = comparisons[config.candidate]
    reigning, best = (paired(candidate, one) if one else None for one in (champions.reigning, champions.best))
    reigning_sha256 = read_scores(champions.reigning).model_sha256 if champions.reigning else None
    itself = reigning_sha256 == scores.model_sha256 != ""
    best_itself = champions.best is not None and read_scores(champions.best).model_sha256 == scores.model_sha256 != ""
    rules = [
        *answered(config, _replies(config, baseline, arms, champions)),
        *against_baseline(config, against),
        *_against(config, reigning, "champion", itself=itself),
        *_against(config, best, BEST, itself=best_itself),
        *(beats(name, paired(candidate, arms[name])) for name in config.beats),
    ]
    checks = _with_look(config, rules, ledger, _look(config, scores, candidate, baseline))
    return GateReport(
        candidate=config.candidate,
        baseline=against.baseline,
        model_sha256=scores.model_sha256,
        checks=checks,
        comparisons=comparisons,
        champion=reigning,
        best=best,
        champion_sha256=reigning_sha256,
        succession=succession(config, all(check.passed for check in checks), reigning, best, itself=itself),
        operating=operating(config, against),
        measured=measured([scores, *map(read_scores, filter(None, (baseline, champions.reigning)))]),
    )


def _replies(
    config: GateConfig, baseline: Path, arms: Mapping[str, Path], champions: ChampionScores
) -> dict[str, Replies]:
    """Of the candidate and of everybody that it is measured against."""
    sides = {
        config.candidate: arms[config.candidate],
        read_scores(baseline).label: baseline,
        "champion": champions.reigning,
        BEST: champions.best,
    }
    return {name: count_replies(path) for name, path in sides.items() if path is not None}


def _against(config: GateConfig, champion: Comparison | None, to: str, *, itself: bool) -> list[Check]:
    if champion is None:
        return []
    return [is_champion(config.candidate, to)] if itself else against_champion(config, champion, to)


def _look(config: GateConfig, scores: Scores, candidate: Path, baseline: Path) -> Look:
    """Known by the answers compared: the same ones again are the same look."""
    answers = [content_sha256(folder / samples.FILE) for folder in (candidate, baseline)]
    return Look(
        attempt=hashlib.sha256("\n".join(answers).encode()).hexdigest(),
        data=scores.data_fingerprint,
        candidate=config.candidate,
        model_sha256=scores.model_sha256,
        confidence=config.look_confidence,
    )


def _with_look(config: GateConfig, checks: list[Check], ledger: Ledger | None, look: Look) -> list[Check]:
    """The checks with the look's own; nobody has seen them before it is written down."""
    if ledger is None:
        return checks
    checks = [looked(config, take_look(ledger, look), ledger.where), *checks]
    conclude(ledger, look, passed=all(check.passed for check in checks))
    return checks
