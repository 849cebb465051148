"""Which of the chains that passed are kept: one of each problem, and at most so many, in equal shares if asked for."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol, TypeVar

from drift.config.data import Stratum
from drift.data.filters.candidates import Candidate

Trace = Literal["median", "shortest", "longest", "random"]
Cell = tuple[str, ...]


class Record(Protocol):
    """What the cap has to know of a chain, whole or its record."""

    @property
    def id(self) -> str: ...

    @property
    def source(self) -> str: ...

    @property
    def answer_kind(self) -> str: ...

    @property
    def pass_rate(self) -> float: ...


Chain = TypeVar("Chain", bound=Record)
Rejected = tuple[Chain, str]
Split = tuple[list[Chain], list[Rejected[Chain]]]


def by_reason(candidates: Iterable[Chain], reason: Callable[[Chain], str | None]) -> Split[Chain]:
    """Keep the candidates for which ``reason`` finds none."""
    kept: list[Chain] = []
    rejected: list[Rejected[Chain]] = []
    for candidate in candidates:
        found = reason(candidate)
        if found is None:
            kept.append(candidate)
        else:
            rejected.append((candidate, found))
    return kept, rejected


def one_per_problem(candidates: list[Candidate], trace: Trace, seed: int) -> Split[Candidate]:
    """One candidate of each problem, by the length of its text; of an even number, the shorter of the middle two."""
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[candidate.id].append(candidate)
    chosen = {id: _chosen(group, trace, seed).sample for id, group in groups.items()}
    return by_reason(candidates, lambda one: None if chosen[one.id] == one.sample else "other_trace")


def at_most(candidates: list[Chain], keep: int | None, seed: int, per: Sequence[Stratum] = ()) -> Split[Chain]:
    """At most ``keep`` candidates, one of each problem: `drawn`."""
    ids = drawn(candidates, keep, seed, per)
    return by_reason(candidates, lambda one: None if one.id in ids else "over_keep")


def drawn(records: Iterable[Record], keep: int | None, seed: int, per: Sequence[Stratum] = ()) -> set[str]:
    """Ids of at most ``keep`` of ``records``, drawn by a hash of seed and id; null keeps all.

    With ``per``, each combination of these has an equal share, as far as it lasts. Inside of one, and without ``per``,
    more problems do not reshuffle the others: who is drawn then was drawn before, if it was there.
    """
    strata: dict[Cell, list[str]] = defaultdict(list)
    for record in records:
        strata[tuple(_VALUES[name](record) for name in per)].append(record.id)
    sizes = {cell: len(ids) for cell, ids in strata.items()}
    shares = sizes if keep is None else equal_shares(sizes, keep, seed)
    return {
        id
        for cell, ids in strata.items()
        for id in sorted(ids, key=lambda id: seeded_rank(seed, "keep", id))[: shares[cell]]
    }


def equal_shares(sizes: Mapping[Cell, int], keep: int, seed: int) -> dict[Cell, int]:
    """How many of each stratum: the same number, or all of one that has fewer; ``keep`` in all, if there are so many.

    What does not divide goes to the largest strata, one each; of equally large ones a hash of seed and name decides.
    """
    left = min(keep, sum(sizes.values()))
    shares: dict[Cell, int] = {}
    smallest_first = sorted(sizes, key=lambda cell: (sizes[cell], seeded_rank(seed, "stratum", *cell)))
    for place, cell in enumerate(smallest_first):
        equal = left // (len(smallest_first) - place)
        shares[cell] = min(sizes[cell], equal)
        left -= shares[cell]
    return shares


def seeded_rank(seed: int, *parts: object) -> bytes:
    """A sort key that is random in its parts and fixed for a seed."""
    return hashlib.sha256("/".join(map(str, [seed, *parts])).encode()).digest()


_VALUES: Mapping[Stratum, Callable[[Record], str]] = {
    "source": lambda record: record.source,
    "kind": lambda record: record.answer_kind,
    "pass_rate": lambda record: f"{record.pass_rate:g}",
}


def _chosen(group: list[Candidate], trace: Trace, seed: int) -> Candidate:
    if trace == "random":
        return min(group, key=lambda one: seeded_rank(seed, "trace", one.id, one.sample))
    ordered = sorted(group, key=lambda one: (len(one.text), one.sample))
    return ordered[{"shortest": 0, "median": (len(ordered) - 1) // 2, "longest": -1}[trace]]
