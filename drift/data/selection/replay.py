"""Questions about perception with direct answers, mixed into a training set so that perception is kept."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drift.config.data import CurateConfig, IngestConfig
from drift.config.section import validate
from drift.data.filters.decontamination import Held, find_held
from drift.data.filters.questions import lines_of
from drift.data.near import AT_ONCE, Table, read_table, same_question
from drift.data.problems.ingestion import Reading, read_problems
from drift.data.selection.writing import Spooled
from drift.data.tables import Row
from drift.ground.artifacts import read_provenance
from drift.ground.errors import DataError


@dataclass
class Barred:
    """What replay must not ask: what a chain asks too, in another format, and what is evaluated. It counts."""

    chains: set[str]
    """Ids of the training set's."""
    near: Table | None = None
    """Their questions, where near ones count too."""
    evaluated: Sequence[Table] = ()
    reasons: Counter[str] = field(default_factory=Counter)
    held: list[Held] = field(default_factory=list)

    def free(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows that may be asked, in their order."""
        remaining = iter(rows)
        while some := list(itertools.islice(remaining, AT_ONCE)):
            barred = self._of(some)
            self.reasons.update(barred.values())
            yield from (row for row in some if row["id"] not in barred)

    def _of(self, rows: list[Row]) -> dict[str, str]:
        """By id, why a row is barred."""
        barred = {row["id"]: "also_a_chain" for row in rows if row["id"] in self.chains}
        if self.near is None and not self.evaluated:
            return barred
        asked = read_table("replay", lines_of(row for row in rows if row["id"] not in barred))
        held = find_held(asked, self.evaluated)
        self.held += held.values()
        return barred | dict.fromkeys(self._near_chains(asked), "also_a_chain") | dict.fromkeys(held, "contaminated")

    def _near_chains(self, asked: Table) -> Iterator[str]:
        if self.near is None:
            return
        for place, near in enumerate(self.near.near.of(asked.hashes)):
            chains = [there for there in near.tolist() if self.near.keys[there] in self.chains]
            if any(same_question(asked.texts[place], self.near.texts[there]) for there in chains):
                yield asked.keys[place]


def draw_replay(
    config: CurateConfig, problems: Path, chains: int, barred: Barred, keep: Callable[[Row], Spooled]
) -> list[Spooled]:
    """As many problems of ``replay.source`` as make up its share beside ``chains`` rows, drawn with the seed.

    n = round(fraction / (1 − fraction) · chains). The rows are read as ``problems`` were ingested: same columns, same
    checks; ``keep`` takes each that may be drawn. Raises DataError if there are too few.
    """
    if config.replay is None:
        return []
    wanted = round(config.replay.fraction / (1 - config.replay.fraction) * chains)
    ingested = validate(IngestConfig, read_provenance(problems)["config"], where="ingest")
    read = read_problems(ingested.elsewhere(config.replay.source), Reading(), "curate.replay.source")
    drawn, usable = _draw(barred.free(read), wanted, config.seed, keep)
    if len(drawn) < wanted:
        left_out = ", ".join(f"{reason} {count}" for reason, count in sorted(barred.reasons.items()))
        rows = f"{usable + barred.reasons.total()}" + (f", some of them left out ({left_out})" if left_out else "")
        raise DataError(
            f"curate.replay.fraction: {config.replay.fraction:g} beside {chains} chains needs {wanted} replay rows, "
            f"but '{config.replay.source}' has {rows}; lower the fraction or give a larger source"
        )
    return drawn


def _draw(rows: Iterable[Row], wanted: int, seed: int, keep: Callable[[Row], Spooled]) -> tuple[list[Spooled], int]:
    """Reservoir sampling: ``wanted`` rows of equal chance, however many are read; and how many were."""
    generator = random.Random(f"replay-{seed}")
    reservoir: list[Spooled] = []
    usable = 0
    for usable, row in enumerate(rows, start=1):
        if len(reservoir) < wanted:
            reservoir.append(keep(row))
        elif (place := generator.randrange(usable)) < wanted:
            reservoir[place] = keep(row)
    return reservoir, usable
