"""Generations in, training set out: chains that pass every filter, one per problem, and perception replay.

DRIFT (appendix E) keeps a chain if it is written as ``<think>...</think> \\boxed{answer}`` and the answer is the gold
answer. What the paper leaves open (samples per problem, which chain of several) is configured.

The order, which is that of `funnel.json`: each chain alone (`filters.chain_filters`); one chain of a problem; all
chains together (`_across`); replay. Texts and images stay on disk (`pool`, `writing`): in memory are a few thousand
problems at a time, and of each chain that is left a record.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from drift.config.data import CurateConfig
from drift.data import tables
from drift.data.chains.shards import named
from drift.data.exports.card import write_card
from drift.data.filters.candidates import Chain
from drift.data.filters.capping import drawn
from drift.data.filters.decontamination import Held, find_held, held_by_reason, read_evaluated, require_tables
from drift.data.filters.duplicates import Twin, find_twins, repeated
from drift.data.filters.noisy import NOISY, NOISY_STAGES, noisy_chains
from drift.data.filters.questions import questions_of
from drift.data.filters.single import chain_filters
from drift.data.near import Table
from drift.data.pool import Pool
from drift.data.selection.funnel import Funnel, noted
from drift.data.selection.replay import Barred, draw_replay
from drift.data.selection.screening import Screened, screen
from drift.data.selection.verdicts import HERE, Deciding
from drift.data.selection.writing import ROW_COLUMNS, Spool, chain_row, replay_row, write_rejects, write_training_set
from drift.ground.artifacts import staged, write_json, write_provenance
from drift.ground.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CurateReport:
    """Problems and generations seen, chains and replay rows in the training set, and the funnel between."""

    problems: int
    generations: int
    kept: int
    replay: int
    undetermined: int
    contradicting: int
    """Pairs of problems that ask the same of one picture and have other answers; 0 without `near_duplicates`."""
    funnel: list[dict[str, Any]]
    pass_rates: dict[str, int]
    seconds: float

    def metrics(self) -> dict[str, float]:
        """Numbers for the tracker."""
        counts = {f"data/funnel/{stage['stage']}": stage["out"] for stage in self.funnel}
        for stage in self.funnel:
            counts |= {f"data/rejected/{stage['stage']}/{reason}": n for reason, n in stage["reasons"].items()}
        counts |= {"data/generations": self.generations, "data/kept": self.kept, "data/replay": self.replay}
        solved = sum(float(rate) * count for rate, count in self.pass_rates.items())
        return {name: float(count) for name, count in counts.items()} | {
            "data/yield": self.kept / self.problems,
            "data/pass_rate": solved / max(1, sum(self.pass_rates.values())),
            "data/undetermined": self.undetermined / max(1, self.generations),
            "data/contradicting": float(self.contradicting),
            "data/curate_seconds": self.seconds,
        }


def curate(
    config: CurateConfig,
    problems: Path,
    generations: Path | Sequence[Path],
    out: Path,
    deciding: Deciding = HERE,
) -> CurateReport:
    """Write the training set of the new folder ``out``: chains that pass the funnel, and replay; shuffled, seeded.

    ``generations``: a folder, or several that hold them together; the same ones give the same bytes, wherever
    ``deciding`` has expressions decided. Raises DataError:
    generations of other problems or twice there, too many undetermined, fewer than ``min_kept`` chains, or too few
    replay rows; ConfigError where a table of ``against`` is missing.
    """
    started = time.monotonic()
    folders = [generations] if isinstance(generations, Path) else list(generations)
    require_tables(config)
    with contextlib.closing(Pool(problems, folders)) as pool, staged(out) as folder:
        funnel = Funnel(len(pool))
        screened = screen(config, chain_filters(config), pool, funnel, deciding)
        found = _compared(config, pool, screened.chains)
        chains = _across(config, found, screened.chains, funnel)
        stages = funnel.stages()
        _require_chains(config, chains, stages, folders[0])
        noisy = _noisy(config, pool, screened, chains, funnel)
        taught = len(chains) + len(noisy)
        replay, barred = _write(folder, config, pool, problems, {"cot": chains, NOISY: noisy}, found)
        write_rejects(folder / tables.REJECTS_FILE, pool, funnel)
        stages += [noted(NOISY, len(chains), taught, {})] if noisy else []
        stages.append(noted("replay", taught, taught + replay, barred.reasons))
        write_json(folder / tables.FUNNEL_FILE, stages)
        _write_found(folder, config, found, barred)
        write_provenance(
            folder, "curate", config=config.model_dump(mode="json"), inputs=_inputs(config, problems, folders)
        )
        write_card(folder, problems, *folders)
    report = CurateReport(
        problems=len(pool.places),
        generations=len(pool),
        kept=len(chains),
        replay=replay,
        undetermined=screened.undetermined,
        contradicting=sum(twin.contradicts for twin in found.twins),
        funnel=stages,
        pass_rates=_by_rate(screened.pass_rates),
        seconds=round(time.monotonic() - started, 3),
    )
    logger.info("%s: %d chains of %d generations, %d replay rows", out, report.kept, report.generations, report.replay)
    return report


@dataclass(frozen=True)
class _Compared:
    """What was found by comparing the chains' questions with each other and with what is evaluated."""

    evaluated: list[Table] = field(default_factory=list)
    questions: Table | None = None
    """The chains'; None where nothing was to be compared with them."""
    held: dict[str, Held] = field(default_factory=dict)
    twins: list[Twin] = field(default_factory=list)


def _compared(config: CurateConfig, pool: Pool, chains: list[Chain]) -> _Compared:
    if not config.against and not config.near_duplicates:
        return _Compared()
    evaluated = read_evaluated(config)
    asked = questions_of(pool, chains)
    twins = find_twins(asked, config.verify_timeout_seconds) if config.near_duplicates else []
    return _Compared(evaluated, asked.table, find_held(asked.table, evaluated), twins)


def _across(config: CurateConfig, found: _Compared, chains: list[Chain], funnel: Funnel) -> list[Chain]:
    """The stages that look at all chains together, in their order."""
    stages: list[tuple[str, Callable[[list[Chain]], Mapping[int, str]]]] = []
    if config.against:
        stages.append(("contaminated", lambda left: held_by_reason(found.held, left)))
    if config.near_duplicates:
        stages.append(("near_duplicate", lambda left: repeated(found.twins, left, config.seed)))
    stages.append(("keep", lambda left: _over(config, left)))
    for stage, rejected in stages:
        funnel.open(stage)
        reasons = rejected(chains)
        for number, reason in reasons.items():
            funnel.reject(number, stage, reason)
        chains = [chain for chain in chains if chain.number not in reasons]
    return chains


def _over(config: CurateConfig, chains: list[Chain]) -> dict[int, str]:
    kept = drawn(chains, config.keep, config.seed, config.keep_per)
    return {chain.number: "over_keep" for chain in chains if chain.id not in kept}


@dataclass(frozen=True, slots=True)
class _Failed:
    """A generation that a filter left out."""

    number: int
    id: str
    sample: int


def _noisy(config: CurateConfig, pool: Pool, screened: Screened, chains: list[Chain], funnel: Funnel) -> list[Chain]:
    """The chains of the paper's Tab. 7, which are in the training set although they were left out."""
    if config.noisy is None:
        return []
    failed = (number for number, (stage, _) in funnel.rejected() if stage in NOISY_STAGES)
    rows = ((number, pool.generation(number)) for number in failed)
    samples = (_Failed(number, row["id"], row["sample"]) for number, row in rows)
    chosen = noisy_chains(samples, {chain.id for chain in chains}, config.noisy, config.seed)
    return [Chain(one.number, one.id, "", "", screened.pass_rates[pool.places[one.id]]) for one in chosen]


def _require_chains(config: CurateConfig, chains: list[Chain], stages: list[dict[str, Any]], generations: Path) -> None:
    if len(chains) < config.min_kept:
        passed = ", ".join(f"{stage['stage']} {stage['out']}" for stage in stages)
        raise DataError(
            f"curate.min_kept: {len(chains)} chains left, fewer than {config.min_kept} (of {stages[0]['in']} "
            f"generations passed: {passed}); `drift data show {generations}` has their texts; or lower curate.min_kept"
        )


def _write(
    folder: Path, config: CurateConfig, pool: Pool, problems: Path, chains: dict[str, list[Chain]], found: _Compared
) -> tuple[int, Barred]:
    """The training set; the number of its replay rows, and what replay was not to ask. ``chains``: by their kind."""
    by_id = {chain.id: (kind, chain) for kind, those in chains.items() for chain in those}
    barred = Barred(set(by_id), found.questions if config.near_duplicates else None, found.evaluated)
    with Spool(folder) as spool:
        rows = []
        for problem in pool.problems(ROW_COLUMNS):
            if problem["id"] in by_id:
                kind, chain = by_id[problem["id"]]
                row = chain_row(problem, pool.generation(chain.number), chain.pass_rate, config, kind)
                rows.append(spool.add(row))
        replay = draw_replay(config, problems, len(by_id), barred, lambda row: spool.add(replay_row(row, config)))
        write_training_set(folder / tables.TRAIN_FILE, spool, rows + replay, config.seed)
    return len(replay), barred


def _write_found(folder: Path, config: CurateConfig, found: _Compared, barred: Barred) -> None:
    """What people will want to look at."""
    if config.near_duplicates:
        write_json(folder / tables.DUPLICATES_FILE, [asdict(twin) for twin in found.twins])
    if config.against:
        write_json(folder / tables.CONTAMINATED_FILE, [asdict(one) for one in (*found.held.values(), *barred.held)])


def _inputs(config: CurateConfig, problems: Path, folders: list[Path]) -> dict[str, str | Path]:
    inputs: dict[str, str | Path] = {"problems": problems, **named("generations", folders)}
    inputs |= {f"against {path}": Path(path) for path in config.against}
    return inputs if config.replay is None else inputs | {"replay": config.replay.source}


def _by_rate(pass_rates: Iterable[float]) -> dict[str, int]:
    """How many problems were solved how often: `{"0.5": 12, ...}`."""
    counts = Counter(rate for rate in pass_rates if not math.isnan(rate))
    return {f"{rate:g}": count for rate, count in sorted(counts.items())}
