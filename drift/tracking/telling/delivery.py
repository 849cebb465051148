"""A journal's way to MLflow: in order, each event until it is taken, and none in the way of another.

`events.position` in the journal's folder says how far it was told, and which events before that were refused. An event
can be told twice without harm, so after a crash the next relay goes on from there.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from drift.ground.artifacts import write_json
from drift.ground.errors import HeldError, PipelineError
from drift.ground.locks import Lock, hold
from drift.ground.patience import is_transient
from drift.tracking.limits import NUMBERS
from drift.tracking.store import first_line
from drift.tracking.telling.journal import JOURNAL, Event, read

log = logging.getLogger(__name__)

POSITION = "events.position"
LOCK = "events.lock"
POLL_SECONDS = 0.5
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
LAST_SECONDS = 20.0
"""For what may pass, once the run is over."""
GRACE_SECONDS = NUMBERS.seconds + 5.0
"""More than one request that hangs takes."""
NAMED, CHARACTERS = 3, 120
"""Of what is missing: so many events, and so much of what each was refused with."""


@dataclass
class Refused:
    """An event that was told in vain, `tries` times; whether that may pass, and when it is told again."""

    error: str
    tries: int
    passing: bool = True
    due: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Missing:
    """What of a journal MLflow does not have; false if that is nothing."""

    events: int
    total: int
    examples: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.events > 0

    def __str__(self) -> str:
        if not self:
            return "complete"
        more = self.events - len(self.examples)
        said = "; ".join([*self.examples, *([f"and {more} more"] if more > 0 else [])])
        return f"{self.events} of {self.total} events are missing ({said})"


class Relay(threading.Thread):
    """Passes the journal of `folder` on to `apply` until `finish`. Tracking that breaks never stops a step.

    An event that `apply` refuses is told again with growing waits, while those behind it go on. `answers` says whether
    anybody is there at all: if not, nothing is told until somebody is. Raises PipelineError if another process passes
    the same journal on.
    """

    def __init__(
        self, folder: Path, apply: Callable[[Event], None], answers: Callable[[], bool] = lambda: True
    ) -> None:
        super().__init__(name="journal-relay", daemon=True)
        self._folder, self._apply, self._answers = folder, apply, answers
        self._finishing = threading.Event()
        self._telling = threading.Lock()
        self._last = LAST_SECONDS
        self._away = 0.0
        self._resume_at = self._moved = 0.0
        self._why = ""
        self._tired: dict[str, str] = {}
        self._lock = _alone(folder)
        self._position, self._refused = _noted(folder)

    def run(self) -> None:
        """Tell what comes; at the end, again what may still pass."""
        while not self._finishing.wait(POLL_SECONDS):
            if time.monotonic() >= self._resume_at:
                self.deliver()
        deadline, wait = time.monotonic() + self._last, FIRST_WAIT_SECONDS
        while not self.deliver(everything=True) and self._may_pass() and time.monotonic() + wait < deadline:
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    def finish(self, seconds: float | None = None) -> Missing:
        """Tell what is left, and for `seconds` again what may pass; what could not be told stays in the journal.

        However much there is, it goes on while something arrives.
        """
        self._last = LAST_SECONDS if seconds is None else seconds
        self._finishing.set()
        if self.ident is None:
            self.start()
        self._moved = time.monotonic()
        while self.is_alive() and time.monotonic() - self._moved < self._last + GRACE_SECONDS:
            self.join(POLL_SECONDS)
        missing = self.missing()
        if not self.is_alive():
            self.close()
        return missing

    def close(self) -> None:
        """Let go of the journal."""
        self._lock.close()

    def deliver(self, *, everything: bool = False) -> bool:
        """Tell what there is, and what was refused and is due, or `everything`; False if something is left."""
        with self._telling:
            self._tired.clear()
            for start in self._due(everything):
                event, _ = next(read(self._folder, start))
                if not self._tell(event, start) and self._away:
                    return False
                self._note()
            for event, end in read(self._folder, self._position):
                if not self._tell(event, self._position) and self._away:
                    return False
                self._position = end
                self._note()
            return not self._refused

    def tell_once(self, event: Event) -> None:
        """Tell an event that the journal has no room for; a warning if it is not taken."""
        try:
            self._apply(event)
        except Exception as error:
            log.warning("MLflow does not take %s", _said(event, error))

    def missing(self) -> Missing:
        """What has not been told until now."""
        return _missing(self._folder, self._left())

    def untold(self) -> list[Event]:
        """The events themselves."""
        return [event for event, _ in self._left()]

    def _left(self) -> list[tuple[Event, str]]:
        return _left(self._folder, self._position, self._refused, self._why)

    def _due(self, everything: bool) -> list[int]:
        """Those tried least come first, so that one that never passes keeps nothing back."""
        now = time.monotonic()
        due = [start for start, one in self._refused.items() if everything or one.due <= now]
        return sorted(due, key=lambda start: (self._refused[start].tries, start))

    def _tell(self, event: Event, start: int) -> bool:
        """Tell one event; False if it was not taken, and stays among the refused unless nobody answers."""
        if event["event"] in self._tired:  # else each of its kind would wait as long
            self._keep(start, self._tired[event["event"]], passing=True, tried=0)
            return False
        try:
            self._apply(event)
        except Exception as error:  # a broken tracking server has many faces, and none may stop the run
            self._fail(event, start, error)
            return False
        if self._away:
            log.warning("MLflow answers again")
        self._away, self._why, self._moved = 0.0, "", time.monotonic()
        self._refused.pop(start, None)
        return True

    def _fail(self, event: Event, start: int, error: Exception) -> None:
        said = _said(event, error)
        if not self._answers():
            if not self._away:
                log.warning(
                    "MLflow does not take %s, nor anything else; all is kept in %s", said, self._folder / JOURNAL
                )
            self._why = first_line(error)
            self._away = min(2 * self._away or FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)
            self._resume_at = time.monotonic() + self._away
            return
        self._away = 0.0
        if start not in self._refused:
            log.warning("MLflow does not take %s; it is kept in %s", said, self._folder / JOURNAL)
        passing = is_transient(error)
        if passing:
            self._tired[event["event"]] = first_line(error)
        self._keep(start, first_line(error), passing=passing, tried=1)

    def _keep(self, start: int, error: str, *, passing: bool, tried: int) -> None:
        tries = self._refused[start].tries + tried if start in self._refused else tried
        wait = min(FIRST_WAIT_SECONDS * 2**tries, LONGEST_WAIT_SECONDS)
        self._refused[start] = Refused(error, tries, passing, time.monotonic() + wait)

    def _may_pass(self) -> bool:
        return bool(self._away) or any(one.passing for one in self._refused.values())

    def _note(self) -> None:
        left = {
            str(start): {k: v for k, v in asdict(one).items() if k != "due"} for start, one in self._refused.items()
        }
        try:
            write_json(self._folder / POSITION, {"position": self._position, "refused": left})
        except OSError as error:  # a full disk: whoever comes next tells some again, which does no harm
            log.debug("%s: %s", self._folder / POSITION, error)


def _said(event: Event, error: Exception) -> str:
    return f"'{event['event']}' of {event['key']}: {first_line(error)}"


def missing_of(folder: Path) -> Missing:
    """What MLflow does not have of the journal in `folder`, whoever told it last."""
    return _missing(folder, _left(folder, *_noted(folder)))


def _missing(folder: Path, left: list[tuple[Event, str]]) -> Missing:
    said = tuple(f"{event['event']} of {event['key']}: {error[:CHARACTERS]}" for event, error in left[:NAMED])
    return Missing(len(left), sum(1 for _ in read(folder)), said)


def _left(folder: Path, position: int, refused: dict[int, Refused], why: str = "") -> list[tuple[Event, str]]:
    """What was not taken, and why."""
    told = [(next(read(folder, start))[0], one.error) for start, one in sorted(refused.items())]
    return told + [(event, why or "not told yet") for event, _ in read(folder, position)]


def _noted(folder: Path) -> tuple[int, dict[int, Refused]]:
    """How far the journal was told, and what was refused; an earlier release noted the position alone."""
    note = folder / POSITION
    said = json.loads(note.read_text(encoding="utf-8")) if note.exists() else 0
    if isinstance(said, int):
        return said, {}
    return said["position"], {int(start): Refused(**one) for start, one in said["refused"].items()}


def _alone(folder: Path) -> Lock:
    """Hold the journal."""
    try:
        return hold(folder / LOCK)
    except HeldError as error:
        raise PipelineError(f"{folder}: {error.holder} tells MLflow of it; wait for that") from error
