"""A real training as a step, polled in MLflow while it works, killed and gone on with: one point a step, none lost."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from drift.config.models import ModelsConfig
from drift.config.plan import ArmStep
from drift.config.train import TrainConfig
from drift.ground.artifacts import write_json
from drift.tracking.runs.tracker import Tracker
from drift.tracking.steps import run_step
from drift.tracking.telling.delivery import Relay
from drift.tracking.telling.live import BATCH_SECONDS
from drift.training.arm import run_arm
from tests.forked import begin
from tests.mlflow_store import fresh_store
from tests.world import EXPERT, VLM, training_set

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
KEY = "r1/arm/sft"
LONG = {
    "epochs": 150,  # on a fast machine too it works through more than three batches of what it tells
    "learning_rate": 1e-4,
    "bf16": False,
    "gradient_checkpointing": False,
    "threads": 1,
    "save_steps": 10,
}


def arm_step(folder: Path, processes: int) -> None:
    """What the component does, without Kubeflow's executor."""
    models = ModelsConfig(vlm=str(VLM), expert=str(EXPERT))
    cut = {"per_device_batch_size": 4 // processes, "epochs": LONG["epochs"] // processes}
    train = TrainConfig(**{**LONG, **cut}, processes=processes)
    step = ArmStep(name="sft", models=models, merge=None, train=train, delta=None)
    parameter = json.dumps({"config": step.model_dump(mode="json", by_alias=True), "code": "", "inputs": {}})
    inputs = {name: folder / name for name in ("training_set", "deltas", "start")}
    run_step(
        "arm",
        parameter,
        ArmStep,
        lambda config: run_arm(config, **inputs, out=folder / "model", record=folder / "notes"),
        record=folder / "r",
        arm="sft",
        history=folder / "notes" / "history.jsonl",
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    training_set(tmp_path / "training_set", 32)
    for name in ("deltas", "start", "run"):
        (tmp_path / name).mkdir()
    write_json(tmp_path / "start" / "start.json", {"champion": None})
    return tmp_path


@contextlib.contextmanager
def the_runner(where: str, folder: Path, uri: str) -> Iterator[dict[str, str]]:
    """What a step gets on this machine, where somebody passes its journal on, or on a cluster with a claim."""
    if where == "claim":
        yield {"DRIFT_MLFLOW_TRACKING_URI": uri, "DRIFT_SPOOL": str(folder / "claim"), "DRIFT_RUN_ID": "r1"}
        return
    tracker = Tracker.open(uri, experiment="drift", run_id="r1", name="r1")
    relay = Relay(folder / "run", tracker.apply, tracker.answers)
    relay.start()
    yield {"DRIFT_RUN_DIR": str(folder / "run"), "DRIFT_RUN_ID": "r1"}
    assert not relay.finish()


def until(true: Callable[[], bool], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def points(uri: str) -> list[tuple[int, int]]:
    """(step, milliseconds) of the loss, as MLflow has it now."""
    client = MlflowClient(uri)
    known = client.get_experiment_by_name("drift")
    found = client.search_runs([known.experiment_id], f"tags.`drift.run_key` = '{KEY}'") if known else []
    return [
        (one.step, one.timestamp) for run in found for one in client.get_metric_history(run.info.run_id, "train/loss")
    ]


@pytest.mark.parametrize(("where", "processes"), [("here", 2), ("claim", 1)])
def test_a_training_is_seen_while_it_goes_on_and_has_one_point_a_step_though_it_was_killed(
    where: str, processes: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DRIFT_RUN_DIR", "MLFLOW_TRACKING_URI", "DRIFT_MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    uri = fresh_store(folder)
    with the_runner(where, folder, uri) as variables:
        process = begin(arm_step, folder, processes, err=folder / "log.txt", **variables)
        sizes: set[int] = set()
        until(lambda: sizes.add(len(points(uri))) or len(sizes - {0}) >= 3 or not process.is_alive())
        until(lambda: bool(checkpoints(folder)) or not process.is_alive())
        assert process.is_alive(), (folder / "log.txt").read_text()[-2000:]
        killed_at = time.time()
        for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.join()
        last = max(json.loads((path / "trainer_state.json").read_text())["global_step"] for path in checkpoints(folder))
        again = begin(arm_step, folder, processes, err=folder / "log.txt", **variables)
        until(lambda: len(points(uri)) >= max(sizes))
        seen = points(uri)
        assert [step for step, _ in seen][: len(sizes)] == list(range(1, len(sizes) + 1))
        told = [stamp for _, stamp in seen if stamp < killed_at * 1000]
        assert killed_at - max(told) / 1000 < BATCH_SECONDS + 3.0, "no more than the last batch, and a step, is lost"
        again.join()
        assert again.exitcode == 0, (folder / "log.txt").read_text()[-2000:]
    history = [json.loads(line) for line in (folder / "notes" / "history.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in history]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > last
    assert [step for step, _ in points(uri)] == steps, "one point a step"
    assert len({stamp for _, stamp in points(uri)}) == len(steps), "each with its own time"


def checkpoints(folder: Path) -> list[Path]:
    return [path.parent for path in folder.glob("**/checkpoint-*/complete")]
