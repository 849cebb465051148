r"""Whether an answer is right: one comparison, by the kind of the gold answer, strictest reading first.

kind      choice · number (with its unit) · time (or date) · ratio · list · interval · text · expression
status    correct · incorrect · unparsed (no usable answer) · undetermined (nobody can say by rule)
method    how it was decided, such as `number`, `unit`, `math-verify`, `time limit`

Words are compared only where neither side reads as anything stricter. What needs math-verify is collected and decided
in processes (see `expressions`); then the comparison is read again with those decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drift.verdicts.answers import read_reply
from drift.verdicts.comparison import Comparison, Kind, Status, answer_kind
from drift.verdicts.expressions import Decide, Decision, Pair, decide
from drift.verdicts.extract import final_answer, split_thinking
from drift.verdicts.plain import MAX_ANSWER_CHARACTERS

__all__ = [
    "MAX_ANSWER_CHARACTERS", "Item", "Kind", "Status", "Verdict", "answer_kind", "equal", "final_answer",
    "split_thinking", "verify", "verify_many",
]  # fmt: skip

TIMEOUT_SECONDS = 10.0
_ROUNDS = 3


@dataclass(frozen=True)
class Item:
    """One comparison: an extracted answer (None if there was none) with a gold answer, of a kind or of its own."""

    answer: str | None
    gold: str
    kind: Kind | None = None
    choices: Sequence[str] | None = None
    places: int | None = None
    """Decimals that the gold's own table rounds both sides to; None: only what the gold itself says."""


@dataclass(frozen=True)
class Verdict:
    """What became of an answer: ``extracted`` is the answer that was judged, ``method`` how."""

    status: Status
    extracted: str | None
    method: str


def verify(
    gold: str,
    response: str,
    *,
    choices: Sequence[str] | None = None,
    kind: Kind | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Verdict:
    """Whether ``response``, a whole reply or a bare answer, answers what ``gold`` says. An expression starts a process:
    use `verify_many` for many.
    """
    answer = read_reply(response, gold, choices or ()).answer
    return verify_many([Item(answer, gold, kind, choices)], timeout_seconds)[0]


def equal(
    answer: str | None,
    gold: str,
    kind: Kind | None = None,
    choices: Sequence[str] | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Status:
    """Whether one ``answer`` equals ``gold``."""
    return verify_many([Item(answer, gold, kind, choices)], timeout_seconds)[0].status


def verify_many(
    items: Sequence[Item], timeout_seconds: float = TIMEOUT_SECONDS, decide: Decide = decide
) -> list[Verdict]:
    """A verdict per item, in order. Expressions go to processes that end after ``timeout_seconds`` of a core.

    What ran into the limit is tried once more at the end, and is `undetermined` if it does so again. All else is
    compared here, without any process. ``decide`` may have the processes on other machines.
    """
    decided: dict[Pair, Decision] = {}
    verdicts: dict[int, Verdict] = {}
    for last in [False] * _ROUNDS + [True]:
        wanted: set[Pair] = set()
        for place, item in enumerate(items):
            if place not in verdicts:
                comparison = Comparison(decided, item.places)
                verdict = _verdict(item, comparison)
                if not comparison.wanted or last:
                    verdicts[place] = verdict
                wanted |= comparison.wanted
        if not wanted:
            break
        decided |= decide(wanted, timeout_seconds)
    return [verdicts[place] for place in range(len(items))]


def _verdict(item: Item, comparison: Comparison) -> Verdict:
    answer = item.answer
    if answer is None or not answer.strip() or len(answer) > MAX_ANSWER_CHARACTERS:
        return Verdict("unparsed", answer, "too long" if answer and answer.strip() else "no answer")
    status, method = comparison.of(item.gold, answer, item.kind, item.choices or ())
    return Verdict(status, answer, method)
