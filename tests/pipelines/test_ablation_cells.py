"""An ablation's cells as runs: here one after the other, on a cluster as a run each; results are found by content."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from drift.ground.errors import ConfigError
from drift.planning.ablation.expansion import Ablation, expand
from drift.planning.ablation.table import tabulate
from drift.planning.ablation.writing import missing
from pipelines.cluster.ablation import submit
from pipelines.cluster.server import Target
from pipelines.local.ablation import found, run
from tests.kfp_server import KubeflowServer


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "KFP_EXISTING_TOKEN", "KF_PIPELINES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none.yaml"))


def ablation_of(folder: Path, base: dict[str, Any], **more: Any) -> Ablation:
    (folder / "base.yaml").write_text(yaml.safe_dump(base, sort_keys=False))
    raw = {"name": "two", "base": "base.yaml", "seeds": [0, 1], "table": {"title": "Two", "against": "sft"}}
    (folder / "two.yaml").write_text(yaml.safe_dump({**raw, **more}, sort_keys=False))
    return expand(folder / "two.yaml")


def test_a_cell_that_fails_stops_no_other_and_the_table_says_why(tmp_path: Path, raw: dict[str, Any]) -> None:
    ablation = ablation_of(tmp_path, raw)
    began: list[str] = []
    results = run(ablation, on_cell=lambda cell: began.append(cell.name))
    assert [one.cell for one in results] == began == ["seed0", "seed1"]
    assert all("ingest" in one.failed[""] for one in results)
    said = missing(tabulate(ablation, found(ablation)))
    assert [line.partition(": ingest: ")[0] for line in said] == ["seed0, vlm, sft, drift", "seed1, vlm, sft, drift"]


def test_what_a_cell_lacks_is_said_before_any_has_run(tmp_path: Path, raw: dict[str, Any]) -> None:
    across = {"pool": {"there": {}, "gone": {"ingest.source": f"{tmp_path}/gone.jsonl"}}}
    ablation = ablation_of(tmp_path, raw, across=across)
    with pytest.raises(ConfigError, match=r"ingest.source: '.*gone.jsonl' does not exist"):
        run(ablation)
    assert not list((tmp_path / "runs").glob("two-*"))


def test_on_a_cluster_every_cell_is_a_run_of_one_experiment(tmp_path: Path, raw: dict[str, Any]) -> None:
    with KubeflowServer() as server:
        runs = submit(ablation_of(tmp_path, raw), Target(server.url), wait=False)
        sent = list(server.runs.values())
    assert [one.name for one in runs] == ["two-seed0", "two-seed1"]
    assert [one["display_name"] for one in sent] == ["two-seed0", "two-seed1"]
    assert {one["experiment_id"] for one in sent} == {"e1"} and server.experiments["e1"]["display_name"] == "two"
