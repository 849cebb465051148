"""What training starts from in a run: the registry's champion, fetched once for all arms, or nothing of it.

Apart from `drift.gate.champion`, so that changed code of the evaluation fetches nothing again and reruns no training.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from drift.ground.artifacts import START_MODEL, staged, write_json
from drift.tracking.models import registry

FILE = "start.json"


@dataclass(frozen=True)
class StartReport:
    """The champion that training starts from; None if it starts elsewhere."""

    champion: registry.Champion | None

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow: the version, 0 for none."""
        return {"start/version": float(self.champion.version if self.champion else 0)}


def fetch_start(*, champion: str, out: Path) -> StartReport:
    """Write into ``out`` which champion training starts from (`start.json`), and its model; null alone for ''.

    ``champion``: as `Resolved.outputs` has it. Raises ServiceError or DataError for a model that cannot be fetched.
    """
    known = registry.parse_champion(champion)
    with staged(out) as folder:
        write_json(folder / FILE, {"champion": asdict(known) if known else None})
        if known:
            with tempfile.TemporaryDirectory(dir=folder) as aside:
                registry.fetch(known, Path(aside)).rename(folder / START_MODEL)
    return StartReport(known)
