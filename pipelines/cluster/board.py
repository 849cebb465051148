"""What was last said of every step by each source, and the events that follow from it: each change told once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipelines.cluster.states import Key, Seen
from pipelines.local.runner import StepEvent

ENDED = ("finished", "cached", "failed")

Told = Mapping[Key, Seen]
"""What one source says, by step and arm."""


@dataclass(frozen=True)
class StepEnd:
    """A step as it was last seen. `state`: started, finished, cached or failed."""

    step: str
    arm: str
    state: str
    seconds: float
    error: str = ""


class Board:
    """Events out of several sources, of which any may be behind, and a step may begin again."""

    def __init__(self, on_event: Callable[[StepEvent], None] | None) -> None:
        self._on_event = on_event or (lambda event: None)
        self._told: dict[str, dict[Key, Seen]] = {}
        self._shown: dict[Key, Seen] = {}

    def hear(self, sources: Mapping[str, Told]) -> None:
        """Tell what has changed; of sources named first the times and the cause are taken first."""
        news = {key: again for source, told in sources.items() for key, again in self._news(source, told).items()}
        for key in sorted(news, key=lambda key: self._begins(sources, key)):
            self._tell(key, [told[key] for told in sources.values() if key in told], again=news[key])
        for source, told in sources.items():
            self._told.setdefault(source, {}).update(told)

    def steps(self) -> tuple[StepEnd, ...]:
        """All steps as they were last seen, in the order in which they were."""
        return tuple(StepEnd(*key, seen.state, round(seen.seconds, 3), seen.error) for key, seen in self._shown.items())

    def failed(self) -> dict[Key, Seen]:
        """The steps that failed, the first to do so first."""
        failed = {key: seen for key, seen in self._shown.items() if seen.state == "failed"}
        return dict(sorted(failed.items(), key=lambda item: item[1].end.isoformat() if item[1].end else "~"))

    def _news(self, source: str, told: Told) -> dict[Key, bool]:
        """The steps of which the source says something new; True if one begins again that had ended."""
        before = self._told.get(source, {})
        return {
            key: key in before and before[key].state in ENDED and seen.state == "started"
            for key, seen in told.items()
            if key not in before or before[key].state != seen.state
        }

    def _tell(self, key: Key, said: list[Seen], *, again: bool) -> None:
        now = Seen("started") if again else _together(said)
        shown = self._shown.get(key)
        if shown and (shown.state == now.state or (shown.state in ENDED and not (again and now.state == "started"))):
            return
        self._shown.pop(key, None)
        self._shown[key] = now
        seconds = now.seconds if now.state in ENDED else 0.0
        self._on_event(StepEvent(*key, now.state, seconds, now.error))

    @staticmethod
    def _begins(sources: Mapping[str, Told], key: Key) -> str:
        starts = (told[key].start for told in sources.values() if key in told)
        return min((start.isoformat() for start in starts if start), default="~")


def _together(said: list[Seen]) -> Seen:
    """The furthest of what the sources say: failed before cached before finished before started."""
    for state in ("failed", "cached", "finished", "started"):
        same = [seen for seen in said if seen.state == state]
        if same:
            error = next((seen.error for seen in same if seen.error), "")
            return Seen(same[0].state, same[0].start, same[0].end, error, same[0].node)
    raise AssertionError("a step of which nothing is said is no news")
