"""What a wrong input gets: one line that names it, exit code 2, nothing written and nothing registered."""

import shutil
import socket
from pathlib import Path

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from drift.cli.app import main
from drift.ground.artifacts import write_json
from drift.planning.tables import TABLES, write_table
from tests.mlflow_store import fresh_store
from tests.openai_server import OpenAIServer
from tests.run_folders import past_run
from tests.tiny_models import tiny_family
from tests.unit.config.test_config import MISTAKES
from tests.world import ASSETS, EXPERT, TEACHER, VLM, training_set

MINIATURE = ["-c", "configs/miniature.yaml"]
BENCHMARKS = ASSETS / "benchmarks"
ROLES = ["benchmarks.MiniMath2.role=reasoning", "benchmarks.MiniRead.role=perception"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Good inputs of every step, and spoiled ones beside them."""
    here = tmp_path_factory.mktemp("world")
    quiet(["ingest", "--source", str(ASSETS / "pool.parquet"), "--out", str(here / "problems"), "limit=20"])
    quiet(["delta", "--expert", str(EXPERT), "--vlm", str(VLM), "--out", str(here / "delta")])
    training_set(here / "data", 8)
    spoil_tables(here)
    spoil_models(here)
    spoil_trainings(here)
    quick = ["evaluate", "--data", str(BENCHMARKS), *ROLES, "--model", str(VLM), "max_new_tokens=2"]
    quiet([*quick, "--limit", "2", "--out", str(here / "scores")])
    quiet([*quick, "--limit", "3", "--out", str(here / "other_scores")])
    (here / "refused").mkdir()
    write_json(here / "refused" / "gate.json", {"passed": False, "winner": "", "reasons": ["Reasoning fell."]})
    return here


def quiet(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code in (0, None)


def spoil_tables(here: Path) -> None:
    pool = pq.read_table(ASSETS / "pool.parquet")
    pq.write_table(pool.drop_columns(["answer"]), here / "no_answer.parquet")
    pq.write_table(pool.slice(0, 0), here / "empty.parquet")
    broken = pool.slice(0, 20).set_column(pool.schema.get_field_index("image"), "image", pa.array([b"no image"] * 20))
    pq.write_table(broken, here / "broken.parquet")
    (here / "text.parquet").write_text("not parquet")
    shutil.copytree(here / "problems", here / "no_problems")
    rows = pq.read_table(here / "problems" / "problems.parquet")
    pq.write_table(rows.slice(0, 0), here / "no_problems" / "problems.parquet")
    for name, header, row in [
        ("no_column", "index\timage\tquestion", "0\tAAAA\twhat ?"),
        ("no_rows", "index\timage\tquestion\tanswer", ""),
        ("no_image", "index\timage\tquestion\tanswer", "0\t!!!\twhat ?\t3"),
    ]:
        (here / name).mkdir()
        for benchmark in ("MiniMath2", "MiniRead"):
            (here / name / f"{benchmark}.tsv").write_text(f"{header}\n{row}\n" if row else f"{header}\n")

    (here / "not_published").mkdir()
    write_table(here / "not_published" / "RealWorldQA.tsv", TABLES["RealWorldQA"])


def spoil_models(here: Path) -> None:
    shutil.copytree(VLM, here / "cut")
    weights = here / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    shutil.copytree(VLM, here / "no_template")
    (here / "no_template" / "chat_template.jinja").unlink()
    shutil.copytree(EXPERT, here / "bin_only")
    (here / "bin_only" / "model.safetensors").rename(here / "bin_only" / "pytorch_model.bin")
    shutil.copytree(here / "delta", here / "cut_delta")
    delta = here / "cut_delta" / "delta.safetensors"
    delta.write_bytes(delta.read_bytes()[:-1000])


def spoil_trainings(here: Path) -> None:
    rows = pq.read_table(here / "data" / "train.parquet").to_pylist()
    rows[3]["images"][0]["bytes"] = b"no image"
    (here / "broken_image").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), here / "broken_image" / "train.parquet")
    for name, change in [("nan", lambda t: t * float("nan")), ("zero", torch.zeros_like)]:
        shutil.copytree(here / "delta", here / f"{name}_delta")
        tensors = {key: change(value) for key, value in load_file(here / "delta" / "delta.safetensors").items()}
        save_file(tensors, here / f"{name}_delta" / "delta.safetensors", metadata={"format": "drift-delta"})
    strangers = tiny_family(here / "strangers")
    expert, vlm = str(strangers.expert), str(strangers.vlm)
    quiet(["delta", "--expert", expert, "--vlm", vlm, "--out", str(here / "strange_delta")])
    zero = {"train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": 4, "gradient_clipping": "auto"}
    write_json(here / "zero.json", {**zero, "bf16": {"enabled": "auto"}, "zero_optimization": {"stage": 2}})
    (here / "text.json").write_text("not JSON")


PAIR = ["--expert", str(EXPERT), "--vlm", str(VLM)]
VLM_ON = ["--model", str(VLM), *ROLES]
SERVED = ["--model", "served", *ROLES, "--data", str(BENCHMARKS), "limit=3"]
TRAIN = [*MINIATURE, "--model", str(VLM)]
STEPS = {
    "ingest: missing file": (["ingest", "--source", "{}/none.parquet"], "none.parquet"),
    "ingest: not parquet": (["ingest", "--source", "{}/text.parquet"], "text.parquet"),
    "ingest: missing column": (["ingest", "--source", "{}/no_answer.parquet"], "answer"),
    "ingest: empty pool": (["ingest", "--source", "{}/empty.parquet"], "empty.parquet"),
    "ingest: too many rejected": (["ingest", "--source", "{}/broken.parquet"], "undecodable_image"),
    "ingest: source not set": (["ingest"], "ingest.source: required"),
    "generate: no teacher": (["generate", "--problems", "{}/problems"], "generate.teacher"),
    "generate: missing checkpoint": (
        ["generate", "--problems", "{}/problems", "--model", "/none/teacher"], "/none/teacher",
    ),
    "generate: unreachable endpoint": (
        ["generate", "--problems", "{}/problems", "--model", "m", "--endpoint", "http://127.0.0.1:9/v1",
         "teacher.max_retries=0"], "127.0.0.1:9",
    ),
    "generate: key not set": (
        ["generate", "--problems", "{}/problems", "--model", "m", "--endpoint", "http://127.0.0.1:9/v1",
         "teacher.api_key_env=DRIFT_NO_SUCH_KEY"], "DRIFT_NO_SUCH_KEY",
    ),
    "generate: no problems": (["generate", "--problems", "{}/no_problems", "--model", str(TEACHER)], "problems"),
    "generate: missing problems": (["generate", "--problems", "{}/none", "--model", str(TEACHER)], "none"),
    "curate: missing generations": (["curate", "--problems", "{}/problems", "--generations", "{}/none"], "none"),
    "delta: missing checkpoint": (["delta", "--expert", "/none/expert", "--vlm", str(VLM)], "/none/expert"),
    "delta: cut file": (["delta", "--expert", str(EXPERT), "--vlm", "{}/cut"], "model.safetensors"),
    "delta: only .bin": (["delta", "--expert", "{}/bin_only", "--vlm", str(VLM)], "safetensors"),
    "delta: same model twice": (["delta", "--expert", str(VLM), "--vlm", str(VLM)], "identical"),
    "delta: base not given": (["delta", *PAIR, "--minus", "base"], "base"),
    "delta: one of two experts missing": (
        ["delta", "--expert", f"{EXPERT}=0.5", "--expert", "/none/b=0.5", "--vlm", str(VLM)], "'/none/b'",
    ),
    "delta: an expert of weight 0": (["delta", *PAIR, "--expert", f"{EXPERT}=0"], "experts.1.weight"),
    "delta: weights that cancel out": (
        ["delta", "--expert", f"{EXPERT}=0.5", "--expert", f"{EXPERT}=-0.5", "--vlm", str(VLM)], "cancel out",
    ),
    "delta: unknown module": (["delta", *PAIR, "--modules", "atn"], "modules"),
    "delta: layer out of range": (["delta", *PAIR, "--layers", "7"], "layers"),
    "delta: pattern without a match": (
        ["delta", *PAIR, "--modules", "re:nothing"], "re:nothing",
    ),
    "merge: unknown method": (["merge", "--method", "tise", *PAIR], "merge.method"),
    "merge: base not given": (["merge", "--method", "ties", *PAIR], "base"),
    "merge: weights are no numbers": (
        ["merge", "--method", "linear", "--weights", "a,b", *PAIR], "merge.weights",
    ),
    "merge: layer swap keeps every layer": (
        ["merge", "--method", "layer_swap", *PAIR, "--keep-first", "9"], "keep_first",
    ),
    "train: missing training set": (["train", *TRAIN, "--data", "{}/none"], "none/train.parquet"),
    "train: missing model": (["train", *MINIATURE, "--model", "/none/vlm", "--data", "{}/data"], "/none/vlm"),
    "train: cut model": (["train", *MINIATURE, "--model", "{}/cut", "--data", "{}/data"], "cut"),
    "train: no chat template": (
        ["train", *MINIATURE, "--model", "{}/no_template", "--data", "{}/data"], "chat template",
    ),
    "train: cut delta": (
        ["train", *TRAIN, "--data", "{}/data", "--delta", "{}/cut_delta"], "cut_delta",
    ),
    "train: missing delta": (
        ["train", *TRAIN, "--data", "{}/data", "--delta", "{}/none"], "none",
    ),
    "train: delta with NaN": (["train", *TRAIN, "--data", "{}/data", "--delta", "{}/nan_delta"], "layers.0."),
    "train: delta of zeros": (["train", *TRAIN, "--data", "{}/data", "--delta", "{}/zero_delta"], "zero_delta"),
    "train: delta of another model": (
        ["train", *TRAIN, "--data", "{}/data", "--delta", "{}/strange_delta"], "made from another φ_VL",
    ),
    "train: image that does not decode": (["train", *TRAIN, "--data", "{}/broken_image"], "does not decode"),
    "train: deepspeed contradicts": (
        ["train", *TRAIN, "--data", "{}/data", "deepspeed={}/zero.json"], "gradient_accumulation_steps is 4",
    ),
    "train: deepspeed is no JSON": (
        ["train", *TRAIN, "--data", "{}/data", "deepspeed={}/text.json"], "text.json",
    ),
    "train: no processes": (["train", *TRAIN, "--data", "{}/data", "processes=0"], "train.processes"),
    "train: schedule acts per step only": (
        ["train", *TRAIN, "--data", "{}/data", "--delta", "{}/delta", "prior.apply=backward"], "schedule 'projection'",
    ),
    "train: liger without a GPU": (["train", *TRAIN, "--data", "{}/data", "liger=true"], "train.liger"),
    "train: everything over the cutoff": (
        ["train", *TRAIN, "--data", "{}/data", "cutoff_tokens=4"], "train.cutoff_tokens",
    ),
    "train: prior without a delta": (
        ["train", "--model", str(VLM), "--data", "{}/data", "prior.scale=adaptive"], "--delta",
    ),
    "evaluate: no model": (["evaluate", "--data", str(BENCHMARKS), *ROLES], "--model: which one?"),
    "evaluate: unknown row": (["evaluate", "--published", "r1-vl", "--data", str(BENCHMARKS), *ROLES], "'r1_vl'"),
    "evaluate: missing table": (["evaluate", *VLM_ON, "--data", "{}/problems"], "MiniMath2.tsv"),
    "evaluate: missing column": (["evaluate", *VLM_ON, "--data", "{}/no_column"], "answer"),
    "evaluate: empty table": (["evaluate", *VLM_ON, "--data", "{}/no_rows"], "no_rows"),
    "evaluate: broken images": (["evaluate", *VLM_ON, "--data", "{}/no_image"], "image"),
    "evaluate: no benchmarks": (["evaluate", "--model", str(VLM), "--data", str(BENCHMARKS)], "evaluate.benchmarks"),
    "evaluate: unknown benchmark": (
        ["evaluate", *VLM_ON, "--data", str(BENCHMARKS), "--suite", "reasonin"], "--suite: no benchmark 'reasonin'",
    ),
    "evaluate: not the published table": (
        ["evaluate", "--model", str(VLM), "--data", "{}/not_published", "--suite", "RealWorldQA"], "MD5",
    ),
    "evaluate: cut model": (["evaluate", "--model", "{}/cut", *ROLES, "--data", str(BENCHMARKS)], "does not load"),
    "evaluate: unreachable endpoint": (
        ["evaluate", *SERVED, "--endpoint", "http://127.0.0.1:9/v1", "endpoint.max_retries=0"],
        "evaluate.endpoint: http://127.0.0.1:9/v1 does not answer",
    ),
    "evaluate: key not set": (
        ["evaluate", *SERVED, "--endpoint", "http://127.0.0.1:9/v1", "endpoint.api_key_env=DRIFT_NO_SUCH_KEY"],
        "'DRIFT_NO_SUCH_KEY' is not set",
    ),
    "evaluate: missing model": (["evaluate", "--model", "/none/vlm", *ROLES, "--data", str(BENCHMARKS)], "/none/vlm"),
    "gate: missing scores": (["gate", "--baseline", "{}/none", "--candidate", "a={}/scores"], "none"),
    "gate: no scores": (["gate", "--baseline", "{}/scores", "--candidate", "{}/data"], "data/scores.json"),
    "gate: no name": (["gate", "--baseline", "{}/scores", "--candidate", "={}/scores"], "NAME=FOLDER"),
    "gate: a name twice": (
        ["gate", "--baseline", "{}/scores", "--candidate", "a={}/scores", "--arm", "a={}/scores"], "'a' is named twice",
    ),
    "gate: missing champion": (
        ["gate", "--baseline", "{}/scores", "--candidate", "a={}/scores", "--champion", "{}/none"], "none/scores.json",
    ),
    "compare: other protocol": (["compare", "{}/scores", "{}/other_scores"], "measured with different protocols"),
    "compare: missing scores": (["compare", "{}/scores", "{}/none"], "none/scores.json"),
    "gate: other data": (["gate", "--baseline", "{}/scores", "--candidate", "a={}/other_scores"], "other_scores"),
    "report: missing gate": (
        ["report", "--baseline", "{}/scores", "--arm", "a={}/scores", "--gate", "{}/none"], "none",
    ),
}  # fmt: skip


def one_line(capsys, arguments: list[str]) -> str:
    """The message of a command that must refuse: one line on standard error, exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(arguments)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("drift: ")]
    assert end.value.code == 2
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("case", STEPS)
def test_a_step_refuses_bad_input_and_writes_nothing(case, world, tmp_path, capsys):
    arguments, named = STEPS[case]
    out = tmp_path / "out"
    message = one_line(capsys, [*(argument.replace("{}", str(world)) for argument in arguments), "--out", str(out)])
    assert named in message
    assert not out.exists()


@pytest.mark.parametrize(
    ("status", "named"), [(400, "evaluate.max_failed"), (401, "check api_key_env"), (404, "correct model")]
)
def test_a_server_that_answers_with_errors_is_named(status, named, tmp_path, capsys):
    with OpenAIServer(status=lambda number: status) as server:
        message = one_line(capsys, ["evaluate", *SERVED, "--endpoint", server.url, "--out", str(tmp_path / "out")])
    assert named in message and "injected" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("override", "message"), MISTAKES, ids=[override for override, _ in MISTAKES])
def test_a_run_refuses_a_mistaken_configuration_before_anything_starts(override, message, tmp_path, capsys):
    assert message in one_line(capsys, ["run", f"runs={tmp_path}/runs", override])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "-c", "{}/none.yaml"], "none.yaml: no such file"),
        (["run", "models.vlm={}/none"], "models.vlm"),
        (["run", "ingest.source={}/none.parquet"], "none.parquet"),
        (["run", "evaluate.data={}"], "MiniMath2.tsv"),
        (["run", "curate.replay.source={}/none.parquet"], "none.parquet"),
        (["run", "runs=/proc/drift-runs"], "/proc/drift-runs"),
        (["ingest", "--source", str(ASSETS / "pool.parquet"), "--out", "/proc/drift-out"], "/proc/drift-out"),
        (["compile", "--out", "/proc/drift.yaml"], "/proc/drift.yaml"),
        (["miniature", "build", "--out", "{}"], "exists"),
        (["register", "--model", str(VLM), "--gate", "{}/none", "--name", "m", "--runs", "{}/runs"], "none"),
        (["register", "--model", str(VLM), "--gate", "{}/none", "--runs", "{}/runs"], "register.model: required"),
    ],
)
def test_a_place_that_does_not_exist_or_cannot_be_written_is_named(arguments, named, tmp_path, capsys):
    filled = [argument.replace("{}", str(tmp_path)) for argument in arguments]
    if arguments[0] == "run":
        filled += [] if any("runs=" in argument for argument in arguments) else [f"runs={tmp_path}/runs"]
    assert named in one_line(capsys, filled)


PAST = {
    "list: no such folder": (["runs", "list", "--runs", "{}/nowhere"], "nowhere: no folder of runs"),
    "show: no such run": (["runs", "show", "mimi", "--runs", "{}"], "mimi: no run of that name in"),
    "show: no such folder": (["runs", "show", "mini", "--runs", "{}/nowhere"], "nowhere: no folder of runs"),
    "compare: no such run": (["runs", "compare", "mini", "mimi", "--runs", "{}"], "mimi: no run of that name in"),
    "open: no such run": (["runs", "open", "mimi", "--runs", "{}"], "mimi: no run of that name in"),
    "open: no report": (["runs", "open", "mini", "--runs", "{}"], "no report (it is finished; drift runs show mini-"),
    "open: no server": (["runs", "open", "mini", "--mlflow", "--runs", "{}"], "(drift ui --runs {}"),
    "arms: no such run": (["compare", "mimi:sft", "mini:drift", "--runs", "{}"], "mimi: no run of that name in"),
    "arms: no such arm": (["compare", "mini:sft", "mini:drfit", "--runs", "{}"], "did you mean 'drift'?"),
    "clean: no such folder": (["clean", "--keep", "1", "--runs", "{}/nowhere"], "nowhere: no folder of runs"),
    "clean: no configuration": (["clean", "--keep", "1", "--runs", "{}"], "config.yaml: no configuration"),
    "track: no such run": (["track", "mimi", "--runs", "{}"], "mimi: no run of that name in"),
    "ui: no store": (["ui", "--runs", "{}/nowhere"], "nowhere: no MLflow store there yet"),
}


@pytest.mark.parametrize("case", PAST)
def test_a_past_run_that_is_not_there_is_named_and_nothing_is_changed(case, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fresh_store(tmp_path)
    old, _ = (past_run(tmp_path, started=f"2026-01-01T0{hour}:00:00+00:00") for hour in (1, 2))
    (old.path / "config.yaml").write_text("register: [")
    before = sorted(path for path in tmp_path.glob("*/**/*"))
    arguments, named = PAST[case]
    message = one_line(capsys, [argument.replace("{}", str(tmp_path)) for argument in arguments])
    assert named.replace("{}", str(tmp_path)) in message
    assert sorted(path for path in tmp_path.glob("*/**/*")) == before and not (tmp_path / "nowhere").exists()


def test_a_port_in_use_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"--port {port}: in use" in one_line(capsys, ["ui", "--port", port, "--runs", str(tmp_path)])


def test_a_model_that_the_gate_refused_is_not_registered(world, tmp_path, capsys):
    arguments = ["register", "--model", str(VLM), "--gate", str(world / "refused"), "--name", "m"]
    assert "refused" in one_line(capsys, [*arguments, "--runs", str(tmp_path / "runs")])
    store = tmp_path / "runs" / "mlflow.db"
    assert not store.exists() or not mlflow.MlflowClient(f"sqlite:///{store}").search_registered_models()


def test_an_mlflow_server_that_does_not_answer_is_named_before_anything_starts(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "127.0.0.1:9" in one_line(capsys, ["run", f"runs={tmp_path}/runs"])
    assert not list((tmp_path / "runs").glob("*/events.jsonl"))


def test_a_checkpoint_of_another_training_is_refused(world, tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "out.partial" / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    write_json(tmp_path / "out.partial" / "resume.json", {"train.epochs": 99.0})
    arguments = ["train", *MINIATURE, "--model", str(VLM), "--data", str(world / "data"), "--out", str(out)]
    message = one_line(capsys, [*arguments, "save_steps=2"])
    assert "another training (train.epochs: 99.0 there, 8.0 here)" in message and "remove it" in message
