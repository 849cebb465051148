"""How far a step is that asks many like things: beside the bar or the lines of a log, numbers in MLflow."""

from __future__ import annotations

import time
from types import TracebackType

from drift.ground.progress import Bar
from drift.tracking.telling.live import Live


class Progress(Bar):
    """Use as a context manager. `total` things, `done` of them before."""

    def __init__(self, what: str, total: int, *, done: int = 0, unit: str) -> None:
        super().__init__(what, total, done=done, unit=unit)
        self._failed, self._tokens, self._told = 0, 0, time.monotonic()
        self._live = Live()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell()
        self._live.flush()
        super().__exit__(kind, error, trace)

    def update(self, *, tokens: int | None = None, failed: bool = False) -> None:
        """One more is done, which gave so many tokens, or has failed."""
        self._failed += failed
        self._tokens += tokens or 0
        self.advance(0 if failed else 1)
        if time.monotonic() - self._told > 1.0:
            self._tell()

    def worth_a_line(self) -> bool:
        """Whatever it took: what failed is said."""
        return self._done > self._before

    def details(self) -> str:
        """How many have failed, and the speed that a model is known by."""
        return f", {self._failed} failed, {self._per_second():.0f} tokens/s"

    def _tell(self) -> None:
        self._told = time.monotonic()
        numbers = {"live/done": self._done, "live/failed": self._failed, "live/tokens_per_second": self._per_second()}
        self._live.tell(numbers, self._done)

    def _per_second(self) -> float:
        return self._tokens / max(time.monotonic() - self._began, 1e-3)
