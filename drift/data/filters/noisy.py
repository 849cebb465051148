"""The paper's Tab. 7: chains that failed its two filters, mixed into those that passed, to see what they are worth."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol, TypeVar

from drift.data.filters.capping import seeded_rank
from drift.ground.errors import DataError

NOISY = "noisy"
"""`kind` of their rows in a training set, and their line in the funnel."""
NOISY_STAGES = frozenset({"format", "correct"})
"""Who was left out by another filter is no training text at all."""


class Sample(Protocol):
    """What the draw has to know of a chain that was left out."""

    @property
    def id(self) -> str: ...

    @property
    def sample(self) -> int: ...


Failed = TypeVar("Failed", bound=Sample)


def noisy_chains(failed: Iterable[Failed], kept: Collection[str], wanted: int | None, seed: int) -> list[Failed]:
    """``wanted`` of the chains that ``failed`` at one of `NOISY_STAGES`: one of each problem that is not ``kept``.

    Drawn by a hash of seed and id; the order of ``failed`` does not matter, and no more than one per problem is held.
    Raises DataError if there are too few.
    """
    if wanted is None:
        return []
    of_problem: dict[str, Failed] = {}
    for one in (one for one in failed if one.id not in kept):
        of_problem[one.id] = min(of_problem.get(one.id, one), one, key=lambda each: _rank(seed, each))
    if len(of_problem) < wanted:
        raise DataError(
            f"curate.noisy: {wanted} chains that failed `format` or `correct` are wanted, of as many problems that are "
            f"not kept, but {len(of_problem)} have one; lower it, or curate.keep"
        )
    return sorted(of_problem.values(), key=lambda one: seeded_rank(seed, NOISY, one.id))[:wanted]


def _rank(seed: int, one: Sample) -> bytes:
    return seeded_rank(seed, NOISY, one.id, one.sample)
