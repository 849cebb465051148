"""Questions about perception with direct answers, mixed into a training set so that perception is kept."""

from __future__ import annotations

import random
from pathlib import Path

from drift.config.data import CurateConfig, IngestConfig
from drift.config.section import validate
from drift.data.problems.ingestion import Reading, read_problems
from drift.data.tables import Row
from drift.ground.artifacts import read_provenance
from drift.ground.errors import DataError


def replay_problems(config: CurateConfig, problems: Path, chains: int) -> list[Row]:
    """As many problems of ``replay.source`` as make up its share beside ``chains`` rows, drawn with the seed.

    n = round(fraction / (1 − fraction) · chains). The rows are read as ``problems`` were ingested: same columns, same
    checks. Raises DataError if there are too few.
    """
    if config.replay is None:
        return []
    wanted = round(config.replay.fraction / (1 - config.replay.fraction) * chains)
    ingested = validate(IngestConfig, read_provenance(problems)["config"], where="ingest")
    drawn, usable = _draw(ingested.elsewhere(config.replay.source), wanted, config.seed)
    if len(drawn) < wanted:
        raise DataError(
            f"curate.replay.fraction: {config.replay.fraction:g} beside {chains} chains needs {wanted} replay rows, "
            f"but '{config.replay.source}' has {usable}; lower the fraction or give a larger source"
        )
    return drawn


def _draw(config: IngestConfig, wanted: int, seed: int) -> tuple[list[Row], int]:
    """Reservoir sampling: ``wanted`` rows of equal chance in memory, however many are read; and how many were."""
    generator = random.Random(f"replay-{seed}")
    reservoir: list[Row] = []
    usable = 0
    for usable, row in enumerate(read_problems(config, Reading(), "curate.replay.source"), start=1):
        if len(reservoir) < wanted:
            reservoir.append(row)
        elif (place := generator.randrange(usable)) < wanted:
            reservoir[place] = row
    return reservoir, usable
