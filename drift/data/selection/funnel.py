"""The funnel: what each stage let through, and every rejected candidate with its stage and reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from drift.data.selection.candidates import Candidate
from drift.data.selection.capping import Split


@dataclass
class Funnel:
    """What each stage let through, for `funnel.json`, and every rejected candidate, for `rejects.parquet`."""

    stages: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)

    def pass_through(self, stage: str, candidates: list[Candidate], split: Split[Candidate]) -> list[Candidate]:
        """Note the ``split`` of ``candidates`` under the name ``stage``; those kept."""
        kept, rejected = split
        self.note(stage, len(candidates), len(kept), Counter(reason for _, reason in rejected))
        self.rejects += [
            {"id": one.id, "sample": one.sample, "stage": stage, "reason": reason, "text": one.text}
            for one, reason in rejected
        ]
        return kept

    def note(self, stage: str, before: int, after: int, reasons: Counter[str] | None = None) -> None:
        """One more stage, with the rejected by reason."""
        self.stages.append(
            {"stage": stage, "in": before, "out": after, "reasons": dict(sorted((reasons or {}).items()))}
        )
