"""The machine under a step: CPU, memory, disk, GPUs, under the names that MLflow's own system metrics have.

MLflow's monitor itself would import all of MLflow into every step and speak to the server from there; these go the way
of the step's other numbers. MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false turns them off, and
MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL sets the seconds between two looks.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from drift.ground.errors import first_line
from drift.tracking.telling.live import Live

log = logging.getLogger(__name__)

ENABLE = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
INTERVAL = "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"
INTERVAL_SECONDS = 10.0
DRIVER = Path("/dev/nvidiactl")
"""There where NVIDIA's driver is."""
BATCH_SECONDS = 60.0


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Tell of the machine while the block runs; a step that is over sooner than the first look tells nothing."""
    if os.environ.get(ENABLE, "").lower() == "false":
        yield
        return
    looks = _looks()
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(looks, over), name="machine", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1.0)


def _watch(looks: list[Callable[[], dict[str, float]]], over: threading.Event) -> None:
    live, count = Live(BATCH_SECONDS), 0
    while not over.wait(float(os.environ.get(INTERVAL) or INTERVAL_SECONDS)):
        for look in looks:
            with contextlib.suppress(Exception):  # a sensor that fails is no fault of the step's
                live.tell({f"system/{name}": value for name, value in look().items()}, count)
        count += 1
    live.flush()


def _looks() -> list[Callable[[], dict[str, float]]]:
    """What can be seen here; imported now, since a fork in the midst of another thread's import would hang."""
    psutil.cpu_percent()  # the first says nothing
    looks: list[Callable[[], dict[str, float]]] = [_host]
    if not DRIVER.exists():
        return looks
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        looks.append(lambda: _gpus(nvml))
    except Exception as error:  # not installed, or no library of the driver's: of many kinds
        log.warning("the GPUs are not watched (%s); pip install nvidia-ml-py", first_line(error))
    return looks


def _host() -> dict[str, float]:
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(Path.cwd()))
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": 100 * memory.used / memory.total,
        "disk_usage_percentage": disk.percent,
        "disk_available_megabytes": disk.free / 1e6,
    }


def _gpus(nvml: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for number in range(nvml.nvmlDeviceGetCount()):
        gpu = nvml.nvmlDeviceGetHandleByIndex(number)
        memory = nvml.nvmlDeviceGetMemoryInfo(gpu)
        found |= {
            f"gpu_{number}_utilization_percentage": float(nvml.nvmlDeviceGetUtilizationRates(gpu).gpu),
            f"gpu_{number}_memory_usage_megabytes": memory.used / 1e6,
            f"gpu_{number}_memory_usage_percentage": 100 * memory.used / memory.total,
        }
    return found
