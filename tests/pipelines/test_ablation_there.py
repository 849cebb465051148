"""The table of an ablation that ran on a cluster: from what its pods told a real MLflow, and nothing else."""

import csv
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from typer.testing import CliRunner

from drift.cli.app import app
from drift.config.chain import Config
from drift.config.evaluate import EvaluateConfig
from drift.config.plan import BaselineStep, InputsStep, plan
from drift.config.section import validate
from drift.ground.errors import ConfigError, DataError
from drift.planning.ablation.expansion import Ablation, Cell, expand
from drift.planning.ablation.results import Found
from drift.tracking.runs.records import Records
from drift.tracking.steps import run_step
from pipelines.cluster.ablation import FETCHED, found
from tests.cluster_steps import Pods, Report, by_name
from tests.mlflow_server import mlflow_server
from tests.mlflow_store import fresh_store
from tests.score_folders import write_score_folder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
MINIATURE = Path("configs/miniature.yaml").resolve()
MINI = ("MiniMath2", "MiniMath3", "MiniDigit", "MiniRead")
BENCHMARKS = {"Sums": {"role": "reasoning"}, "Colours": {"role": "perception"}}


@dataclass(frozen=True)
class Output:
    """As Kubeflow gives it to a component."""

    path: str
    uri: str


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A server's where a test asks for it: it takes seconds to start."""
    if not hasattr(request, "param"):
        yield fresh_store(tmp_path)
        return
    with mlflow_server(tmp_path) as address:
        yield address


@pytest.fixture
def file(tmp_path: Path) -> Path:
    raw = {
        "name": f"there-{tmp_path.name}",
        "base": str(MINIATURE),
        "arms": ["sft", "drift"],
        "changes": {
            "runs": str(tmp_path / "runs"),
            "evaluate": {"benchmarks": {**dict.fromkeys(MINI), **BENCHMARKS}},
        },
        "seeds": [0, 1],
        "table": {"title": "There", "against": "sft"},
    }
    (tmp_path / "there.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return tmp_path / "there.yaml"


class Cluster(Pods):
    """Tells MLflow what the pods of a cell would, with the parameters that `drift submit` compiles."""

    def begin(self, cell: Cell) -> None:
        self._pod(cell.name)
        steps = plan(cell.config, local=False).steps
        run_step("inputs", steps["inputs"], InputsStep, lambda _: Report(), record=self.folder / "r")

    def evaluate(self, cell: Cell, arm: str, work: Callable[[Path], None]) -> None:
        self._pod(cell.name)
        step, section = ("evaluate_arm", EvaluateConfig) if arm else ("evaluate_vlm", BaselineStep)
        place = self.folder / "bucket" / cell.name / (arm or "vlm")

        def measure(_: Any) -> Report:
            work(place)
            return Report()

        run_step(
            step,
            plan(cell.config, local=False).steps[step],
            section,  # type: ignore[type-var]  # one of two
            measure,
            record=self.folder / "r",
            arm=arm,
            outputs={"scores": Output(str(place), f"s3://bucket/{cell.name}/{arm}")},
            files=[place / "scores.json"],
        )


def answers(right: str) -> Callable[[Path], None]:
    """Work that writes the scores of an arm, whose four sums are right or not."""

    def write(place: Path) -> None:
        write_score_folder(place, {"Sums": right, "Colours": "1111"})

    return write


def fails(_: Path) -> None:
    raise DataError("loss is NaN at step 3")


def records() -> Records:
    known = Records.open()
    assert known
    return known


def table(file: Path, *more: str) -> str:
    result = CliRunner().invoke(app, ["ablate", "table", str(file), "--format", "csv", *more])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str) -> Cluster:
    pods = Cluster(tmp_path, monkeypatch, store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("DRIFT_EXPERIMENT", "exp")
    return pods


@pytest.fixture
def told(cluster: Cluster, file: Path) -> Ablation:
    """Seed 0 whole; of seed 1 one arm failed, and the other is not there yet."""
    ablation = expand(file)
    first, second = ablation.cells
    for cell in ablation.cells:
        cluster.begin(cell)
    cluster.evaluate(first, "", answers("1000"))
    cluster.evaluate(first, "sft", answers("1100"))
    cluster.evaluate(first, "drift", answers("1111"))
    with pytest.raises(DataError):
        cluster.evaluate(second, "drift", fails)
    return ablation


@pytest.mark.parametrize("store", ["a server's"], indirect=True)
def test_the_table_has_what_the_pods_told_and_says_what_is_missing(told: Ablation, file: Path) -> None:
    rows = csv.DictReader(table(file, "--mlflow").splitlines())
    means = {(row["method"], row["column"]): row["mean"] for row in rows}
    assert [means[arm, "Sums"] for arm in ("vlm", "sft", "drift")] == ["25.0", "50.0", "100.0"]
    results = found(told, records())
    assert results["seed1", "drift"].reason == "evaluate_arm: loss is NaN at step 3"
    assert results["seed1", "sft"] == Found(None)


def test_of_this_folder_alone_there_is_nothing(told: Ablation, file: Path) -> None:
    assert not any(row["mean"] for row in csv.DictReader(table(file).splitlines()))


def test_scores_are_fetched_once_and_again_where_they_are_measured_again(
    cluster: Cluster, told: Ablation, tmp_path: Path
) -> None:
    before = found(told, records())["seed0", "sft"].folder
    assert before and before.is_relative_to(tmp_path / "runs" / FETCHED)
    (before / "kept").touch()
    assert found(told, records())["seed0", "sft"].folder == before and (before / "kept").exists()
    shutil.rmtree(tmp_path / "bucket" / "seed0" / "sft")
    time.sleep(1.1)  # attempts are told apart by the second they ended in
    cluster.evaluate(told.cells[0], "sft", answers("0000"))
    again = found(told, records())["seed0", "sft"]
    assert again.scores and again.scores.benchmarks["Sums"].columns["Sums"].mean == 0


def test_a_changed_setting_is_missing_until_it_has_run(told: Ablation, file: Path) -> None:
    means = csv.DictReader(table(file, "--mlflow", "curate.keep=100").splitlines())
    assert {row["method"] for row in means if row["mean"]} == {"vlm"}


def test_the_page_of_the_run_has_its_configuration(told: Ablation, store: str) -> None:
    client = MlflowClient(store)
    page = by_name(store, "exp")["seed0"]
    text = Path(client.download_artifacts(page.info.run_id, "config.yaml")).read_text()
    config = told.cells[0].config
    assert validate(Config, yaml.safe_load(text)) == config.model_copy(
        update={"runs": Config.model_fields["runs"].default}
    )
    assert str(config.runs) not in text


def test_without_an_address_it_is_asked_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI is not set"):
        CliRunner().invoke(app, ["ablate", "table", str(file), "--mlflow"], catch_exceptions=False)
