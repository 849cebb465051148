"""A checkpoint served by vLLM: started, asked, and ended, however the step ends.

An executable of the tests stands in for it. What that takes and says was read in vLLM's source: tests/vllm_server.py.
"""

import contextlib
import json
import multiprocessing.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from drift.cli.app import main
from drift.config.chain import Config
from drift.config.data import GenerateConfig
from drift.config.evaluate import EvaluateConfig
from drift.config.file import load
from drift.config.section import validate
from drift.data.chains.distillation import generate
from drift.data.chains.generations import read_generations
from drift.data.chains.teacher import open_teacher
from drift.evaluate.benchmarks import read_benchmarks
from drift.evaluate.collect import fingerprint
from drift.evaluate.evaluation import evaluate
from drift.evaluate.questions import describe_asking
from drift.evaluate.samples import read_samples
from drift.evaluate.scores import read_scores
from drift.ground.artifacts import read_json
from drift.ground.errors import CheckpointError, ConfigError, DataError, ServiceError, UnavailableError
from drift.inference import guard
from drift.inference.parts import part_files
from drift.planning.outside import engines_of
from drift.planning.rehearsal import rehearsal_of
from pipelines.preflight import preflight
from tests.forked import begin, drift
from tests.pool_rows import ingested
from tests.unit.evaluate.test_benchmarks import png, table
from tests.vllm_server import install

ENDS_SECONDS = 300


@dataclass
class Installed:
    """The executable, a model that it takes, and what it has been started as."""

    folder: Path
    model: Path
    monkeypatch: pytest.MonkeyPatch
    temporary: Path

    def behaves(self, **how: Any) -> None:
        self.monkeypatch.setenv("VLLM_STANDIN", json.dumps({"folder": str(self.folder), **how}))

    def starts(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"))]

    def teacher(self, **changes: Any) -> GenerateConfig:
        teacher = {"kind": "vllm", "model": str(self.model), "concurrency": 1}
        teacher |= {name: changes.pop(name) for name in list(changes) if name not in GenerateConfig.model_fields}
        return validate(GenerateConfig, {"teacher": teacher, "samples": 2, "max_failed": 0, **changes})

    def logs(self) -> list[Path]:
        return list(self.temporary.glob("drift-vllm-*"))

    def gone(self) -> bool:
        """Whether every server and engine that was started has ended."""
        return ended([start[name] for start in self.starts() for name in ("pid", "engine")])


def ended(pids: list[int]) -> bool:
    processes = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(pid))
    return psutil.wait_procs(processes, timeout=ENDS_SECONDS)[1] == []


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    folder = tmp_path / "vllm"
    for path in (folder, tmp_path / "model"):
        path.mkdir()
    multiprocessing.util.get_temp_dir()  # where sockets of processes are that outlive this test
    temporary = tempfile.TemporaryDirectory()  # a short path: the address of a socket has at most 107 characters
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.setenv("DRIFT_VLLM", str(install(folder)))
    monkeypatch.setenv("TMPDIR", temporary.name)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", str(Path(__file__).parents[3])))
    with temporary:
        installed = Installed(folder, tmp_path / "model", monkeypatch, Path(temporary.name))
        installed.behaves()
        yield installed
        assert installed.gone()


# ------------------------------------------------------------------------------------------ a good life


def test_a_teacher_is_served_as_long_as_it_is_asked_and_nothing_of_it_is_left(vllm: Installed, tmp_path: Path):
    report = generate(vllm.teacher(), ingested(tmp_path, 3), tmp_path / "out")
    rows = list(read_generations(tmp_path / "out"))
    assert (report.generated, report.failed) == (6, 0)
    assert {row["model"] for row in rows} == {str(vllm.model)}
    assert all(row["text"].startswith(f"<think> {row['seed']} </think>") for row in rows)
    assert (vllm.gone(), vllm.logs()) == (True, [])


def test_the_settings_are_its_options_and_the_key_is_in_its_environment_alone(vllm: Installed, tmp_path: Path):
    given = {"tensor_parallel": 2, "data_parallel": 3, "max_model_len": 8192, "gpu_memory_utilization": 0.8}
    given |= {"max_num_seqs": 32, "images_per_prompt": 2, "dtype": "float16", "args": ["--enforce-eager"]}
    generate(vllm.teacher(**given), ingested(tmp_path, 1), tmp_path / "out")
    (start,) = vllm.starts()
    words = start["argv"][1:]
    port = words[-1]
    assert words == [
        *("serve", str(vllm.model), "--served-model-name", str(vllm.model), "--dtype", "float16"),
        *("--generation-config", "vllm", "--tensor-parallel-size", "2", "--data-parallel-size", "3"),
        *("--max-model-len", "8192", "--gpu-memory-utilization", "0.8", "--max-num-seqs", "32"),
        *("--limit-mm-per-prompt", '{"image": 2, "video": 0}', "--disable-uvicorn-access-log", "--enforce-eager"),
        *("--host", "127.0.0.1", "--port", port),
    ]
    key = start["environment"].pop("VLLM_API_KEY")
    assert len(key) == 32
    assert start["environment"] == {"VLLM_NO_USAGE_STATS": "1", "PYTHONPATH": None}
    assert not any(key in value for value in os.environ.values())
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != vllm.folder]
    assert not any(key in path.read_bytes().decode("latin-1") for path in files)


def test_what_goes_with_every_request_goes_to_it_too_and_a_model_it_does_not_serve_is_refused(
    vllm: Installed, tmp_path: Path
):
    problems = ingested(tmp_path, 1)
    with pytest.raises(ServiceError, match=r"refuses '.*': NotFoundError: .*The model `other` does not exist"):
        generate(vllm.teacher(extra_body={"model": "other"}), problems, tmp_path / "refused")
    assert generate(vllm.teacher(system="Be brief."), problems, tmp_path / "out").generated == 2
    fingerprints = [read_json(path)["fingerprint"] for path in [tmp_path / "out" / "generations.json"]]
    generate(vllm.teacher(), problems, tmp_path / "plain")
    assert read_json(tmp_path / "plain" / "generations.json")["fingerprint"] not in fingerprints


def test_a_proxy_of_the_network_is_not_between_the_step_and_its_server(vllm: Installed, tmp_path: Path):
    vllm.monkeypatch.delenv("no_proxy", raising=False)
    for name in ("HTTP_PROXY", "http_proxy"):
        vllm.monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert generate(vllm.teacher(), ingested(tmp_path, 1), tmp_path / "out").generated == 2
    assert "no_proxy" not in os.environ


def test_two_at_once_have_each_their_own_server_and_key(vllm: Installed, tmp_path: Path):
    problems = ingested(tmp_path, 4)
    words = ["generate", "--problems", str(problems), "samples=2", "teacher.kind=vllm", f"teacher.model={vllm.model}"]
    outs = [tmp_path / name for name in "ab"]
    processes = [begin(main, [*words, "--out", str(out)], err=tmp_path / f"{out.name}.err") for out in outs]
    for process in processes:
        process.join(ENDS_SECONDS)
    assert [process.exitcode for process in processes] == [0, 0], [path.read_text() for path in tmp_path.glob("*.err")]
    assert len({start["environment"]["VLLM_API_KEY"] for start in vllm.starts()}) == 2
    assert [len(list(read_generations(out))) for out in outs] == [8, 8]


# ------------------------------------------------------------------------------------ it does not start


def test_without_vllm_the_command_ends_with_the_remedy_on_one_line(vllm: Installed, tmp_path: Path):
    vllm.monkeypatch.delenv("DRIFT_VLLM")
    words = ["generate", "--problems", str(ingested(tmp_path, 1)), "--out", str(tmp_path / "out")]
    ended = drift(*words, "teacher.kind=vllm", f"teacher.model={vllm.model}", PATH="/nowhere")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1), ended.stderr
    assert "generate.teacher.command: vLLM is not installed; install it in an environment of its own" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_an_executable_that_is_named_and_is_none_is_said(vllm: Installed):
    with pytest.raises(ConfigError, match=r"generate\.teacher\.command: '/no/vllm' is no executable"):
        open_teacher(vllm.teacher(command="/no/vllm"))


def test_a_model_that_is_not_there_is_said_before_anything_is_started(vllm: Installed, tmp_path: Path):
    with pytest.raises(CheckpointError, match="no such directory"):
        generate(vllm.teacher(model=str(tmp_path / "none")), ingested(tmp_path, 1), tmp_path / "out")
    assert vllm.starts() == []


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["ValueError: Model architectures ['X'] are not supported for now."], "are not supported for now"),
        (["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"], "OutOfMemoryError: CUDA out"),
        (["OSError: [Errno 98] Address already in use"], "Address already in use"),
    ],
)
def test_a_server_that_ends_while_it_loads_is_one_line_with_the_cause(
    vllm: Installed, tmp_path: Path, lines: list[str], said: str
):
    vllm.behaves(fails=lines)
    with pytest.raises(ServiceError, match=r"^generate\.teacher: vLLM did not start: ") as raised:
        generate(vllm.teacher(), ingested(tmp_path, 1), tmp_path / "out")
    assert said in str(raised.value) and "(exit code 1)" in str(raised.value)
    assert "root cause above" not in str(raised.value) and "\n" not in str(raised.value)
    (log,) = vllm.logs()
    assert str(log) in str(raised.value) and "root cause above" in log.read_text()


def test_an_argument_that_vllm_does_not_know_is_said_by_vllm(vllm: Installed, tmp_path: Path):
    with pytest.raises(ServiceError, match=r"error: unrecognized arguments: --no-such \(exit code 2\)"):
        generate(vllm.teacher(args=["--no-such"]), ingested(tmp_path, 1), tmp_path / "out")


def test_a_server_that_never_serves_is_given_up_and_ended(vllm: Installed, tmp_path: Path):
    vllm.behaves(never_ready=True)
    said = r"^generate\.teacher\.start_timeout_seconds: vLLM does not serve after 2 s \(Loading weights of"
    with pytest.raises(ServiceError, match=said):
        generate(vllm.teacher(start_timeout_seconds=2), ingested(tmp_path, 1), tmp_path / "out")
    assert vllm.starts() and vllm.gone()


@pytest.mark.parametrize("argument", ["--api-key=secret", "--port", "--tensor_parallel_size=2", "-tp"])
def test_what_the_step_sets_itself_is_no_argument(vllm: Installed, argument: str):
    with pytest.raises(ConfigError, match=r"teacher\.args: '-[-\w]+' is set by the step"):
        vllm.teacher(args=[argument, "2"])


def test_a_limit_that_holds_no_prompt_is_refused_before_anything_is_started(vllm: Installed):
    with pytest.raises(ConfigError, match=r"max_model_len: 4096 holds no prompt beside max_new_tokens \(4096\)"):
        vllm.teacher(max_model_len=4096)


# ----------------------------------------------------------------------------- it ends while it is asked


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"killed_after": 3}, r"vLLM ended while it was asked: .*\(ended by SIGKILL\)"),
        ({"dies_after": 3}, r"vLLM ended while it was asked: torch\.AcceleratorError: CUDA error: .*\(exit code 1\)"),
    ],
    ids=["killed", "its engine died"],
)
def test_a_crash_keeps_the_replies_and_the_same_command_goes_on(
    vllm: Installed, tmp_path: Path, how: dict[str, int], said: str
):
    problems, out = ingested(tmp_path, 4), tmp_path / "out"
    vllm.behaves(**how)
    with pytest.raises(UnavailableError, match=said) as raised:
        generate(vllm.teacher(), problems, out)
    assert str(raised.value).endswith("the replies so far are kept, run again to go on")
    kept = [path.read_bytes() for path in part_files(tmp_path / "out.partial")]
    assert sum(content.count(b"\n") for content in kept) == 3
    vllm.behaves()
    report = generate(vllm.teacher(), problems, out)
    assert (report.resumed, report.generated, report.failed) == (3, 8, 0)
    assert len(vllm.starts()) == 2


@pytest.mark.parametrize(
    ("number", "ready"),
    [(signal.SIGKILL, True), (signal.SIGTERM, True), (signal.SIGINT, True), (signal.SIGKILL, False)],
    ids=["killed", "terminated", "interrupted", "killed while it starts"],
)
def test_whatever_signal_ends_the_command_ends_its_server_too(
    vllm: Installed, tmp_path: Path, number: signal.Signals, ready: bool
):
    vllm.behaves(hangs=True, never_ready=not ready)
    words = ["generate", "--problems", str(ingested(tmp_path, 1)), "--out", str(tmp_path / "out"), "teacher.kind=vllm"]
    process = begin(main, [*words, f"teacher.model={vllm.model}"], err=tmp_path / "err")
    wait_for(lambda: bool(vllm.starts()) and (not ready or (vllm.folder / "asked").exists()))
    assert psutil.pid_exists(vllm.starts()[0]["pid"])
    os.kill(process.pid, number)
    process.join(ENDS_SECONDS)
    assert process.exitcode == {signal.SIGKILL: -9, signal.SIGTERM: -15, signal.SIGINT: 130}[number]
    assert vllm.gone()


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-Ic", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(float(sys.argv[1]))
"""


@pytest.mark.parametrize(("seconds", "code"), [(600, 137), (0, 0)], ids=["deaf to SIGTERM", "ended, but for its child"])
def test_the_guard_leaves_nothing_of_what_it_has_started(seconds: int, code: int):
    command = [sys.executable, "-I", guard.__file__, "0.2", sys.executable, "-Ic", STUBBORN, str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        pids = [int(pid) for pid in process.stdout.readline().split()]
        if seconds:
            process.stdin.close()
        assert process.wait(ENDS_SECONDS) == code
    assert ended(pids)


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ENDS_SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -------------------------------------------------------------------------------------------- evaluation


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [f"{n}\t{png('red', (112, 56))}\tcompute {n}\t{n}" for n in range(6)]
    (tmp_path / "Sums.tsv").write_text(table(*rows))
    return tmp_path


def settings(data: Path, **more: Any) -> EvaluateConfig:
    given = {"data": str(data), "benchmarks": {"Sums": {"role": "reasoning"}}, "engine": "vllm", **more}
    given["vllm"] = {"concurrency": 1, **more.get("vllm", {})}
    return validate(EvaluateConfig, given, where="evaluate")


def test_an_evaluation_by_vllm_says_so_and_goes_on_after_a_crash(vllm: Installed, data: Path):
    model, out = str(vllm.model), data / "scores"
    vllm.behaves(killed_after=2)
    with pytest.raises(UnavailableError, match=r"^evaluate\.vllm: vLLM ended while it was asked"):
        evaluate(settings(data), model=model, label="m", out=out)
    assert sum(path.read_bytes().count(b"\n") for path in part_files(data / "scores.partial")) == 2
    vllm.behaves()
    evaluate(settings(data), model=model, label="m", out=out)
    scores = read_scores(out)
    assert (scores.benchmarks["Sums"].n, [sample.correct for sample in read_samples(out)]) == (6, [True] * 6)
    assert (scores.protocol["inference"], scores.protocol["neutral"]) == ("vllm", True)
    assert len(vllm.starts()) == 2


def test_another_engine_or_one_of_other_arguments_is_another_protocol_and_another_batch_size_is_none(
    vllm: Installed, data: Path
):
    ours = settings(data)
    batched = settings(data, batch_size=3, vllm={"tensor_parallel": 2})
    others = [settings(data, engine="transformers"), settings(data, vllm={"args": ["--quantization=fp8"]})]
    benchmarks, model = read_benchmarks(ours), str(vllm.model)
    assert describe_asking(batched) == describe_asking(ours)
    assert fingerprint(batched, benchmarks, model) == fingerprint(ours, benchmarks, model)
    for other in others:
        assert describe_asking(other) != describe_asking(ours)
        assert fingerprint(other, benchmarks, model) != fingerprint(ours, benchmarks, model)


def test_replies_of_one_engine_are_not_taken_for_the_others(vllm: Installed, data: Path):
    vllm.behaves(killed_after=2)
    with pytest.raises(UnavailableError):
        evaluate(settings(data), model=str(vllm.model), label="m", out=data / "scores")
    with pytest.raises(DataError, match="begun with another model"):
        evaluate(settings(data, engine="transformers"), model=str(vllm.model), label="m", out=data / "scores")


def test_an_endpoint_and_an_engine_exclude_each_other(data: Path):
    with pytest.raises(ConfigError, match=r"^evaluate: engine: 'vllm' serves a checkpoint itself; remove endpoint"):
        settings(data, endpoint={"base_url": "http://127.0.0.1:9/v1"})


# ---------------------------------------------------------------------------------------------- the chain


def chain() -> Config:
    raw = load("configs/miniature.yaml").model_dump(mode="json", by_alias=True)
    raw["generate"]["teacher"] = {"kind": "vllm", "model": raw["generate"]["teacher"]["model"]}
    raw["evaluate"]["engine"] = "vllm"
    return validate(Config, raw)


def test_a_chain_may_have_it_and_is_told_before_it_begins_where_it_is_missing(vllm: Installed, tmp_path: Path):
    config = chain()
    assert [(name, look()) for name, look in engines_of(config)] == [
        (f"{where}.command", str(vllm.folder / "vllm")) for where in ("generate.teacher", "evaluate.vllm")
    ]
    vllm.monkeypatch.setenv("DRIFT_VLLM", "/no/vllm")
    problems = {one.check: one.detail for one in preflight(config) if one.is_problem}
    assert "'/no/vllm' is no executable" in problems["evaluate.vllm.command"]
    rehearsed = rehearsal_of(config, tmp_path, gpu=False)
    assert (rehearsed.generate.teacher.kind, rehearsed.evaluate.engine) == ("local", "transformers")
