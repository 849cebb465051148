"""The ledger of looks: every attempt at a registered model's name on the same questions, counted once.

Whoever looks often enough sees a gain that is none, so a gate must know how often somebody looked. A look is known by
the contents of the answers it compares, so that a step from the cache, a repeated or a resumed run counts no second
one. With MLflow it is a tag of the registered model, a key per look: two runs at once lose none, since neither writes
the other's. Without, it is a line at the end of `looks.jsonl` in the folder of runs.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from drift.ground.errors import DataError
from drift.tracking import store
from drift.tracking.models import registry

FILE = "looks.jsonl"
TAG = "drift.look"
SHORT = 24
"""Digits of a hash in a tag's name, which may have 250 characters."""


@dataclass(frozen=True)
class Look:
    """One attempt."""

    attempt: str
    """Hash of the answers compared."""
    data: str
    """Hash of the questions."""
    candidate: str
    model_sha256: str
    confidence: float
    """Of its test of a gain."""
    time: str = ""
    """Of the first writing, UTC."""
    passed: bool | None = None
    """None while nobody has decided."""


class Ledger(Protocol):
    """Where looks are kept."""

    @property
    def where(self) -> str:
        """For people."""

    def write(self, look: Look) -> None:
        """Keep a look, in place of the same attempt's."""

    def looks(self, data: str) -> list[Look]:
        """All looks at these questions, the first one first."""


def take_look(ledger: Ledger, look: Look) -> int:
    """Write the look down before anybody sees what it shows; its number among those at the same questions, from 1."""
    if look.attempt not in [known.attempt for known in ledger.looks(look.data)]:
        ledger.write(dataclasses.replace(look, time=datetime.now(UTC).isoformat()))
    return [known.attempt for known in ledger.looks(look.data)].index(look.attempt) + 1


def conclude(ledger: Ledger, look: Look, *, passed: bool) -> None:
    """Write down what came of a look that was taken."""
    (known,) = [one for one in ledger.looks(look.data) if one.attempt == look.attempt]
    ledger.write(dataclasses.replace(known, passed=passed))


@dataclass(frozen=True)
class RegistryLedger:
    """Tags of a registered model at MLFLOW_TRACKING_URI, `drift.look.<questions>.<answers>`. Its methods raise
    ServiceError if MLflow does not answer or refuses."""

    model: str

    @property
    def where(self) -> str:
        return f"registered model {self.model}"

    def write(self, look: Look) -> None:
        tag = f"{_prefix(look.data)}{look.attempt[:SHORT]}"
        registry.tag_model(self.model, tag, json.dumps(dataclasses.asdict(look), sort_keys=True))

    def looks(self, data: str) -> list[Look]:
        tags = registry.model_tags(self.model)
        return _in_order(
            _parse(f"{self.model}: tag {tag}", text) for tag, text in tags.items() if tag.startswith(_prefix(data))
        )


@dataclass(frozen=True)
class FileLedger:
    """Lines of a file, for a gate without MLflow. A line is appended whole; the last of an attempt counts."""

    path: Path
    model: str

    @property
    def where(self) -> str:
        return f"{self.model} in {self.path}"

    def write(self, look: Look) -> None:
        """Raises DataError if the file cannot be written."""
        line = json.dumps({"model": self.model, **dataclasses.asdict(look)}, sort_keys=True) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written ({error.strerror}); choose another --runs") from error

    def looks(self, data: str) -> list[Look]:
        """Raises DataError for a line that is no look."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        found = [_parse(f"{self.path}:{number}", line, self.model) for number, line in enumerate(lines, 1)]
        last = {look.attempt: look for look in found if look and look.data == data}
        return _in_order(last.values())


def open_ledger(model: str, runs: Path) -> Ledger:
    """The registry's at MLFLOW_TRACKING_URI or of the store in ``runs``; a file in ``runs`` where there is neither."""
    if not os.environ.get(store.URI) and (runs / "mlflow.db").is_file():
        store.use_store(runs)
    return RegistryLedger(model) if os.environ.get(store.URI) else FileLedger(runs / FILE, model)


def _prefix(data: str) -> str:
    return f"{TAG}.{data[:SHORT]}."


def _parse(where: str, text: str, model: str | None = None) -> Look | None:
    """A look; None for another model's."""
    try:
        content: dict[str, Any] = json.loads(text)
        named = content.pop("model", None)
        return Look(**content) if named == model else None
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: no look that a gate wrote ({error}); mend or remove it") from error


def _in_order(looks: Iterable[Look | None]) -> list[Look]:
    return sorted((look for look in looks if look), key=lambda look: (look.time, look.attempt))
