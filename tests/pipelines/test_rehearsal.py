"""`drift rehearse --runner kubeflow`, with Kubeflow's real client against a server on loopback."""

import json
from pathlib import Path
from typing import Any

import pytest

from drift.cli.app import main
from drift.config.file import load
from drift.config.plan import plan
from drift.ground.errors import PipelineError
from drift.planning.rehearsal import IN_IMAGES
from drift.tracking.runs.tracker import Tracker
from pipelines.check import check_spec, dags
from pipelines.cluster.server import Target
from pipelines.placement import NOTHING, Resources, read_resources
from pipelines.rehearsal import rehearse_on
from tests.end_to_end import chain
from tests.kfp_server import Body, KubeflowServer
from tests.mlflow_store import fresh_store

PAPER = chain.ROOT / "configs" / "paper_equation.yaml"
EXAMPLE = chain.ROOT / "configs" / "resources" / "one_node.yaml"


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No server and no cluster of the machine that runs the tests."""
    for name in ("MLFLOW_TRACKING_URI", "KF_PIPELINES_ENDPOINT", "KFP_NAMESPACE", "KFP_EXISTING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none.yaml"))
    monkeypatch.chdir(chain.ROOT)


def finishing(config: Path) -> dict[str, tuple[str, ...]]:
    """Every planned step, at work at the first poll and finished at the second."""
    planned = plan(load(config), local=False).tasks(registers=True)
    return {f"{step}/{arm}" if arm else step: ("RUNNING", "SUCCEEDED") for step, arm in planned}


def sent(resources: Resources) -> Body:
    """The run that a server receives for a rehearsal of the paper's configuration."""
    with KubeflowServer(tasks=finishing(PAPER)) as server:
        rehearse_on(load(PAPER), Target(server.url, resources=resources), poll_seconds=0.01)
        (run,) = server.runs.values()
    assert server.experiments["e1"]["display_name"] == "qwen2_5_vl_7b-r1-rehearsal"
    return run["pipeline_spec"]


def parameters(spec: Body) -> dict[str, Any]:
    """What each step is given, and the first arm."""
    defaults = {name: one["defaultValue"] for name, one in spec["root"]["inputDefinitions"]["parameters"].items()}
    return {name: json.loads(value[0] if name == "arms" else value)["config"] for name, value in defaults.items()}


def test_the_wiring_and_the_profile_are_the_real_ones_and_models_and_data_the_images_own() -> None:
    submitted = sent(read_resources(EXAMPLE))
    spec, pods = submitted["pipeline_spec"], submitted["platform_spec"]
    check_spec(spec, pods)
    given = parameters(spec)
    assert given["ingest"]["source"] == "/opt/drift/world/pool.parquet"
    assert given["evaluate_vlm"]["vlm"] == "/opt/drift/world/vlm"
    assert given["register"]["model"] == "qwen2_5_vl_7b-drift-rehearsal"
    assert given["arms"]["train"]["deepspeed"] == "configs/deepspeed/zero2.json"
    training = spec["deploymentSpec"]["executors"]["exec-arm"]["container"]["resources"]
    assert training["accelerator"]["resourceCount"] == "8"
    pod = pods["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-arm"]
    assert [secret["secretName"] for secret in pod["secretAsEnv"]] == ["huggingface"]
    assert str(chain.ROOT) not in json.dumps(submitted)


def test_no_step_comes_from_the_cache() -> None:
    spec = sent(NOTHING)["pipeline_spec"]
    steps = {name: task for _, dag in dags(spec) for name, task in dag["tasks"].items() if name != "importer"}
    assert len(steps) > 14  # an importer does no work: it gives an address that is known the form of an artifact
    assert not any(task.get("cachingOptions", {}).get("enableCache") for task in steps.values())


def test_without_gpus_in_the_profile_training_is_rehearsed_on_the_cpu() -> None:
    train = parameters(sent(NOTHING)["pipeline_spec"])["arms"]["train"]
    assert (train["bf16"], train["deepspeed"], train["processes"]) == (False, None, 1)


def test_a_run_that_succeeds_without_registering_is_an_error() -> None:
    tasks = finishing(PAPER)
    del tasks["register"], tasks["arm/merge_then_sft"]  # the last arm: the server numbers them as they come
    with (
        KubeflowServer(tasks=tasks) as server,
        pytest.raises(PipelineError, match=r"without the step arm merge_then_sft, register; see http.*/details/r1"),
    ):
        rehearse_on(load(PAPER), Target(server.url), poll_seconds=0.01)


def test_what_a_list_that_stood_still_hides_could_not_be_seen_and_is_not_said_to_be_missing() -> None:
    with (
        KubeflowServer(recording="first-run") as server,
        pytest.raises(PipelineError, match=r"whether .*gate.* ran could not be seen \(.*MLFLOW_TRACKING_URI"),
    ):
        rehearse_on(load(PAPER), Target(server.url), poll_seconds=0.0)


def test_a_frozen_list_with_mlflow_beside_it_is_a_rehearsal_that_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubeflow's list stops after the first step; the others told MLflow."""
    store = fresh_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    tracker = Tracker.open(store, experiment="drift", run_id="r1", name="r1")
    planned = plan(load(PAPER), local=False).tasks(registers=True)
    for step, arm in planned:
        tracker.apply(
            {"event": "started", "step": step, "arm": arm, "time": 1.0, "params": {}, "inputs": [], "key": ""}
        )
        ended = {"event": "ended", "status": "FINISHED", "error": None, "time": 2.0}
        tracker.apply({**ended, "step": step, "arm": arm, "key": ""})
    with KubeflowServer(tasks={"inputs": ("SUCCEEDED",)}) as server:
        assert rehearse_on(load(PAPER), Target(server.url), poll_seconds=0.0).steps == len(planned)


def in_the_images(folder: Path) -> Path:
    """The miniature's small configuration, with the models and data that the images carry."""
    config = chain.write_config(folder)
    config.write_text(config.read_text().replace("drift/planning/miniature/assets", str(IN_IMAGES)))
    return config


def rehearse(config: Path, *arguments: str) -> int:
    """The exit code of the command."""
    try:
        main(["rehearse", "-c", str(config), "--runner", "kubeflow", *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_says_what_was_replaced_and_where_the_run_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = in_the_images(tmp_path)
    with KubeflowServer(tasks=finishing(config), states=("SUCCEEDED",)) as server:
        assert rehearse(config, "--host", server.url) == 2  # the steps were still at work when the run had ended
        server.polls = 1
        assert rehearse(config, "--host", server.url) == 0
        lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        assert f"✓ Kubeflow {server.url} 2.17.0" in lines
        assert "replaced train.epochs 8.0 → 1.0" in lines
        assert lines[-2:] == ["rehearsed: all 16 planned steps ran", f"run {server.url}/#/runs/details/r2"]
        assert rehearse(config, "--host", server.url, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["run_id"], result["state"]) == ("r3", "SUCCEEDED")
    assert result["replaced"]["register.model"] == ["drift-miniature", "drift-miniature-rehearsal"]


def test_what_the_pods_would_not_see_is_found_before_anything_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with KubeflowServer() as server:
        assert rehearse(chain.write_config(tmp_path), "--host", server.url) == 2
        assert not server.runs
    assert "models.vlm: drift/planning/miniature/assets/vlm lies on no claim of the profile" in capsys.readouterr().out


def test_a_step_that_fails_on_the_cluster_ends_the_command_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = in_the_images(tmp_path)
    with KubeflowServer(tasks={"inputs": ("FAILED",)}, states=("FAILED",)) as server:
        assert rehearse(config, "--host", server.url) == 2
    assert "drift: the run failed: inputs; see http://" in capsys.readouterr().err


def test_a_server_that_does_not_answer_is_in_the_list_of_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rehearse(chain.write_config(tmp_path), "--host", "http://127.0.0.1:9") == 2
    said = capsys.readouterr()
    assert "✗ Kubeflow" in said.out and "http://127.0.0.1:9 does not answer" in said.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "drift: --host: no Kubeflow Pipelines server given; name its URL, or export KF_PIPELINES_ENDPOINT\n"),
        (["--host", "http://127.0.0.1:9", "--resources", "none.yaml"], "drift: none.yaml: "),
    ],
)
def test_a_bad_use_ends_with_one_line_before_anything_is_checked(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rehearse(chain.write_config(tmp_path), *arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith(message) and said.err.count("\n") == 1
    assert said.out == ""
