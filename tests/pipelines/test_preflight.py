"""What is wrong with a configuration is found before anything runs: one planted fault each, and several at once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from drift.cli.app import main
from drift.config.file import load
from drift.planning.tables import write_tiny_table
from pipelines.preflight import preflight
from tests.end_to_end import chain
from tests.kubernetes_server import BOUND, MLFLOW, namespace
from tests.openai_server import OpenAIServer

ROOT = chain.ROOT
EXAMPLE = ROOT / "configs" / "resources" / "one_node.yaml"


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No server and no cluster of the machine that runs the tests."""
    for name in ("MLFLOW_TRACKING_URI", "KFP_NAMESPACE", "KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none.yaml"))
    monkeypatch.chdir(ROOT)


def problems(config: Path, **options: Any) -> list[str]:
    return [finding.detail for finding in preflight(load(config), **options) if finding.is_problem]


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The small miniature configuration, with its tables in a folder of its own, and one change."""
    config = chain.write_config(tmp_path)
    raw = yaml.safe_load(config.read_text())
    shutil.copytree(raw["evaluate"]["data"], tmp_path / "tables", dirs_exist_ok=True)
    raw["evaluate"]["data"] = str(tmp_path / "tables")
    change(raw)
    config.write_text(yaml.safe_dump(raw))
    return config


def no_key(raw: dict[str, Any]) -> None:
    raw["generate"]["teacher"] = {"kind": "endpoint", "base_url": "http://127.0.0.1:9", "model": "m"}
    raw["generate"]["teacher"]["api_key_env"] = "KEY"


def no_pool(raw: dict[str, Any]) -> None:
    raw["ingest"]["source"] = "/no/pool.parquet"


def no_replay(raw: dict[str, Any]) -> None:
    Path(raw["runs"]).with_name("replay.parquet").write_text("no table")
    raw["curate"]["replay"]["source"] = str(Path(raw["runs"]).with_name("replay.parquet"))


def no_tables(raw: dict[str, Any]) -> None:
    raw["evaluate"]["data"] = "/no/tables"


def no_table(raw: dict[str, Any]) -> None:
    (Path(raw["evaluate"]["data"]) / "MiniRead.tsv").unlink()


def other_table(raw: dict[str, Any]) -> None:
    write_tiny_table(Path(raw["evaluate"]["data"]) / "MMStar.tsv", "MMStar")
    raw["evaluate"]["benchmarks"]["MMStar"] = {}


def no_column(raw: dict[str, Any]) -> None:
    write_tiny_table(Path(raw["evaluate"]["data"]) / "Mine.tsv", "plain")
    raw["evaluate"]["benchmarks"]["Mine"] = {"format": "WeMath"}


def no_model(raw: dict[str, Any]) -> None:
    raw["models"]["vlm"] = "./no/vlm"


def not_cached(raw: dict[str, Any]) -> None:
    raw["models"]["expert"] = "nobody/no-such-model"


def no_weights(raw: dict[str, Any]) -> None:
    base = Path(raw["runs"]).with_name("base")
    base.mkdir()
    (base / "config.json").write_text("{}")
    raw["models"]["base"] = str(base)


def contradiction(raw: dict[str, Any]) -> None:
    raw["train"] |= {"deepspeed": "configs/deepspeed/zero2.json", "max_grad_norm": 0.5}
    path = Path(raw["runs"]).with_name("zero.json")
    path.write_text(json.dumps(json.loads(Path("configs/deepspeed/zero2.json").read_text()) | {"gradient_clipping": 1}))
    raw["train"]["deepspeed"] = str(path)


def no_kept(raw: dict[str, Any]) -> None:
    raw["train"]["checkpoints"] = "/proc/kept"


def no_runs(raw: dict[str, Any]) -> None:
    raw["runs"] += "/config.yaml/runs"
    Path(raw["runs"]).parents[1].mkdir()
    Path(raw["runs"]).parent.touch()


FAULTS = {
    no_key: "api_key_env: the environment variable 'KEY' is not set; export it",
    no_pool: "ingest.source: /no/pool.parquet: no such file",
    no_replay: "replay.parquet",
    no_tables: "evaluate.data: /no/tables is no folder; put the benchmarks' TSV files there",
    no_table: "MiniRead.tsv: no such file; set evaluate.data or the benchmark's file",
    other_table: "but the published MMStar has e1ecd2140806c1b1bbf54b43372efb9e; download it again",
    no_column: "Mine.tsv: no column 'ID'",
    no_model: "models.vlm: './no/vlm' does not exist; give a path that does, or a hub id",
    not_cached: "models.expert: 'nobody/no-such-model' is not in the hub's cache, and HF_HUB_OFFLINE is set",
    no_weights: "base: no weights (model.safetensors",
    contradiction: "zero.json: gradient_clipping is 1, but train.max_grad_norm is 0.5; set it to 'auto'",
    no_kept: "train.checkpoints: /proc/kept cannot be written (No such file or directory); set train.checkpoints to",
    no_runs: "config.yaml/runs cannot be written (Not a directory); set runs to another folder",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found_and_nothing_runs(
    fault: Callable[[dict[str, Any]], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = changed(tmp_path, fault)
    with pytest.raises(SystemExit) as end:
        main(["rehearse", "-c", str(config)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("✗")]
    assert end.value.code == 2
    assert len(lines) == 1 and FAULTS[fault] in lines[0]
    assert not list(tmp_path.glob("runs/rehearsal")), "a rehearsal began"


def test_all_faults_are_shown_at_once(tmp_path: Path) -> None:
    def spoil(raw: dict[str, Any]) -> None:
        for fault in (no_key, no_pool, no_table, other_table, no_model):
            fault(raw)

    assert len(problems(changed(tmp_path, spoil))) == 5


def test_every_checkpoint_of_a_delta_is_looked_for(tmp_path: Path) -> None:
    experts = [{"model": "/no/code"}, {"model": "/no/maths", "minus": "/no/base"}]
    config = changed(tmp_path, lambda raw: raw["deltas"].update(paper={"experts": experts}))
    said = [problem for problem in problems(config) if problem.startswith("deltas.paper: ")]
    assert [problem.split("'")[1] for problem in said] == ["/no/base", "/no/code", "/no/maths"]


def test_a_good_configuration_has_no_problem(tmp_path: Path) -> None:
    assert problems(changed(tmp_path, lambda raw: None)) == []


def test_an_unknown_benchmark_is_refused_with_the_nearest_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = changed(tmp_path, lambda raw: raw["evaluate"]["benchmarks"].update({"Mine": {"format": "MMStarr"}}))
    with pytest.raises(SystemExit) as end:
        main(["rehearse", "-c", str(config), "--only-checks"])
    assert end.value.code == 2
    assert "no benchmark 'MMStarr'; did you mean 'MMStar'?" in capsys.readouterr().err


def on_the_cluster(raw: dict[str, Any]) -> None:
    """What the steps read lies on the example's claims, or comes from the hub."""
    raw["models"] = {"vlm": "/models/vlm", "expert": "/models/expert", "base": "/models/base"}
    raw["ingest"]["source"], raw["evaluate"]["data"] = "/models/pool.parquet", "/benchmarks/tables"
    raw["curate"]["replay"]["source"] = "/models/replay.parquet"
    raw["generate"]["teacher"] = {"kind": "endpoint", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    raw["train"]["deepspeed"] = "/models/zero2.json"


def test_what_cannot_be_looked_at_is_a_note_and_no_problem(tmp_path: Path) -> None:
    config = changed(tmp_path, on_the_cluster)
    findings = preflight(load(config), resources=EXAMPLE)
    assert [finding for finding in findings if finding.is_problem] == []
    notes = {finding.check: finding.detail for finding in findings if finding.state == "note"}
    assert "does not answer from here" in notes["generate.teacher.base_url"]
    assert "no cluster: neither a kubeconfig" in notes["claim drift-models"]
    assert {"claim drift-benchmarks", "secret huggingface", "config map drift-mlflow"} < set(notes)


def test_what_lies_on_a_claim_is_not_looked_for_here(tmp_path: Path) -> None:
    config = changed(tmp_path, on_the_cluster)
    notes = {finding.check: finding.detail for finding in preflight(load(config), resources=EXAMPLE)}
    assert notes["evaluate.data"] == "/benchmarks/tables lies on the claim 'drift-benchmarks', not here"
    assert notes["models.vlm"] == "/models/vlm lies on the claim 'drift-models', not here"
    assert len(problems(config)) >= 6


def test_a_path_that_some_step_does_not_mount_is_found(tmp_path: Path) -> None:
    def elsewhere(raw: dict[str, Any]) -> None:
        on_the_cluster(raw)
        raw["ingest"]["source"], raw["models"]["expert"] = (
            "drift/planning/miniature/assets/pool.parquet",
            "/benchmarks/expert",
        )
        raw["arms"]["merged"] = {"merge": {"method": "linear", "experts": ["/benchmarks/code"]}}

    assert problems(changed(tmp_path, elsewhere), resources=EXAMPLE) == [
        "models.expert: /benchmarks/expert lies on the claim 'drift-benchmarks', which the step 'inputs' does not "
        "mount; give the volume to roles.pipeline or steps.inputs",
        "arms.merged.merge.experts: /benchmarks/code lies on the claim 'drift-benchmarks', which the step 'inputs' does"
        " not mount; give the volume to roles.pipeline or steps.inputs",
        "ingest.source: drift/planning/miniature/assets/pool.parquet lies on no claim of the profile, and pods see "
        "no other folder; add a volume",
    ]


def test_checkpoints_must_lie_where_a_pod_s_next_one_sees_them(tmp_path: Path) -> None:
    def kept(raw: dict[str, Any]) -> None:
        on_the_cluster(raw)
        raw["train"]["checkpoints"], raw["generate"]["checkpoints"] = "/scratch/trainings", "/models/replies"
        raw["evaluate"]["checkpoints"] = "/nowhere"

    config = changed(tmp_path, kept)
    profile = yaml.safe_load(EXAMPLE.read_text()) | {"shared": {"claim": "drift-scratch", "path": "/scratch"}}
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(profile))
    found = {one.check: one.detail for one in preflight(load(config), resources=tmp_path / "profile.yaml")}
    assert found["train.checkpoints"] == "/scratch/trainings lies on the claim 'drift-scratch', not here"
    assert found["evaluate.checkpoints"].startswith("evaluate.checkpoints: /nowhere lies on no claim of the profile")


def test_a_key_that_no_secret_gives_a_step_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_key(raw: dict[str, Any]) -> None:
        on_the_cluster(raw)
        raw["generate"]["teacher"]["api_key_env"] = "KEY"

    monkeypatch.setenv("KEY", "only here")
    config, profile = changed(tmp_path, with_key), tmp_path / "profile.yaml"
    assert problems(config, resources=EXAMPLE) == [
        "api_key_env: no secret gives the step 'generate' the variable 'KEY'; name one in roles.evaluate.secrets or "
        "steps.generate.secrets"
    ]
    raw = yaml.safe_load(EXAMPLE.read_text())
    raw["steps"]["generate"]["secrets"] = [{"name": "teacher", "env": {"key": "KEY"}}]
    profile.write_text(yaml.safe_dump(raw))
    assert problems(config, resources=profile) == []


def test_a_server_that_answers_is_found(tmp_path: Path) -> None:
    with OpenAIServer() as server:
        served = {"kind": "endpoint", "base_url": server.url, "model": "m"}
        config = changed(tmp_path, lambda raw: raw["generate"].update(teacher=served))
        findings = {finding.check: finding.state for finding in preflight(load(config))}
    assert findings["generate.teacher.base_url"] == "passed"


def test_an_unknown_key_of_the_resources_is_found(tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text("roles: {train: {gpu: 8}}\n")
    config = changed(tmp_path, lambda raw: None)
    assert problems(config, resources=tmp_path / "profile.yaml") == [
        f"{tmp_path}/profile.yaml.roles.train.gpu: unknown key; did you mean 'gpus'?"
    ]


def test_claims_and_secrets_that_the_cluster_lacks_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(tmp_path, on_the_cluster)
    with namespace(tmp_path, claims={"drift-models": BOUND}, secrets={"huggingface": {"password": "x"}}) as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        assert problems(config, resources=EXAMPLE) == [
            "volumes: claim 'drift-benchmarks' is not in the namespace 'kubeflow'; create it, or correct its name",
            "secrets: 'huggingface' has no key 'token'; it has password",
            "config map 'drift-mlflow' is not in the namespace 'kubeflow'; create it, or correct its name",
        ]
    claims = {"drift-models": BOUND, "drift-benchmarks": BOUND}
    whole = {"claims": claims, "secrets": {"huggingface": {"token": "x"}}, "config": {MLFLOW: "http://mlflow:5000"}}
    with namespace(tmp_path, **whole) as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        assert problems(config, resources=EXAMPLE) == []


def test_a_disk_that_is_too_small_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    (said,) = problems(changed(tmp_path, lambda raw: None))
    assert said.startswith("runs: only 0.0 GB free below") and said.endswith("or set runs to another disk")
