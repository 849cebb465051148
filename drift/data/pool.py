"""The pool of problems as it is now, hashed in every run: a changed file on a volume has the same name as before.

On a cluster the name is all that Kubeflow's cache would see of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from drift.config import IngestConfig
from drift.plan import local_inputs


@dataclass(frozen=True)
class PoolReport:
    """Hash of the pool's contents; '' for a dataset of the hub, which its revision identifies."""

    sha256: str

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow: whether it was hashed."""
        return {"pool/hashed": float(bool(self.sha256))}


def pool_contents(config: IngestConfig) -> PoolReport:
    """Hash what `ingest` will read. Raises ConfigError for a file or folder that does not exist where the step runs."""
    return PoolReport("".join(local_inputs("ingest.source", config.source).values()))
