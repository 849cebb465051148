"""Where a task stands in the loops of a run: of which arm, of which shard.

A task is known by its step and its place: "" outside loops, the arm's name (`drift`), the shard (`1/2`), or both
(`drift 1/2`). Kubeflow knows it by the numbers of its loops' iterations, the outermost first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

CHAIN = "chain"
"""In the parameter of `inputs` on a cluster, for MLflow: the whole configuration but `runs`, the submitter's folder.
That step is never cached anyway."""
PER_ARM = ("arm", "answer_arm", "evaluate_arm")
SHARDED: Mapping[str, str] = {"generate": "generate", "answer_vlm": "evaluate", "answer_arm": "evaluate"}
"""The section whose `shards` say how many tasks a step has."""
ASKS_FOR = {"answer_vlm": "evaluate_vlm", "answer_arm": "evaluate_arm"}
"""Steps that ask the questions of an evaluation, whose parameter they are given. With one shard it asks itself."""


@dataclass(frozen=True)
class Shards:
    """In how many steps the teacher works, and the questions to each model are asked. With 1 there is no loop."""

    generate: int = 1
    evaluate: int = 1

    def names(self, step: str) -> tuple[str, ...]:
        """Of a step's shards: `1/2` and `2/2`."""
        of = getattr(self, SHARDED[step])
        return tuple(f"{number}/{of}" for number in range(1, of + 1))


ONE = Shards()


@dataclass(frozen=True)
class Places:
    """The tasks of every step: by the names of the arms, and the numbers of shards."""

    arms: tuple[str, ...] = ()
    shards: Shards = ONE

    def every(self, step: str) -> list[str]:
        """The places of a step's tasks, in order; none if the step is left out."""
        sharded = step in SHARDED and len(self.shards.names(step)) > 1
        if not sharded and step in ASKS_FOR:
            return []
        if not sharded and step not in PER_ARM:
            return [""]
        return [place(*names) for names in product(*self._loops(step))]

    def of(self, step: str, iterations: Sequence[int]) -> str:
        """The place of a step's task; the number of an iteration where what it goes through is not known."""
        loops = [*self._loops(step), *([()] * len(iterations))][: len(iterations)]
        around = zip(loops, iterations, strict=True)
        return place(*(names[number] if number < len(names) else f"#{number + 1}" for names, number in around))

    def iterations(self, step: str, place: str) -> tuple[int, ...]:
        """The numbers of the iterations of a task; none of one that is not known."""
        sizes = [range(len(names)) for names in self._loops(step)]
        known = {self.of(step, numbers): numbers for numbers in product(*sizes)}
        return known.get(place, ()) if place else ()

    def _loops(self, step: str) -> list[tuple[str, ...]]:
        """What the loops around a step in a loop go through, the outermost first."""
        arms = [] if step in SHARDED and step not in PER_ARM else [self.arms]
        return [*arms, *([self.shards.names(step)] if step in SHARDED else [])]


def place(*names: str) -> str:
    """The place of a task by the names of what its loops go through: `drift 1/2`."""
    return " ".join(filter(None, names))
