"""What the steps' pods get on a cluster, from file to compiled pipeline."""

import re
from pathlib import Path

import pytest
import yaml
from kfp import local

from drift.config.chain import Config
from drift.config.section import validate
from drift.ground.errors import ConfigError, DataError
from pipelines.cluster.compile import check_file, compile_components, compile_pipeline
from pipelines.names import SECRET
from pipelines.placement import NOTHING, Resources, read_resources
from tests.pipelines.test_compile import CONFIG

EXAMPLE = Path(__file__).parents[2] / "configs" / "resources" / "one_node.yaml"
Executor = dict[str, dict]


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Executor, Executor]:
    """Executors of the pipeline and of the platform, by step, compiled with the example."""
    return executors_of(tmp_path_factory.mktemp("placed"), read_resources(EXAMPLE))


def executors_of(folder: Path, resources: Resources) -> tuple[Executor, Executor]:
    path = folder / "p.yaml"
    compile_pipeline(validate(Config, CONFIG), path, resources)
    check_file(path)
    spec, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return tuple(
        {name.removeprefix("exec-"): one for name, one in executors.items()}
        for executors in (spec["deploymentSpec"]["executors"], kubernetes)
    )  # type: ignore[return-value]


def test_training_gets_the_gpus_and_memory_of_its_role(placed: tuple[Executor, Executor]) -> None:
    size = placed[0]["arm"]["container"]["resources"]
    assert size["accelerator"] == {
        "count": "8", "type": "nvidia.com/gpu", "resourceCount": "8", "resourceType": "nvidia.com/gpu",
    }  # fmt: skip
    assert (size["memoryLimit"], size["memoryRequest"], size["resourceCpuLimit"]) == (549.755813888,) * 2 + ("32",)
    pod = placed[1]["arm"]
    assert pod["emptyDirMounts"] == [
        {"medium": "Memory", "mountPath": "/dev/shm", "sizeLimit": "64Gi", "volumeName": "dshm"}
    ]
    assert pod["pvcMount"] == [{"constant": "drift-models", "mountPath": "/models",
                                "pvcNameParameter": {"runtimeValue": {"constant": "drift-models"}}}]  # fmt: skip
    assert pod["tolerations"] == [{"effect": "NoSchedule", "key": "nvidia.com/gpu", "operator": "Exists"}]
    assert pod["podMetadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "drift", "sidecar.istio.io/inject": "false"}


def test_a_secret_is_named_and_a_step_may_differ_from_its_role(placed: tuple[Executor, Executor]) -> None:
    (secret,) = placed[1]["evaluate-arm"]["secretAsEnv"]
    assert secret["keyToEnv"] == [{"envVar": "HF_TOKEN", "secretKey": "token"}]
    assert "accelerator" in placed[0]["evaluate-vlm"]["container"]["resources"]
    assert "accelerator" not in placed[0]["generate"]["container"]["resources"]
    assert "accelerator" not in placed[0]["gate"]["container"]["resources"]


def test_a_pod_s_size_place_and_rights_are_as_the_profile_has_them(tmp_path: Path) -> None:
    profile = {
        "roles": {
            "train": {
                "cpu": "8", "cpu_request": "500m", "memory": "64Gi", "memory_request": "32Gi",
                "env": {"NCCL_DEBUG": "INFO"}, "image_pull_policy": "Always", "run_as_user": 10001,
                "node_affinity": [
                    {"match": [{"key": "gpu", "values": ["h100", "h200"]}]},
                    {"match": [{"key": "spot", "operator": "DoesNotExist"}], "weight": 10},
                ],
                "scratch": {"size": "500Gi", "storage_class": "fast", "paths": ["/minio"]},
            },
        },
    }  # fmt: skip
    pipeline, kubernetes = executors_of(tmp_path, validate(Resources, profile))
    container, pod = pipeline["arm"]["container"], kubernetes["arm"]
    size = container["resources"]
    assert (size["resourceCpuRequest"], size["resourceCpuLimit"]) == ("500m", "8")
    assert (size["resourceMemoryRequest"], size["resourceMemoryLimit"]) == ("32Gi", "64Gi")
    assert container["env"][1:] == [{"name": "NCCL_DEBUG", "value": "INFO"}]
    assert container["env"][0] == {"name": "DRIFT_IMAGE", "value": container["image"]}
    assert pod["imagePullPolicy"] == "Always"
    assert pod["securityContext"] == {"runAsNonRoot": True, "runAsUser": "10001"}
    assert pod["nodeAffinity"] == [
        {"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h100", "h200"]}]},
        {"matchExpressions": [{"key": "spot", "operator": "DoesNotExist"}], "weight": 10},
    ]
    assert pod["genericEphemeralVolume"] == [
        {"accessModes": ["ReadWriteOnce"], "mountPath": "/minio", "size": "500Gi", "storageClassName": "fast",
         "volumeName": "drift-scratch"}
    ]  # fmt: skip
    assert [one["name"] for one in pipeline["gate"]["container"]["env"]] == ["DRIFT_IMAGE"]
    bare = executors_of(tmp_path, NOTHING)[0]["arm"]["container"]["env"]
    assert [one["name"] for one in bare] == ["DRIFT_IMAGE"], "a profile is of its own compilation"


def test_without_a_file_no_step_asks_for_anything(tmp_path: Path) -> None:
    compile_pipeline(validate(Config, CONFIG), tmp_path / "p.yaml")
    assert "resources:" not in (tmp_path / "p.yaml").read_text()


def test_the_same_resources_compile_to_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        compile_pipeline(validate(Config, CONFIG), tmp_path / name, read_resources(EXAMPLE))
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("roles: {trian: {}}", "roles.trian: no such role; did you mean 'train'"),
        ("steps: {evaluate: {gpus: 1}}", "steps.evaluate: no such step; did you mean"),
        ("roles: {train: {gpu: 1}}", "roles.train.gpu: unknown key; did you mean 'gpus'"),
        ("roles: {train: {memory: lots}}", "roles.train.memory: .*lots"),
        ("steps: {arm: {shm: 3 GB}}", "steps.arm.shm"),
        ("roles: {train: {volumes: [{claim: a, path: models}]}}", "path"),
        ("roles: {train: {secrets: [{name: hf}]}}", "env: required"),
        ("roles: {train: {nodes: 2}}", "roles.train.nodes: a training on 2 nodes without a GPU; set gpus"),
        ("roles: {train: {nodes: 2, gpus: 8}}", r"roles.train.nodes: 2 nodes meet on a claim; set shared: \{claim"),
        (
            "steps: {ingest: {nodes: 3}}",
            "steps.ingest.nodes: only a training runs on several nodes; give it to roles.t",
        ),
        ("shared: {claim: a.b, path: /scratch}", "shared.claim: .*got 'a.b'"),
        ("roles: {train: {memory: 1.5Gi}}", "roles.train.memory: .*1.5Gi"),
        (
            "roles: {train: {cpu: '4', cpu_request: 5000m}}",
            "5000m is more than the limit cpu: 4; lower it",
        ),
        ("roles: {train: {memory: 1Gi, memory_request: 2G}}", "memory_request: 2G is more than the limit memory: 1Gi"),
        ("roles: {train: {env: {HF_TOKEN: hf_x}}}", "HF_TOKEN looks like a secret, .* put it into a Secret"),
        ("roles: {train: {env: {PROXY: 'http://me:pass@proxy'}}}", "PROXY looks like a secret"),
        (
            "roles: {train: {env: {MLFLOW_TRACKING_URI: http://m}}}",
            "MLFLOW_TRACKING_URI is the pipeline's own",
        ),
        ("roles: {train: {secrets: [{name: m, env: {id: DRIFT_RUN_ID}}]}}", "DRIFT_RUN_ID is the pipeline's own"),
        ("roles: {train: {env: {A: x}, secrets: [{name: m, env: {id: A}}]}}", "the variable A is given twice"),
        ("roles: {train: {volumes: [{claim: a, path: /s3}], scratch: {size: 1Gi}}}", "the path /s3 is given twice"),
        ("roles: {train: {volumes: [{claim: my.claim, path: /m}]}}", "claim: .*'my.claim'"),
        ("roles: {train: {secrets: [{name: My_Secret, env: {a: A}}]}}", "name: .*My_Secret"),
        ("roles: {train: {labels: {queue: 'a b'}}}", "labels.queue: .*'a b'"),
        ("roles: {train: {node_selector: {-a/b: c}}}", "node_selector"),
        ("roles: {train: {node_affinity: [{match: [{key: gpu}]}]}}", "operator In needs values; name some"),
        ("roles: {train: {node_affinity: [{match: [{key: n, operator: Gt, values: ['1', '2']}]}]}}", "takes 1 value"),
        ("roles: {train: {tolerations: [{operator: Exists, value: x}]}}", "operator Exists takes no value"),
        ("roles: {train: {tolerations: [{value: x}]}}", "operator Equal needs a key; set one"),
        ("pull_secrets: [Registry]", "pull_secrets.0: .*Registry"),
        ("[1, 2]", "not a mapping"),
    ],
)
def test_a_wrong_profile_is_an_error_that_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "cluster.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_resources(tmp_path / "cluster.yaml")
    assert "\n" not in str(error.value)


def test_a_missing_profile_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_resources(tmp_path / "none.yaml")
    assert read_resources(None) == NOTHING


def test_every_step_is_a_component_that_a_pipeline_of_others_can_run(tmp_path: Path) -> None:
    from kfp import components, dsl

    files = compile_components(tmp_path / "components")
    assert [path.stem for path in files].count("gate") == 1 and len(files) == 16
    with pytest.raises(DataError, match="exists already"):
        compile_components(tmp_path / "components")
    ingest = components.load_component_from_file(str(tmp_path / "components" / "ingest.yaml"))

    @dsl.pipeline(name="not-ours")
    def theirs(section: str):
        ingest(step=section)

    pool = Path(__file__).parents[2] / "drift" / "planning" / "miniature" / "assets" / "pool.parquet"
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"))
    theirs(section=f'{{"source": "{pool}", "limit": 20}}')
    (table,) = (tmp_path / "root").rglob("problems.parquet")
    assert table.stat().st_size > 0


def documented_users() -> Resources:
    """The profile of docs/mlflow.md that gives two steps another user of MLflow than the rest."""
    text = (EXAMPLE.parents[2] / "docs" / "mlflow.md").read_text(encoding="utf-8")
    return validate(Resources, yaml.safe_load(text[text.index("\nroles:") :].partition("```")[0]))


def test_each_step_gets_the_user_of_mlflow_that_the_documented_profile_gives_it(tmp_path: Path) -> None:
    spec, pods = executors_of(tmp_path, documented_users())
    users = {
        step: [key["envVar"] for secret in pod["secretAsEnv"] for key in secret["keyToEnv"]]
        for step, pod in pods.items()
    }
    assert set(users) == {step for step, one in spec.items() if "container" in one} > {"finalize", "champion", "arm"}
    assert all(names == ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"] for names in users.values())
    named = {step: pod["secretAsEnv"][0]["secretName"] for step, pod in pods.items()}
    assert {step for step, name in named.items() if name == "mlflow-registrar"} == {"gate", "register"}
    assert set(named.values()) == {"mlflow-registrar", "mlflow-steps"}
    values = {one["name"]: one.get("value") for one in spec["arm"]["container"]["env"]}
    assert values["MLFLOW_TRACKING_SERVER_CERT_PATH"] == "/certificates/ca.pem"


def test_a_profile_may_give_all_that_mlflow_and_a_bucket_are_reached_with_but_the_server_s_address() -> None:
    """Their names are those of the table in docs/mlflow.md, and the folder for what MLflow does not take."""
    text = (EXAMPLE.parents[2] / "docs" / "mlflow.md").read_text(encoding="utf-8")
    table = text[text.index("| variable | what |") :].split("\n\n")[0]
    named = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", table)) - {"MLFLOW_TRACKING_URI"}
    secret = {name for name in named if SECRET.search(name)}
    assert secret >= {"MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
    env = dict.fromkeys([*(named - secret), "DRIFT_SPOOL"], "x")
    secrets = [{"name": "s3", "env": {name.lower(): name for name in secret}}]
    assert validate(Resources, {"roles": {"train": {"env": env, "secrets": secrets}}}).of("arm").env == env
