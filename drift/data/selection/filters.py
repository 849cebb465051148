r"""The funnel: stages that let generations through, or reject them with a stage and a reason.

A stage is a function from candidates to ``(kept, rejected)``, where each rejected candidate has its reason.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from drift.verdicts.extract import BOXED, CLOSE, OPEN, SPECIAL_TOKEN, boxes, final_answer, split_thinking
from drift.verdicts.verdict import Status

Trace = Literal["median", "shortest", "longest", "random"]


@dataclass(frozen=True)
class Candidate:
    """One generation: full text with its tags, final answer, verdict, and how often its problem was solved."""

    id: str
    sample: int
    text: str
    finish_reason: str | None
    tokens: int | None
    teacher: str | None
    status: Status
    pass_rate: float


Rejected = tuple[Candidate, str]
Split = tuple[list[Candidate], list[Rejected]]
Reason = Callable[[Candidate], str | None]


@dataclass
class Funnel:
    """What each stage let through, for `funnel.json`, and every rejected candidate, for `rejects.parquet`."""

    stages: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)

    def pass_through(self, stage: str, candidates: list[Candidate], split: Split) -> list[Candidate]:
        """Note the ``split`` of ``candidates`` under the name ``stage``; those kept."""
        kept, rejected = split
        self.note(stage, len(candidates), len(kept), Counter(reason for _, reason in rejected))
        self.rejects += [
            {"id": one.id, "sample": one.sample, "stage": stage, "reason": reason, "text": one.text}
            for one, reason in rejected
        ]
        return kept

    def note(self, stage: str, before: int, after: int, reasons: Counter[str] | None = None) -> None:
        """One more stage, with the rejected by reason."""
        self.stages.append(
            {"stage": stage, "in": before, "out": after, "reasons": dict(sorted((reasons or {}).items()))}
        )


def by_reason(candidates: Iterable[Candidate], reason: Reason) -> Split:
    """Keep the candidates for which ``reason`` finds none."""
    kept: list[Candidate] = []
    rejected: list[Rejected] = []
    for candidate in candidates:
        found = reason(candidate)
        if found is None:
            kept.append(candidate)
        else:
            rejected.append((candidate, found))
    return kept, rejected


def unfinished(candidate: Candidate) -> str | None:
    """`truncated` at the token limit, `empty`, or with a `special_token` that training would read as control."""
    if candidate.finish_reason == "length":
        return "truncated"
    if not candidate.text.strip():
        return "empty"
    return "special_token" if SPECIAL_TOKEN.search(candidate.text) else None


def malformed(candidate: Candidate) -> str | None:
    r"""Why a text is not exactly ``<think>reasoning</think> \boxed{answer}``; None if it is.

    Whitespace inside tags and braces, math signs around the box and a closing period do not matter.
    """
    text = candidate.text
    if len(OPEN.findall(text)) != 1 or len(CLOSE.findall(text)) != 1:
        return "think_tags"
    thinking, rest, closed = split_thinking(text)
    if not closed or not OPEN.match(text.strip()):
        return "think_order"
    if not thinking:
        return "empty_reasoning"
    found = boxes(rest)
    if len(BOXED.findall(rest)) != 1 or len(found) != 1 or not found[0][2]:
        return "boxed"
    around = rest[: found[0][0]] + rest[found[0][1] :]
    return "text_around_answer" if re.sub(r"[\s$.]|\\[()\[\]]", "", around) else None


def wrong(candidate: Candidate) -> str | None:
    """The verdict, unless it is `correct`."""
    return None if candidate.status == "correct" else candidate.status


def too_easy(max_pass_rate: float) -> Reason:
    """Problems that the teacher solves more often than ``max_pass_rate``."""
    return lambda candidate: "too_easy" if candidate.pass_rate > max_pass_rate else None


def one_per_problem(candidates: list[Candidate], trace: Trace, seed: int) -> Split:
    """One candidate of each problem, by the length of its text; of an even number, the shorter of the middle two."""
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[candidate.id].append(candidate)
    chosen = {id: _chosen(group, trace, seed).sample for id, group in groups.items()}
    return by_reason(candidates, lambda one: None if chosen[one.id] == one.sample else "other_trace")


def at_most(candidates: list[Candidate], keep: int | None, seed: int) -> Split:
    """At most ``keep`` candidates, drawn by a hash of seed and id: more problems do not reshuffle the others."""
    ranked = sorted(candidates, key=lambda one: seeded_rank(seed, "keep", one.id))
    drawn = {one.id for one in ranked[:keep]}
    return by_reason(candidates, lambda one: None if one.id in drawn else "over_keep")


def seeded_rank(seed: int, *parts: object) -> bytes:
    """A sort key that is random in its parts and fixed for a seed."""
    return hashlib.sha256("/".join(map(str, [seed, *parts])).encode()).digest()


def normalised(text: str) -> str:
    r"""``<think>\n...\n</think>\n\n\boxed{...}``: whitespace around the tags made equal, the rest untouched.

    A text that has not both parts is only stripped.
    """
    thinking, _, closed = split_thinking(text)
    answer = final_answer(text)
    if not thinking or not closed or answer is None:
        return text.strip()
    return f"<think>\n{thinking}\n</think>\n\n\\boxed{{{answer}}}"


def _chosen(group: list[Candidate], trace: Trace, seed: int) -> Candidate:
    if trace == "random":
        return min(group, key=lambda one: seeded_rank(seed, "trace", one.id, one.sample))
    ordered = sorted(group, key=lambda one: (len(one.text), one.sample))
    return ordered[{"shortest": 0, "median": (len(ordered) - 1) // 2, "longest": -1}[trace]]
