"""The whole miniature in one directory: four models, pool, replay set, benchmarks and a card.

Takes about three minutes on two cores: the VLM and the expert both start from the base and train in parallel.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from drift.ground.artifacts import staged
from drift.ground.errors import ConfigError
from drift.planning.miniature import data
from drift.planning.miniature.pretrain import Recipe, train_base, train_expert, train_teacher, train_vlm

Scores = dict[str, float]
Stage = Callable[[Path, Recipe], Scores]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildReport:
    """What was built: files by name, seconds per stage, accuracies (percent) per model, size."""

    paths: dict[str, Path]
    seconds: dict[str, float]
    accuracies: dict[str, Scores]
    total_bytes: int

    def metrics(self) -> dict[str, float]:
        """Flat numbers: seconds per stage, percent right per model and question, size in bytes."""
        right = {f"{model}/{question}": value for model, s in self.accuracies.items() for question, value in s.items()}
        return {
            **{f"seconds/{stage}": value for stage, value in self.seconds.items()},
            **right,
            "bytes": self.total_bytes,
        }


def build(out: Path, seed: int, steps_scale: float = 1.0, progress: bool = True) -> BuildReport:
    """Train the family and write everything into the new directory ``out``, which appears only when complete.

    The same seed gives the same bytes on the same machine. ``steps_scale`` below 1 shortens all training for
    tests: the models are then useless. Raises ConfigError if ``out`` exists, DriftError if the expert does not learn.
    """
    out = Path(out)
    if out.exists():
        raise ConfigError(f"out: {out} exists; remove it or choose another directory")
    if steps_scale <= 0:
        raise ConfigError(f"steps_scale: {steps_scale} must be positive")
    recipe = Recipe(seed, steps_scale, progress, **({"questions": 8} if steps_scale < 1 else {}))
    with staged(out) as aside:
        accuracies, seconds = _train(aside, recipe)
        _write_card(aside, recipe, accuracies)
    logger.info("miniature of seed %d in %s: %s", seed, out, accuracies)
    paths = {path.stem: path for path in sorted([*out.iterdir(), *(out / "benchmarks").iterdir()])}
    return BuildReport(paths, seconds, accuracies, _size(out))


def _train(directory: Path, recipe: Recipe) -> tuple[dict[str, Scores], dict[str, float]]:
    """All stages in two worker processes: the data beside the base, then the VLM beside the expert."""
    accuracies: dict[str, Scores] = {}
    seconds: dict[str, float] = {}
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(2, mp_context=context, initializer=_start_worker) as pool:
        written = pool.submit(_write_data, directory, recipe.seed)
        for stages in ({"base": train_base}, {"expert": train_expert, "vlm": train_vlm}, {"teacher": train_teacher}):
            running = {name: pool.submit(_timed, stage, directory, recipe) for name, stage in stages.items()}
            for name, future in running.items():
                accuracies[name], seconds[name] = _result(future, pool)
                logger.info("%s: %.0f s, %s", name, seconds[name], accuracies[name])
        written.result()
    return accuracies, seconds


def _start_worker() -> None:
    import torch
    from transformers.utils import logging as transformers_logging

    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()


def _timed(stage: Stage, directory: Path, recipe: Recipe) -> tuple[Scores, float]:
    start = time.monotonic()
    scores = stage(directory, recipe)
    return scores, round(time.monotonic() - start, 1)


def _result(future: Future[tuple[Scores, float]], pool: ProcessPoolExecutor) -> tuple[Scores, float]:
    try:
        return future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _write_data(directory: Path, seed: int) -> None:
    data.write_pool(directory / "pool.parquet", random.Random(f"pool-{seed}"))
    data.write_replay(directory / "replay.parquet", random.Random(f"replay-{seed}"))
    data.write_benchmarks(directory / "benchmarks")


def _write_card(directory: Path, recipe: Recipe, accuracies: dict[str, Scores]) -> None:
    sizes = {path.name: _size(path) for path in sorted(directory.iterdir())}
    settings = {key: value for key, value in asdict(recipe).items() if key != "progress"}
    card = {"recipe": settings, "accuracies_percent": accuracies, "dirty_pool_rows": data.DIRT, "bytes": sizes}
    (directory / "card.json").write_text(json.dumps(card, indent=2) + "\n")


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
