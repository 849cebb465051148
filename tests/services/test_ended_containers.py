"""Trainings in containers that are ended at any moment and removed: new ones with the same path end in the same bytes.

Runs with `make test-services`: needs Docker and the images of `make images`. The code is this checkout's.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container

import docker
from components._images import IMAGES
from drift.config.file import load
from drift.config.places import Places
from drift.config.train import TrainConfig
from drift.tracking.store import RUN_ID
from drift.training.sft import train
from pipelines.local.containers import create, engine
from pipelines.local.run import _containers
from pipelines.local.runner import Chain
from tests.ranks import QUICK, write_inputs
from tests.world import VLM

ROOT = Path(__file__).parents[2]
USER = os.getuid() or 10002
SECONDS = 300
SETTINGS = {**QUICK, "epochs": 10, "save_steps": 4}
BACKENDS: dict[str, dict[str, Any]] = {
    "one rank": {"processes": 1, "gradient_accumulation": 4},
    "two ranks, ZeRO-2": {"deepspeed": "zero2.json"},
}
MOMENTS = (
    "resume.json",
    "checkpoints/*/model.safetensors",
    "checkpoints/*/complete",
    "checkpoints/*/trainer_state.json",
    "checkpoints/*/complete",
)
"""While the model is loaded, while a checkpoint is written, when it is whole: what is there for the first time."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_inputs(tmp_path_factory.mktemp("world"))
    folder.chmod(0o755)
    return folder


@contextlib.contextmanager
def container(world: Path, folder: Path, settings: dict[str, Any]) -> Iterator[Container]:
    """`drift train` in a container whose own disk goes with it; `checkpoints` is a path that stays."""
    client = docker.from_env()
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    paths = ["--model", str(VLM), "--data", str(world / "data"), "--delta", str(world / "delta")]
    volumes = {str(path): {"bind": str(path), "mode": mode} for path, mode in ((ROOT, "ro"), (folder, "rw"))}
    running = client.containers.run(
        IMAGES["train"],
        ["python3", "-m", "drift", "train", *paths, "--out", str(folder / "out"), *overrides],
        environment={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        volumes={**volumes, str(world): {"bind": str(world), "mode": "ro"}},
        user=f"{USER}:{USER}",
        network_mode="none",
        read_only=True,
        tmpfs={"/tmp": ""},
        cap_drop=["ALL"],
        shm_size="1g",
        detach=True,
    )
    try:
        yield running
    finally:
        running.remove(force=True)
        client.close()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
def test_a_training_that_is_ended_five_times_ends_in_the_same_bytes(
    world: Path, tmp_path: Path, backend: str, signal: str
) -> None:
    settings = SETTINGS | BACKENDS[backend]
    if "deepspeed" in settings:
        settings["deepspeed"] = str(world / settings["deepspeed"])
    inputs = {"model": str(VLM), "training_set": world / "data", "delta": world / "delta"}
    train(TrainConfig(**settings), **inputs, out=tmp_path / "whole")
    tmp_path.chmod(0o777)
    kept = tmp_path / "kept"
    settings["checkpoints"] = str(kept)
    for moment in MOMENTS:
        before = there(kept, moment)
        with container(world, tmp_path, settings) as running:
            wait_until(lambda moment=moment, before=before: there(kept, moment) - before, running)
            running.kill(signal)
            began = time.monotonic()
            code = running.wait(timeout=SECONDS)["StatusCode"]
            assert code == (143 if signal == "SIGTERM" else 137), f"{moment}: {running.logs().decode()}"
            assert time.monotonic() - began < 30, "Kubernetes would have killed it"
        shutil.rmtree(tmp_path / "out.partial", ignore_errors=True)
    with container(world, tmp_path, settings) as running:
        assert running.wait(timeout=SECONDS)["StatusCode"] == 0, running.logs().decode()
    ended, whole = (tmp_path / name / "model.safetensors" for name in ("out", "whole"))
    assert ended.read_bytes() == whole.read_bytes()
    assert not list(kept.glob("trainings/*/"))


def there(kept: Path, moment: str) -> set[Path]:
    """Of the training, whatever its address."""
    return set(kept.glob(f"trainings/*/model/{moment}"))


def wait_until(happened: Callable[[], object], running: Container) -> None:
    looked = time.monotonic()
    deadline = looked + SECONDS
    while not happened():
        if time.monotonic() > looked + 1:
            running.reload()
            assert running.status == "running" and looked < deadline, running.logs().decode()
            looked = time.monotonic()
        time.sleep(0.005)


def test_the_steps_of_a_run_in_containers_may_write_where_checkpoints_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = ["train.checkpoints=kept", f"evaluate.checkpoints={tmp_path}/x/y"]
    config = load(ROOT / "configs" / "miniature.yaml", kept)
    for name in ("runs/run", "tmp"):
        (tmp_path / name).mkdir(parents=True)
    chain = Chain(tmp_path / "runs" / "run", "run", Places(), {RUN_ID: "run", "TMPDIR": str(tmp_path / "tmp")}, None)
    with _containers(config, chain, "docker") as given, engine() as client:
        write = "import pathlib; [pathlib.Path(where, 'reply').touch() for where in ('kept', 'x/y')]"
        container = create(client, IMAGES["train"], ["python3", "-c", write], {}, dict(given or {}))
        container.start()
        assert container.wait()["StatusCode"] == 0, container.logs().decode()
        container.remove()
    assert (tmp_path / "kept" / "reply").exists() and (tmp_path / "x" / "y" / "reply").exists()
