r"""What is asked of one chain, and of the chains of one problem.

Of one: a function from a candidate to the reason why it is left out, or None. Of several: a function from candidates
to ``(kept, rejected)``, where each rejected one has its reason.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Literal, Protocol, TypeVar

from drift.config.data import CurateConfig
from drift.data.selection.candidates import Candidate, Reason
from drift.verdicts.extract import BOXED, CLOSE, OPEN, SPECIAL_TOKEN, boxes, final_answer, split_thinking

Trace = Literal["median", "shortest", "longest", "random"]


class HasId(Protocol):
    """A chain, whole or its record."""

    @property
    def id(self) -> str:
        """Of its problem."""
        ...


One = TypeVar("One", bound=HasId)


Rejected = tuple[One, str]
Split = tuple[list[One], list[Rejected[One]]]


def chain_filters(config: CurateConfig) -> list[tuple[str, Reason]]:
    """The stages that look at one chain alone, in their order: a name, and why a chain is left out there."""
    stages: list[tuple[str, Reason]] = [("finish", unfinished)]
    if config.require_format:
        stages.append(("format", malformed))
    if config.require_correct:
        stages.append(("correct", wrong))
    return [*stages, ("pass_rate", too_easy(config.max_pass_rate))]


def by_reason(candidates: Iterable[One], reason: Callable[[One], str | None]) -> Split[One]:
    """Keep the candidates for which ``reason`` finds none."""
    kept: list[One] = []
    rejected: list[Rejected[One]] = []
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


def one_per_problem(candidates: list[Candidate], trace: Trace, seed: int) -> Split[Candidate]:
    """One candidate of each problem, by the length of its text; of an even number, the shorter of the middle two."""
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[candidate.id].append(candidate)
    chosen = {id: _chosen(group, trace, seed).sample for id, group in groups.items()}
    return by_reason(candidates, lambda one: None if chosen[one.id] == one.sample else "other_trace")


def at_most(candidates: list[One], keep: int | None, seed: int) -> Split[One]:
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
