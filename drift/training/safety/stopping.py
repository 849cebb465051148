"""SIGTERM while a training works (a taken node, Kueue, `kubectl delete`): it saves at the next step, and ends.

All ranks save at the same step, whichever of them was asked. What takes longer than its grace ends without.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from drift.ground.errors import TERMINATED

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spared:
    """What a worker of a data loader does first: it lets SIGTERM pass, which a whole group or container may be sent.

    The trainer needs its batches up to the step it saves, and ends it. ``then`` is what it would have done first.
    """

    then: Callable[[int], None] | None = None

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.then:
            self.then(worker)


class Grace:
    """Whether to stop. As a context it takes SIGTERM over, in a process's main thread, and gives it back.

    A second SIGTERM within ``seconds`` changes nothing, since an agent passes on what the whole group was sent. After
    them, this process ends as SIGTERM would have ended it at once.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self._process = seconds, os.getpid()
        self.stopped = False
        """Whether all ranks have agreed to stop."""
        self._asked_at: float | None = None
        self._taken = False
        self._before: Any = None
        self._group: Any = None
        self._alarm: threading.Timer | None = None

    def __enter__(self) -> Grace:
        if threading.current_thread() is threading.main_thread():
            self._before, self._taken = signal.signal(signal.SIGTERM, self._asked), True
        return self

    def __exit__(self, *error: object) -> None:
        if self._alarm:
            self._alarm.cancel()
        if self._taken:
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

    def meet(self) -> None:
        """Let the ranks agree, over the processors: asking a GPU at each step would make it wait. All must call it."""
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")

    def agreed(self) -> bool:
        """Whether any rank was asked to end. All must call it after the same step."""
        asked = self._asked_at is not None
        if self._group is not None:
            any_rank = torch.tensor(int(asked))
            dist.all_reduce(any_rank, op=dist.ReduceOp.MAX, group=self._group)
            asked = bool(any_rank)
        self.stopped = asked
        return asked

    def _asked(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if os.getpid() != self._process:  # a worker that was just forked
            return
        if self._asked_at is None:
            self._asked_at = now
            logger.warning("SIGTERM: a checkpoint is saved at the next step, within %g seconds", self.seconds)
            self._alarm = threading.Timer(self.seconds, os.kill, [os.getpid(), number])
            self._alarm.daemon = True
            self._alarm.start()
        elif now - self._asked_at >= self.seconds:
            self._give_up(number, frame)

    def _give_up(self, number: int, frame: FrameType | None) -> None:
        logger.warning("SIGTERM: train.grace_seconds = %g are over; the checkpoint before stays", self.seconds)
        if callable(self._before):
            self._before(number, frame)
        os._exit(TERMINATED)  # also the first process of a container, which a signal's default would not end
