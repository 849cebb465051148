"""What a training shows while it goes on: a bar or lines of a log, and its curves in MLflow, from the first rank."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from accelerate import PartialState
from tqdm.auto import tqdm

from drift.ground.progress import LINE_SECONDS
from drift.ground.torchvision import allow_cuda_torchvision_on_cpu
from drift.tracking.telling.live import Live, curves

allow_cuda_torchvision_on_cpu()  # before transformers, whose trainer imports it

from transformers import TrainerCallback  # noqa: E402
from transformers.trainer_callback import ExportableState  # noqa: E402

logger = logging.getLogger(__name__)


class StepProgress(TrainerCallback):
    """One bar over the optimizer steps, with the loss beside it (transformers' own prints a line a step).

    In a log, where there is no bar, a line now and then and one at the end.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar on the first rank, where the training goes on from."""
        hidden = None if state.is_world_process_zero else True
        self.start, self.loss = state.global_step, float("nan")
        self.began = self.told = time.monotonic()
        self.bar = tqdm(
            total=state.max_steps, initial=self.start, desc="train", unit="step", leave=False, disable=hidden
        )
        self.in_a_log = self.bar.disable  # a closed bar is disabled, too

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One step further; the loss is that of the last that was logged."""
        self.bar.update(state.global_step - self.bar.n)
        if time.monotonic() - self.told > LINE_SECONDS:
            self._say(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the newest loss."""
        if "loss" not in logs:
            return
        self.loss = float(logs["loss"])
        self.bar.set_postfix(loss=f"{self.loss:.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self.bar.close()
        self._say(state)

    def _say(self, state: Any) -> None:
        self.told = time.monotonic()
        done = state.global_step - self.start
        if not (state.is_world_process_zero and self.in_a_log and done):
            return
        seconds = (self.told - self.began) / done
        left = tqdm.format_interval((state.max_steps - state.global_step) * seconds)
        text = "step %d of %d, loss %.3f, %.2f s a step, %s left"
        logger.info(text, state.global_step, state.max_steps, self.loss, seconds, left)


class Curves(TrainerCallback, ExportableState):
    """Tells each logged step when it is logged; must come after whoever adds numbers to it.

    ``times`` of the logged steps, in seconds since 1970, are in every checkpoint, for a training that goes on.
    """

    def __init__(self) -> None:
        self.times: dict[int, float] = {}
        self._live = Live()
        self._last = (0.0, 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take over the times of what was trained before."""
        stored = state.stateful_callbacks.get(type(self).__name__)
        if stored is not None:
            self.times = {int(step): at for step, at in stored["attributes"]["times"]}
        self._last = (time.monotonic(), state.num_input_tokens_seen)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A training that ends before `logging_steps` has its one point at its end."""
        if control.should_training_stop and not any("loss" in row for row in state.log_history):
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """One point of every curve."""
        if "loss" not in logs or not state.is_world_process_zero:
            return
        (before, seen), now = self._last, time.monotonic()
        self._last = (now, state.num_input_tokens_seen)
        speed = (state.num_input_tokens_seen - seen) / max(now - before, 1e-6)
        at = self.times[state.global_step] = round(time.time(), 3)
        self._live.tell({**curves(logs), "train/tokens_per_second": speed}, state.global_step, at)

    def tell(self, look: Mapping[str, float]) -> None:
        """The numbers of a look at rows held out, a point of their curves; from the first rank."""
        if PartialState().is_main_process:
            self._live.tell(curves(look), int(look["step"]), look["time"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What was not told yet."""
        self._live.flush()

    def state(self) -> dict[str, Any]:
        """What Trainer writes into a checkpoint's `trainer_state.json`."""
        return {"args": {}, "attributes": {"times": [[step, at] for step, at in self.times.items()]}}
