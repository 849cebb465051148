"""Expressions decided on a Ray cluster: the costly part of curation, for pools that would take one machine for days.

The rest of it, a small part, stays in one process: the bytes are those of `drift curate` alone. A task
that its machine loses is done again by Ray elsewhere.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from drift.data.selection.verdicts import Deciding
from drift.data.tables import Row
from drift.ground.errors import ConfigError, ServiceError, cause
from drift.verdicts.expressions import Decision, Pair, decide

CHARACTERS_AT_ONCE = 1 << 28
"""Sixteen times what one machine judges at a time: so that many cores have expressions to decide."""
ANSWER_SECONDS = 10.0
PAIRS_PER_TASK = 128
"""At most: enough work to be worth the second or more in which the task's process imports math-verify."""


@contextlib.contextmanager
def on_ray(address: str, **settings: Any) -> Iterator[Deciding]:
    """Connect to the cluster at ``address``, or start one on this machine (`local`); leave it at the end.

    ``settings``: of `ray.init`. The machines need this package in the same version, none of the data. Raises
    ConfigError where Ray is not installed, ServiceError where no cluster answers or it gives up.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray.data
    except ImportError:
        raise ConfigError("--ray: Ray is not installed; pip install 'drift-mllm[ray]'") from None
    try:
        _require_answer(address)
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **settings)
    except (OSError, RuntimeError, ValueError) as error:
        raise ServiceError(f"--ray: no Ray cluster at {address} ({cause(error)}); start one, or give local") from error
    try:
        _be_quiet()
        yield Deciding(_decide_on_ray, CHARACTERS_AT_ONCE)
    except ray.exceptions.RayError as error:
        raise ServiceError(f"--ray: the cluster at {address} gave up ({cause(error)}); see its logs") from error
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raises OSError. Ray itself tries an address that does not answer for many minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()


def _be_quiet() -> None:
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _decide_on_ray(pairs: Iterable[Pair], timeout_seconds: float) -> dict[Pair, Decision]:
    """As `decide`, each task in one process on one core."""
    import ray.data

    rows = [asdict(pair) for pair in sorted(set(pairs), key=lambda pair: (pair.gold, pair.answer, pair.within or ""))]
    blocks = max(math.ceil(len(rows) / PAIRS_PER_TASK), int(ray.cluster_resources()["CPU"]))
    tasks = ray.data.from_items(rows, override_num_blocks=min(blocks, len(rows)))
    task = functools.partial(_task, timeout_seconds=timeout_seconds)
    decided = tasks.map_batches(task, batch_size=None, batch_format="pyarrow")
    return {_pair(row): row["decision"] for row in decided.take_all()}


def _task(rows: pa.Table, timeout_seconds: float) -> pa.Table:
    """``rows`` with a column more."""
    pairs = [_pair(row) for row in rows.to_pylist()]
    decided = decide(pairs, timeout_seconds, processes=1)
    return rows.append_column("decision", pa.array([decided[pair] for pair in pairs], pa.string()))


def _pair(row: Row) -> Pair:
    return Pair(row["gold"], row["answer"], row["within"])
