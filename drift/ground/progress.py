"""How far a work is that takes a while: a bar on a terminal; elsewhere, such as in a log, a line now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)

LINE_SECONDS = 30.0
"""Between two lines of a log."""
LONG_SECONDS = 5.0
"""A work that took less needs no closing line."""

Item = TypeVar("Item")


class Bar:
    """Use as a context manager. `total` things (`unit` "B": bytes), `done` of them before; None: nobody knows."""

    def __init__(self, what: str, total: int | None, *, done: int = 0, unit: str) -> None:
        scaled: dict[str, Any] = {"unit_scale": True} if unit == "B" else {}
        self.bar = tqdm(total=total, initial=done, desc=what, unit=unit, leave=False, disable=None, **scaled)
        self._in_a_log = self.bar.disable  # a closed bar is disabled, too
        self._what, self._unit, self._total = what, unit, total
        self._done, self._before = done, done
        self._began = self._line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        if self._in_a_log and self.worth_a_line():
            self._say()

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self._done += count
        self.bar.update(count)
        if self._in_a_log and time.monotonic() - self._line > LINE_SECONDS:
            self._say()

    def worth_a_line(self) -> bool:
        """Whether a log tells of the end."""
        return time.monotonic() - self._began > LONG_SECONDS

    def details(self) -> str:
        """What a line says besides."""
        return ""

    def _say(self) -> None:
        self._line = time.monotonic()
        done, rate = self._done - self._before, (self._done - self._before) / max(self._line - self._began, 1e-3)
        known = self._total is not None and done > 1  # the first of a batch says nothing of the rest
        left = tqdm.format_interval(((self._total or 0) - self._done) / rate) if known else "?"
        total = "?" if self._total is None else self._amount(self._total)
        things = "" if self._unit == "B" else f" {self._unit}s"
        said = f"{self._amount(self._done)} of {total}{things}{self.details()}, {self._amount(rate)}/s, {left} left"
        log.info("%s: %s", self._what, said)

    def _amount(self, count: float) -> str:
        if self._unit == "B":
            return str(tqdm.format_sizeof(count, "B"))
        return f"{count:,.0f}" if count >= 10 else f"{count:.2g}"


def shown(items: Iterable[Item], what: str, total: int | None, *, unit: str) -> Iterator[Item]:
    """The items, counted as they are taken; the last counts once the one after it is asked for."""
    with Bar(what, total, unit=unit) as bar:
        for item in items:
            yield item
            bar.advance()
