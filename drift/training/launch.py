"""Where training runs: in this process, or in one process per GPU; torch's agent starts the ranks of a machine.

`drift.training.ranks` is for ranks that somebody else has started, `drift.training.nodes` for one machine of several.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from drift.ground import errors
from drift.ground.disk import full_disk_said
from drift.ground.errors import TERMINATED, DriftError, PipelineError, first_line

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

AGENT_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
SPARE_SECONDS = 5
LOST = "lost the other ranks"
"""What a rank says that only noticed another's end: never the cause."""


def processes_of(asked: int | None, gpus: int | None = None) -> int:
    """Ranks of a step: as many as the configuration asks for, else one per GPU, and one on a machine without.

    ``gpus``: of the machine it will run on; default: those torch sees here.
    """
    return asked or max(1, torch.cuda.device_count() if gpus is None else gpus)


def launch(
    work: Callable[[Any], Result], job: Any, *, processes: int, deepspeed: bool = False, grace_seconds: float = 25.0
) -> Result:
    """What ``work(job)`` returns on rank 0. Both must be importable and picklable where there are more processes.

    One process without DeepSpeed is this one. Otherwise torch's elastic agent starts ``processes`` ranks on the
    loopback interface and ends all of them when one fails, those that do not end within ``grace_seconds`` with SIGKILL.
    Raises what `run_agent` raises.
    """
    if processes == 1 and not deepspeed:
        return work(job)
    from torch.distributed.launcher.api import LaunchConfig

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.2,
        shutdown_timeout=patience_of_agent(grace_seconds),
    )
    return run_agent(config, work, job, deepspeed)[0]


def patience_of_agent(grace_seconds: float) -> int:
    """Seconds that torch's agent leaves ranks that it has sent SIGTERM: they have to end after their own grace."""
    return math.ceil(grace_seconds) + SPARE_SECONDS


def run_agent(config: Any, work: Callable[[Any], Result], job: Any, deepspeed: bool) -> dict[int, Result]:
    """Start this machine's ranks by torch's `LaunchConfig`; what ``work(job)`` returns on each, by global rank.

    A rank's DriftError is raised here as it was there; PipelineError for any other end of a rank; SystemExit and
    KeyboardInterrupt where a signal has ended them.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the cause is raised, on one line
    try:
        with _own_signals():
            results: dict[int, Result] = elastic_launch(config, _rank)(work, job, deepspeed)
    except SignalException as error:  # to this process: the agent has passed it on, and waited
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise SystemExit(128 + error.sigval) from error
    except ChildFailedError as error:
        if _first_failure(error)[1].exitcode == TERMINATED:
            raise SystemExit(TERMINATED) from error
        raise _cause(error) from error
    return results


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Give signals back to whom they belonged to: torch's agent keeps them when its ranks have ended."""
    before = {number: signal.getsignal(number) for number in AGENT_SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def process_group(deepspeed: bool) -> Iterator[None]:
    """This rank's GPU, and DeepSpeed's process group where it is needed; what is open at the end is closed.

    Raises PipelineError where the block fails because another rank has ended.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if deepspeed:
        prepare_deepspeed()
    try:
        yield
    except RuntimeError as error:
        if _is_loss(error):
            raise PipelineError(f"rank {os.environ['RANK']} {LOST}: {first_line(error)}") from error
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _is_loss(error: RuntimeError) -> bool:
    """Whether a collective failed: torch has a class for NCCL's errors and for the store's, none for gloo's."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error) or "by peer" in str(error)


def name_accelerator() -> None:
    """Tell DeepSpeed where there is no GPU: it warns of what it finds out, and any training imports it."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def prepare_deepspeed() -> None:
    """Start the process group through DeepSpeed, from a launcher's environment variables.

    On a machine without a GPU DeepSpeed would first compile an operator for shared memory, for minutes and only to
    speed up its all-reduce: it is told that there is none.
    """
    on_gpu = torch.cuda.is_available()
    name_accelerator()
    import deepspeed
    import deepspeed.ops

    if not on_gpu:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed 0.19 calls collectives that torch 2.13 has renamed: a warning at every step
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    deepspeed.init_distributed("nccl" if on_gpu else "gloo", verbose=False)


def _rank(work: Callable[[Any], Result], job: Any, deepspeed: bool) -> Result:
    _die_with_the_launcher()
    logging.basicConfig(format="%(message)s")  # what a rank logs is all that is seen of it
    logging.getLogger("drift").setLevel(logging.INFO)
    with process_group(deepspeed), full_disk_said("the disk"):
        return work(job)


def _die_with_the_launcher() -> None:
    """End this rank when its launcher ends, even by SIGKILL: its lock on the output ends too, and no orphan writes on.

    Linux alone knows how (prctl, PR_SET_PDEATHSIG).
    """
    launcher = multiprocessing.parent_process()
    if sys.platform != "linux" or launcher is None:
        return
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != launcher.pid:  # it ended while this rank was starting
        os.kill(os.getpid(), signal.SIGKILL)


def _first_failure(error: Any) -> tuple[int, Any]:
    """The rank that failed first, but for those that only noticed: they may have written it down sooner."""
    return min(error.failures.items(), key=lambda one: (LOST in str(one[1].message), one[1].timestamp))


def _cause(error: Any) -> DriftError:
    """The first failed rank's error: its own class and line if it was a DriftError, else its end, traceback logged."""
    rank, failure = _first_failure(error)
    recorded = failure.message if isinstance(failure.message, dict) else {"message": failure.message}
    name, _, text = str(recorded["message"]).partition(": ")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, DriftError):
        return kind(text)
    if trace := recorded.get("extraInfo", {}).get("py_callstack"):
        logger.error("rank %d: %s", rank, trace)
    return PipelineError(f"rank {rank} ended with exit code {failure.exitcode}: {first_line(str(recorded['message']))}")
