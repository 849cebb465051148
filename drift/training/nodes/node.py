"""One node of a training on several: `python -m drift.training.nodes.node --job JOB`.

torchrun's variables, as Kubeflow Trainer gives them, say how many nodes there are, which one this is, and where the
first one listens: PET_NNODES, PET_NODE_RANK, PET_NPROC_PER_NODE, PET_MASTER_ADDR, PET_MASTER_PORT. The node of the
first rank writes `result.json` beside the job. What ends a node is its last line, and the pod's termination message.

Exit codes: 0, 2 for what the input is to blame for, 1 for the rest, which may go well in another try, 143 on SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.config.train import TrainConfig
from drift.ground.artifacts import read_json, write_json
from drift.ground.errors import TERMINATED, DriftError, PipelineError, ServiceError
from drift.tracking.telling.live import telling
from drift.training.nodes.shared import RESULT

TERMINATION = "DRIFT_TERMINATION_FILE"
"""Variable: where the pod's termination message is written."""
INPUT, OTHERWISE = 2, 1
GRACE_SECONDS = 10
"""Of this process, beside what its ranks are given."""
MEETING_SECONDS = 3600
"""How long a node waits for the others: one may have an image of many gigabytes to fetch."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train on this node; the exit code."""
    ranks = _end_on_sigterm()
    parser = argparse.ArgumentParser(prog="drift.training.nodes.node")
    parser.add_argument("--job", type=Path, required=True)
    path = parser.parse_args(arguments).job
    try:
        _train(path, ranks)
    except DriftError as error:
        _say(f"drift: node {os.environ.get('PET_NODE_RANK', '0')}: {error}")
        return OTHERWISE if isinstance(error, PipelineError | ServiceError) else INPUT
    return 0


@dataclass
class OfRanks:
    """What the ranks of this node may take to save and end, once they are at work."""

    grace_seconds: float = 0.0


def _end_on_sigterm() -> OfRanks:
    """End on SIGTERM, for which the first process of a container has no default.

    Python's handlers wait for a call into torch to return, such as the wait for other nodes; the bell does not.
    """
    ranks = OfRanks()
    listen, bell = os.pipe()
    os.set_blocking(bell, False)
    signal.set_wakeup_fd(bell, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _end)

    def end_at_last() -> None:
        os.read(listen, 1)
        at_work = signal.getsignal(signal.SIGTERM) is not _end  # torch's agent takes it over when it starts ranks
        time.sleep(GRACE_SECONDS + (ranks.grace_seconds if at_work else 0))
        os._exit(TERMINATED)

    threading.Thread(target=end_at_last, name="sigterm", daemon=True).start()
    return ranks


def write_job(path: Path, job: Any) -> None:
    """A `drift.training.fit.Job` as JSON, for nodes that share no memory."""
    paths = {name: str(value) for name, value in vars(job).items() if isinstance(value, Path)}
    write_json(path, {"config": job.config.model_dump(mode="json"), "delta": None, "teacher": None, **paths})


def read_job(path: Path) -> Any:
    """The inverse of `write_job`. Raises DataError."""
    from drift.training.fit import Job

    content = read_json(path)
    config = TrainConfig.model_validate(content.pop("config"))
    return Job(config=config, **{name: value and Path(value) for name, value in content.items()})


def _train(path: Path, ranks: OfRanks) -> None:
    from drift.training.launch import patience_of_agent, run_agent

    job = read_job(path)
    config = _from_environment()
    config.shutdown_timeout = patience_of_agent(job.config.grace_seconds)
    ranks.grace_seconds = job.config.grace_seconds
    with telling(path.parent, "", "arm", ""):  # the pod of the step knows whose numbers these are
        results = run_agent(config, _fit, job, deepspeed=job.config.deepspeed is not None)
    if 0 in results:
        write_json(path.with_name(RESULT), results[0])


def _fit(job: Any) -> dict[str, Any]:
    """`fit`, imported where a rank needs it."""
    from drift.training.fit import fit

    return fit(job)


def _from_environment() -> Any:
    """torch's LaunchConfig by the variables that torchrun reads."""
    from torch.distributed.run import config_from_args, parse_args

    config, *_ = config_from_args(parse_args(["--monitor-interval", "0.2", "fit"]))
    config.rdzv_configs["timeout"] = MEETING_SECONDS
    return config


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
    if file := os.environ.get(TERMINATION):
        with contextlib.suppress(OSError):  # only a pod has it
            Path(file).write_text(line, encoding="utf-8")


def _end(number: int, frame: Any) -> None:
    sys.exit(TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
