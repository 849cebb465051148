"""How far a step is that does many like things: a bar on a terminal, lines of a log without one, numbers in MLflow."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Self

from tqdm.auto import tqdm

from drift.tracking.telling.live import Live

log = logging.getLogger(__name__)

LINE_SECONDS = 30.0
"""Between two lines of a log."""


class Progress:
    """Use as a context manager. `total` things, `done` of them before."""

    def __init__(self, what: str, total: int, *, done: int = 0, unit: str) -> None:
        self.bar = tqdm(total=total, initial=done, desc=what, unit=unit, leave=False, disable=None)
        self._what, self._unit, self._total = what, unit, total
        self._done, self._before, self._failed, self._tokens = done, done, 0, 0
        self._began = self._line = self._told = time.monotonic()
        self._live = Live()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        self._tell()
        self._live.flush()
        if self.bar.disable and self._done > self._before:
            self._say()

    def update(self, *, tokens: int | None = None, failed: bool = False) -> None:
        """One more is done, which gave so many tokens, or has failed."""
        self._failed += failed
        self._done += not failed
        self._tokens += tokens or 0
        if not failed:
            self.bar.update()
        now = time.monotonic()
        if now - self._told > 1.0:
            self._tell()
        if self.bar.disable and now - self._line > LINE_SECONDS:
            self._say()

    def _tell(self) -> None:
        self._told = time.monotonic()
        numbers = {"live/done": self._done, "live/failed": self._failed, "live/tokens_per_second": self._per_second()}
        self._live.tell(numbers, self._done)

    def _per_second(self) -> float:
        return self._tokens / max(time.monotonic() - self._began, 1e-3)

    def _say(self) -> None:
        self._line = time.monotonic()
        rate = (self._done - self._before) / max(self._line - self._began, 1e-3)
        log.info(
            "%s: %d of %d %ss, %d failed, %.0f tokens/s, %s left",
            self._what,
            self._done,
            self._total,
            self._unit,
            self._failed,
            self._per_second(),
            tqdm.format_interval((self._total - self._done) / rate) if rate else "?",
        )
