"""Ranks that somebody else has started, on one machine or several: torchrun, by hand or from a Slurm job.

The first rank prepares the folder and writes the results; the others hear from it what to train, and how it ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from drift.ground.errors import ConfigError, DriftError, PipelineError
from drift.training.launch import process_group

Job = TypeVar("Job")
Result = TypeVar("Result")
Told = TypeVar("Told")

PATIENCE = timedelta(hours=4)
"""How long ranks wait for the first one, which hashes what it reads and compares what it wrote."""


def started_ranks(asked: int | None) -> int:
    """How many ranks another launcher has started, this one among them; 0 if none has.

    Raises ConfigError if `train.processes` asks for another number, PipelineError for ranks that do not know theirs.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return 0
    if missing := [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise PipelineError(
            f"WORLD_SIZE is {world}, but {missing[0]} is not set: start every rank with torchrun, or unset WORLD_SIZE"
        )
    if asked not in (None, world):
        raise ConfigError(f"train.processes is {asked}, but {world} ranks were started; set it to null")
    return world


def is_first_rank() -> bool:
    """Whether this process speaks for all: the first of the ranks, or the only one."""
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


def among_ranks(
    lead: Callable[[Callable[[Job], Result]], Told], work: Callable[[Job], Result], *, deepspeed: bool
) -> Told:
    """What ``lead(start)`` returns on the first rank, on every rank.

    ``start(job)`` runs ``work(job)`` on all of them and returns what the first one's did. A DriftError of the first
    before or after that is raised on every rank; a rank that ends at work ends the others with a PipelineError.
    """
    with process_group(deepspeed):
        if not dist.is_initialized():
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        channel = Channel()
        return _first(lead, work, channel) if dist.get_rank() == 0 else _other(work, channel)


class Channel:
    """What the first rank tells all, over the processors: its patience is another than a gradient's."""

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo", timeout=PATIENCE)

    def tell(self, what: Any) -> None:
        """Send to every other rank."""
        dist.broadcast_object_list([what], group=self._group)

    def hear(self) -> Any:
        """What the first rank sends next. Raises it if it is an error."""
        heard: list[Any] = [None]
        dist.broadcast_object_list(heard, group=self._group)
        if isinstance(heard[0], DriftError):
            raise heard[0]
        return heard[0]


def _first(lead: Callable[[Callable[[Job], Result]], Told], work: Callable[[Job], Result], channel: Channel) -> Told:
    at_work = False

    def start(job: Job) -> Result:
        nonlocal at_work
        channel.tell(job)
        at_work = True
        result = work(job)
        at_work = False
        return result

    try:
        told = lead(start)
    except DriftError as error:
        if not at_work:  # else the others are at work too, and hear of nothing but this rank's end
            channel.tell(error)
        raise
    channel.tell(told)
    return told


def _other(work: Callable[[Any], Any], channel: Channel) -> Any:
    work(channel.hear())
    return channel.hear()
