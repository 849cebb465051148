"""Generations in, training set out: the paper's two filters, one chain per problem, and perception replay.

DRIFT (appendix E) keeps a chain if it is written as ``<think>...</think> \\boxed{answer}`` and the answer is the gold
answer. What the paper leaves open (samples per problem, which chain of several) is configured.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from drift.config.data import CurateConfig
from drift.data import tables
from drift.data.chains.generations import read_generations
from drift.data.chains.prompts import user_text
from drift.data.chains.shards import named
from drift.data.selection.filters import (
    Candidate,
    Funnel,
    at_most,
    by_reason,
    malformed,
    normalised,
    one_per_problem,
    seeded_rank,
    too_easy,
    unfinished,
    wrong,
)
from drift.data.selection.replay import replay_problems
from drift.data.tables import Row
from drift.ground.artifacts import staged, write_json, write_provenance
from drift.ground.errors import DataError
from drift.verdicts.verdict import Item, Verdict, final_answer, verify_many

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CurateReport:
    """Problems and generations seen, chains and replay rows in the training set, and the funnel between."""

    problems: int
    generations: int
    kept: int
    replay: int
    undetermined: int
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
            "data/curate_seconds": self.seconds,
        }


def curate(config: CurateConfig, problems: Path, generations: Path | Sequence[Path], out: Path) -> CurateReport:
    """Write the training set of the new folder ``out``: chains that pass the funnel, and replay; shuffled, seeded.

    ``generations``: the teacher's folder, or those of all shards.
    Raises DataError: generations of other problems, too many undetermined, fewer than ``min_kept`` chains, or too
    few replay rows.
    """
    started = time.monotonic()
    known = _known_problems(problems / tables.PROBLEMS_FILE)
    shards = [generations] if isinstance(generations, Path) else list(generations)
    candidates = _candidates(known, list(read_generations(*shards)), config)
    funnel = Funnel()
    with staged(out) as folder:
        chains = _select(config, candidates, funnel)
        _require_chains(config, chains, funnel)
        replay = replay_problems(config, problems, len(chains))
        funnel.note("replay", len(chains), len(chains) + len(replay))
        _write(folder, config, problems, chains, replay, funnel)
        inputs: dict[str, str | Path] = {"problems": problems}
        inputs |= named("generations", shards)
        if config.replay is not None:
            inputs["replay"] = config.replay.source
        write_provenance(folder, "curate", config=config.model_dump(mode="json"), inputs=inputs)
    report = CurateReport(
        problems=len(known),
        generations=len(candidates),
        kept=len(chains),
        replay=len(replay),
        undetermined=sum(one.status == "undetermined" for one in candidates),
        funnel=funnel.stages,
        pass_rates=_pass_rates(candidates),
        seconds=round(time.monotonic() - started, 3),
    )
    logger.info("%s: %d chains of %d generations, %d replay rows", out, report.kept, report.generations, report.replay)
    return report


def _known_problems(table: Path) -> dict[str, Row]:
    """All problems by id, without their images."""
    columns = ["id", "source", "problem", "gold", "choices"]
    known = {row["id"]: row for row in tables.read_rows(table, columns)}
    if not known:
        raise DataError(f"{table}: no problems; run `drift ingest` on a source that has some")
    return known


def _candidates(known: dict[str, Row], rows: list[Row], config: CurateConfig) -> list[Candidate]:
    """All generations with their verdicts, in the order of the problems. Raises DataError on a foreign one."""
    foreign = [row["id"] for row in rows if row["id"] not in known]
    if foreign:
        raise DataError(
            f"{len(foreign)} of {len(rows)} generations are of other problems (id '{foreign[0]}'); give the problems "
            "that they were generated from"
        )
    place = {id: position for position, id in enumerate(known)}
    rows = sorted(rows, key=lambda row: (place[row["id"]], row["sample"]))
    texts = [_full_text(row) for row in rows]
    verdicts = _verdicts(known, rows, texts, config)
    solved: dict[str, list[bool]] = defaultdict(list)
    for row, verdict in zip(rows, verdicts, strict=True):
        solved[row["id"]].append(verdict.status == "correct")
    return [
        Candidate(
            id=row["id"],
            sample=row["sample"],
            text=text,
            finish_reason=row.get("finish_reason"),
            tokens=(row.get("usage") or {}).get("completion_tokens"),
            teacher=row.get("model"),
            status=verdict.status,
            pass_rate=sum(solved[row["id"]]) / len(solved[row["id"]]),
        )
        for row, text, verdict in zip(rows, texts, verdicts, strict=True)
    ]


def _full_text(row: Row) -> str:
    """The text with its reasoning inside, also where a server parted the two."""
    return f"<think>\n{row['reasoning'].strip()}\n</think>\n\n{row['text']}" if row.get("reasoning") else row["text"]


def _verdicts(known: dict[str, Row], rows: list[Row], texts: list[str], config: CurateConfig) -> list[Verdict]:
    items = [
        Item(final_answer(text), known[row["id"]]["gold"], choices=known[row["id"]]["choices"])
        for row, text in zip(rows, texts, strict=True)
    ]
    verdicts = verify_many(items, config.verify_timeout_seconds)
    undetermined = [(row, one) for row, one in zip(rows, verdicts, strict=True) if one.status == "undetermined"]
    if len(undetermined) > config.max_undetermined * len(rows):
        row, verdict = undetermined[0]
        first = known[row["id"]]
        raise DataError(
            f"curate.max_undetermined: {len(undetermined)} of {len(rows)} answers could not be verified (first: "
            f"problem '{first['id']}', gold '{first['gold']:.60}', answer '{verdict.extracted:.60}', by "
            f"{verdict.method}), more than the share {config.max_undetermined:g}; raise it, or where the method is "
            "'time limit' curate.verify_timeout_seconds"
        )
    return verdicts


def _select(config: CurateConfig, candidates: list[Candidate], funnel: Funnel) -> list[Candidate]:
    """The stages in their order; each is noted in ``funnel``."""
    rest = funnel.pass_through("finish", candidates, by_reason(candidates, unfinished))
    if config.require_format:
        rest = funnel.pass_through("format", rest, by_reason(rest, malformed))
    if config.require_correct:
        rest = funnel.pass_through("correct", rest, by_reason(rest, wrong))
    rest = funnel.pass_through("pass_rate", rest, by_reason(rest, too_easy(config.max_pass_rate)))
    rest = funnel.pass_through("trace", rest, one_per_problem(rest, config.trace, config.seed))
    return funnel.pass_through("keep", rest, at_most(rest, config.keep, config.seed))


def _require_chains(config: CurateConfig, chains: list[Candidate], funnel: Funnel) -> None:
    if len(chains) < config.min_kept:
        passed = ", ".join(f"{stage['stage']} {stage['out']}" for stage in funnel.stages)
        raise DataError(
            f"curate.min_kept: {len(chains)} chains left, fewer than {config.min_kept} (of {funnel.stages[0]['in']} "
            f"generations passed: {passed}); see where they were lost, or lower curate.min_kept"
        )


def _write(
    folder: Path, config: CurateConfig, problems: Path, chains: list[Candidate], replay: list[Row], funnel: Funnel
) -> None:
    by_id = {chain.id: chain for chain in chains}
    columns = ["id", "source", "problem", "gold", "choices", "images"]
    sources = tqdm(tables.read_rows(problems / tables.PROBLEMS_FILE, columns), desc="curate", unit="problem")
    rows = [_chain_row(problem, by_id[problem["id"]], config) for problem in sources if problem["id"] in by_id]
    rows += [_replay_row(problem, config) for problem in replay]
    rows.sort(key=lambda row: seeded_rank(config.seed, "order", row["kind"], row["id"]))
    tables.write_rows(folder / tables.TRAIN_FILE, rows, tables.TRAINING_SET)
    tables.write_rows(folder / tables.REJECTS_FILE, funnel.rejects, tables.GENERATION_REJECTS)
    write_json(folder / tables.FUNNEL_FILE, funnel.stages)


def _chain_row(problem: Row, chain: Candidate, config: CurateConfig) -> Row:
    return _row(problem, "cot", normalised(chain.text), config) | {
        "pass_rate": chain.pass_rate,
        "n_tokens": chain.tokens,
        "teacher": chain.teacher,
    }


def _replay_row(problem: Row, config: CurateConfig) -> Row:
    return _row(problem, "direct", problem["gold"], config) | {"pass_rate": None, "n_tokens": None, "teacher": None}


def _row(problem: Row, kind: str, answer_text: str, config: CurateConfig) -> Row:
    question = user_text(config.prompt, problem)
    return {
        "id": problem["id"],
        "kind": kind,
        "images": problem["images"],
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer_text}],
        "answer": problem["gold"],
        "source": problem["source"],
    }


def _pass_rates(candidates: Iterable[Candidate]) -> dict[str, int]:
    """How many problems were solved how often: `{"0.5": 12, ...}`."""
    rates = {one.id: one.pass_rate for one in candidates}
    return {f"{rate:g}": count for rate, count in sorted(Counter(rates.values()).items())}
