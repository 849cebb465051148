"""`drift serve`: a model served until somebody ends it, the command printed, and the same for KServe.

An executable of the tests stands in for vLLM (tests/vllm_server.py). KServe's fields were read in its source at commit
aaac4e2, in the files that `drift/inference/serving/kserve.py` names.
"""

import os
import re
import shlex
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml
from mlflow import MlflowClient

from drift.cli.app import main
from drift.config.servers import VllmConfig
from drift.ground.artifacts import content_sha256
from drift.ground.errors import ConfigError
from drift.inference.served import start
from drift.inference.serving.command import Wanted, printed
from drift.inference.serving.kserve import Pod, inference_service
from drift.tracking.models.at_hand import AtHand
from drift.tracking.models.registry import Champion
from tests.forked import begin
from tests.unit.cli.test_models import Terminal, drift
from tests.unit.inference.test_served import ENDS_SECONDS, Installed, vllm, wait_for
from tests.unit.tracking.test_promoting import Chain, chain
from tests.unit.tracking.test_registry import CONFIG, client
from tests.vllm_server import parser

__all__ = ["chain", "client", "drift", "vllm"]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

NAME = CONFIG.model


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ------------------------------------------------------------------------------------------------ started


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
    ids=["Ctrl-C", "TERM", "KILL"],
)
def test_a_registered_version_is_served_on_loopback_and_asked_until_it_is_ended(
    chain: Chain, vllm: Installed, drift: Terminal, tmp_path: Path, number: signal.Signals, code: int
):
    port, out = free_port(), tmp_path / "out"
    url = f"http://127.0.0.1:{port}/v1"
    words = ["serve", "--model", f"{NAME}@champion", "--port", str(port), "max_model_len=4096"]
    process = begin(main, words, out=out, err=tmp_path / "err")
    wait_for(lambda: process.exitcode is not None or (out.exists() and "is served at" in out.read_text()))
    (begun,) = vllm.starts()
    asked = parser().parse_args(begun["argv"][2:])
    assert (asked.host, asked.served_model_name, asked.max_model_len) == ("127.0.0.1", [NAME], 4096)
    assert asked.generation_config == "vllm" and begun["environment"]["PYTHONPATH"] is None
    assert content_sha256(Path(asked.model_tag)) == content_sha256(chain.model("two"))
    assert drift.json("ask", "--url", url, "--model", NAME, "compute 7")["answer"] == "\\boxed{7}"
    assert out.read_text() == f"{NAME} is served at {url}; `drift ask --url {url} --model {NAME}` asks it\n"
    os.kill(int(process.pid or 0), number)
    process.join(ENDS_SECONDS)
    assert (process.exitcode, vllm.gone()) == (code, True)
    assert number == signal.SIGKILL or not Path(asked.model_tag).exists()


def test_a_key_of_the_environment_is_wanted_of_clients_and_is_on_no_command_line(
    vllm: Installed, drift: Terminal, tmp_path: Path
):
    port, out = free_port(), tmp_path / "out"
    url, words = f"http://127.0.0.1:{port}/v1", ["--host", "0.0.0.0", "--port", str(port)]
    process = begin(main, ["serve", "--model", str(vllm.model), *words], out=out, VLLM_API_KEY="of-the-team")
    wait_for(lambda: process.exitcode is not None or (out.exists() and "is served at" in out.read_text()))
    assert urllib3.request("GET", f"{url}/models").status == 401
    vllm.monkeypatch.setenv("TEAM", "of-the-team")
    assert drift.json("ask", "--url", url, "--api-key-env", "TEAM", "--model", "model", "compute 7")["tokens"] == 5
    assert "of-the-team" not in " ".join(vllm.starts()[0]["argv"]) and "of-the-team" not in out.read_text()
    os.kill(int(process.pid or 0), signal.SIGINT)
    process.join(ENDS_SECONDS)
    assert process.exitcode == 0


def test_a_server_that_ends_by_itself_is_an_error_after_what_it_said(vllm: Installed, capfd: Any):
    vllm.behaves(fails=["ValueError: no such architecture"])
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--model", str(vllm.model), "--port", str(free_port())])
    said = capfd.readouterr().err
    assert ended.value.code == 2 and "ValueError: no such architecture" in said
    assert said.endswith("drift: model: vLLM ended (exit code 1); what it said stands above\n")


def test_ctrl_c_in_a_terminal_does_not_reach_what_ends_the_server(vllm: Installed):
    """It goes to the group of the terminal's command: what ends vLLM must be in another to live so long."""
    process = start([str(vllm.folder / "vllm"), "serve", str(vllm.model), "--port", str(free_port())], None)
    assert os.getpgid(process.pid) != os.getpgid(0)
    wait_for(lambda: bool(vllm.starts()))
    assert process.stdin
    process.stdin.close()
    process.wait(ENDS_SECONDS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", "0.0.0.0"), "--host 0.0.0.0: others reach it there, and it would answer everybody; export VL"),
        (("system=Hi",), "system: is for who asks a server, not for the server; leave it out"),
        (("args=[--port=1]",), "serve.args: '--port' is set by the step"),
        (("--memory", "9Gi"), "--memory: is for --kserve; add that, or leave it out"),
        (("--storage-uri", "s3://b/m"), "--storage-uri: is for --kserve"),
    ],
)  # fmt: skip
def test_a_wrong_wish_gets_one_line_and_starts_nothing(
    vllm: Installed, drift: Terminal, arguments: tuple[str, ...], said: str
):
    vllm.monkeypatch.delenv("VLLM_API_KEY", raising=False)
    code, out, error = drift("serve", "--model", str(vllm.model), *arguments)
    assert (code, out, error.count("\n")) == (2, "", 1) and error.startswith(f"drift: {said}")
    assert vllm.starts() == []


def test_a_port_that_is_taken_is_said_before_anything_is_started(vllm: Installed, drift: Terminal):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = drift("serve", "--model", str(vllm.model), "--port", str(port))[2]
    assert error == (f"drift: --port {port}: cannot be served at 127.0.0.1 (Address already in use); choose another\n")
    assert vllm.starts() == []


def test_where_vllm_is_not_installed_one_line_says_how_to_go_on(
    drift: Terminal, chain: Chain, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DRIFT_VLLM", "/no/vllm")
    code, _, error = drift("serve", "--model", NAME)
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith(
        "drift: serve.command: '/no/vllm' is no executable; install it in an environment of its own"
    )
    assert error.endswith(
        f"without it: `drift ask --model {NAME}` here, or on another machine what `drift serve --model {NAME} --print` "
        "prints\n"
    )


# ------------------------------------------------------------------------------------------------ printed


def test_the_printed_command_is_one_that_vllm_takes_and_names_files_that_are_there(
    drift: Terminal, chain: Chain, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DRIFT_VLLM", "/no/vllm")
    code, out, _ = drift("serve", "--model", f"models:/{NAME}/1", "--print", "images_per_prompt=2", "--port", "9")
    words = shlex.split(out)
    asked = parser().parse_args(words[2:])
    assert (code, words[:2], asked.port, asked.served_model_name) == (0, ["vllm", "serve"], 9, [NAME])
    assert asked.limit_mm_per_prompt == {"image": 2, "video": 0}
    assert (Path(asked.model_tag) / "model.safetensors").read_text() == "one"


def wanted(location: str, **settings: Any) -> Wanted:
    """Version 2 of a model whose files are at an address of no machine."""
    found = AtHand(Champion("cat.Drift_VLM", 2, "5ha"), location, None, frozenset())
    return Wanted("cat.Drift_VLM@champion", found, VllmConfig(**settings))


def test_files_elsewhere_are_fetched_by_a_line_before_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DRIFT_VLLM", "/no/vllm")
    fetch, serve = printed(wanted("mlflow-artifacts:/1/models/m-1/artifacts")).splitlines()
    assert fetch == "drift models download cat.Drift_VLM 2 --out cat.Drift_VLM-2"
    assert serve.startswith("vllm serve ./cat.Drift_VLM-2 --served-model-name cat.Drift_VLM --dtype auto ")
    assert serve.endswith(" --host 127.0.0.1 --port 8000")


# ------------------------------------------------------------------------------------------------- KServe

FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "metadata": {"name", "annotations"},
    "spec": {"predictor"},  # InferenceServiceSpec
    "spec.predictor": {
        "model",
        "minReplicas",
        "maxReplicas",
        "serviceAccountName",
    },  # PredictorSpec, all it inlines
    "spec.predictor.model": {"modelFormat", "storageUri", "args", "resources"},  # ModelSpec, all it inlines
    "spec.predictor.model.modelFormat": {"name"},
    "spec.predictor.model.resources": {"requests", "limits"},  # of a Kubernetes container
}
REQUIRED = ("spec.predictor.model.modelFormat", "spec.predictor.model.modelFormat.name")  # `+required` in the source
NAMES = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # IsvcNameFmt
OWN = {"--model_name", "--backend", "--max_model_len", "--trust_remote_code"}
"""Arguments of KServe's runtime that are not vLLM's, or by another name."""


def fields(body: Any, path: str = "") -> dict[str, set[str]]:
    """The names in each mapping that KServe's types describe."""
    below = {name: value for name, value in body.items() if f"{path}.{name}".lstrip(".") in FIELDS}
    deeper = [fields(value, f"{path}.{name}".lstrip(".")) for name, value in below.items()]
    return {path: set(body)} | {place: names for one in deeper for place, names in one.items()}


def test_an_inference_service_has_kserves_fields_and_arguments_that_its_runtime_takes():
    settings = {"tensor_parallel": 2, "data_parallel": 3, "max_model_len": 8192, "images_per_prompt": 2}
    asked = wanted("s3://bucket/models/m-1/artifacts", **settings, trust_remote_code=True, args=["--enforce-eager"])
    text = inference_service(asked, None, Pod(service_account="reader"))
    body = yaml.safe_load(text)
    found = fields(body)
    assert set(found) == set(FIELDS) and all(found[place] <= FIELDS[place] for place in found)
    assert all(place.rpartition(".")[2] in found[place.rpartition(".")[0]] for place in REQUIRED)
    assert (body["apiVersion"], body["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert body["metadata"]["name"] == "cat-drift-vlm" and NAMES.fullmatch("cat-drift-vlm")
    assert body["metadata"]["annotations"] == {"drift.version": "models:/cat.Drift_VLM/2", "drift.contents": "5ha"}
    predictor = body["spec"]["predictor"]
    assert (predictor["serviceAccountName"], predictor["minReplicas"], predictor["maxReplicas"]) == ("reader", 3, 3)
    model = predictor["model"]
    assert (model["modelFormat"], model["storageUri"]) == (
        {"name": "huggingface"}, "s3://bucket/models/m-1/artifacts",
    )  # fmt: skip
    assert model["resources"]["limits"] == {"cpu": "4", "memory": "32Gi", "nvidia.com/gpu": "2"}
    assert model["args"][:2] == ["--model_name=cat.Drift_VLM", "--backend=vllm"]
    assert {"--max_model_len=8192", "--trust_remote_code"} < set(model["args"])
    vllms = [one for one in model["args"] if one.partition("=")[0] not in OWN]
    taken = parser().parse_args(["m", *vllms])
    assert (taken.limit_mm_per_prompt, taken.enforce_eager) == ({"image": 2, "video": 0}, True)


@pytest.mark.parametrize(
    ("location", "storage_uri", "said"),
    [
        ("mlflow-artifacts:/1/m", None, "cat.Drift_VLM@champion: its files are at mlflow-artifacts:/1/m, which KServe"),
        ("/runs/mlartifacts/m", None, "cat.Drift_VLM@champion: its files are at /runs/mlartifacts/m, which KServe"),
        ("s3://bucket/m", "/mnt/m", "--storage-uri: /mnt/m KServe does not fetch from; `drift models download cat.Dr"),
    ],
)  # fmt: skip
def test_an_address_that_kserve_does_not_fetch_is_refused_with_the_way_out(
    location: str, storage_uri: str | None, said: str
):
    with pytest.raises(ConfigError) as raised:
        inference_service(wanted(location), storage_uri, Pod())
    assert str(raised.value).startswith(said)
    assert "name it with --storage-uri" in str(raised.value)


def test_the_command_prints_the_manifest_of_a_version_whose_files_were_put_elsewhere(
    drift: Terminal, client: MlflowClient, chain: Chain
):
    place = "pvc://models/drift-vlm-2"
    code, out, _ = drift("serve", "--model", NAME, "--kserve", "--storage-uri", place, "--memory", "48Gi")
    body = yaml.safe_load(out)
    assert code == 0 and body["spec"]["predictor"]["model"]["storageUri"] == place
    assert body["spec"]["predictor"]["model"]["resources"]["requests"]["memory"] == "48Gi"
    assert body["metadata"]["annotations"]["drift.contents"] == content_sha256(chain.model("two"))
    hub = drift("serve", "--model", "Qwen/Qwen2.5-VL-7B-Instruct@main", "--kserve")[1]
    served = yaml.safe_load(hub)
    assert served["metadata"] == {"name": "qwen2-5-vl-7b-instruct"}
    model = served["spec"]["predictor"]["model"]
    assert (model["storageUri"], model["args"][0]) == (
        "hf://Qwen/Qwen2.5-VL-7B-Instruct:main", "--model_name=Qwen2.5-VL-7B-Instruct",
    )  # fmt: skip
