"""Asking: a real server on loopback and a real tiny model, several processes, killed and resumed."""

import io
import json
import logging
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from drift.cli.app import main
from drift.config.catalog import expand
from drift.config.evaluate import EvaluateConfig
from drift.evaluate.answering import answers
from drift.evaluate.benchmarks import read_benchmarks
from drift.evaluate.collect import collect
from drift.evaluate.evaluation import evaluate
from drift.evaluate.questions import batches, questions
from drift.evaluate.samples import Sample, read_samples
from drift.evaluate.scores import read_scores
from drift.ground.errors import CheckpointError, ConfigError, DataError, PipelineError, ServiceError
from drift.inference.parts import part_files
from drift.planning.miniature import models
from drift.planning.tables import write_tables
from tests.forked import begin
from tests.openai_server import Body, OpenAIServer, image_of, question
from tests.unit.evaluate.test_benchmarks import png, table

KEY = "sk-very-secret-1234"
COUNTS = {"Sums": 12, "Colours": 3}
FILES = ("scores.json", "samples.parquet", "examples.parquet")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "vlm"
    models.save_vlm(models.new_vlm(models.new_text_model().state_dict()), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions of different lengths; the answer to number n is n."""
    folder = tmp_path_factory.mktemp("benchmarks")
    for name, count in COUNTS.items():
        rows = [f"{n}\t{png('red', (112, 56))}\tcompute {'a + ' * (n % 4)}b of {n}\t{n}" for n in range(count)]
        (folder / f"{name}.tsv").write_text(table(*rows))
    return folder


def settings(data: Path, **more: object) -> EvaluateConfig:
    benchmarks = {"Sums": {"role": "reasoning"}, "Colours": {"role": "perception", "prompt": "{question} ."}}
    given = {"batch_size": 2, "max_new_tokens": 8, "threads": 1, "processes": 1, **more}
    return EvaluateConfig(data=str(data), benchmarks=benchmarks, **given)


def served(data: Path, url: str, **more: object) -> EvaluateConfig:
    server = {"base_url": url, "concurrency": 4, "max_retries": 1, "timeout_seconds": 10}
    server |= {name: more.pop(name) for name in ("api_key_env", "concurrency", "neutral") if name in more}
    return settings(data, endpoint=server, **more)


def right(body: Body) -> Body:
    """The number in the question is the answer."""
    return {"content": f"\\boxed{{{question(body).removesuffix(' .').split()[-1]}}}"}


def same(one: Path, other: Path) -> bool:
    return all((one / file).read_bytes() == (other / file).read_bytes() for file in FILES)


def keys(samples: list[Sample]) -> list[tuple[str, str]]:
    return [(sample.benchmark, sample.index) for sample in samples]


ALL = [(name, str(n)) for name in sorted(COUNTS) for n in range(COUNTS[name])]


# ------------------------------------------------------------------------------------------- a server


def test_a_server_is_asked_the_same_text_greedily_with_the_image_scaled_down(data: Path, tmp_path: Path) -> None:
    with OpenAIServer(right) as server:
        config = served(data, server.url, image_max_pixels=1568, max_new_tokens=77)
        evaluate(config, model="served", label="served", out=tmp_path / "scores")
    asked = [one.text for benchmark in read_benchmarks(config) for one in questions(benchmark)]
    assert sorted(question(body) for body in server.requests) == sorted(asked)
    limits = {(body["model"], body["temperature"], body["max_tokens"]) for body in server.requests}
    assert limits == {("served", 0, 77)}
    assert Image.open(io.BytesIO(image_of(server.requests[0]))).size == (56, 28)
    samples = read_samples(tmp_path / "scores")
    assert keys(samples) == ALL
    assert {(sample.status, sample.finish_reason) for sample in samples} == {("correct", "stop")}


@pytest.mark.parametrize(
    ("text", "status"), [("", "unparsed"), ("\\boxed{99}", "incorrect"), ("\\boxed{0}", "correct")]
)
def test_reasoning_that_the_server_parts_off_is_kept_and_not_scored(
    data: Path, tmp_path: Path, text: str, status: str
) -> None:
    message = {"content": text, "reasoning": "so \\boxed{0}", "finish_reason": "length"}
    with OpenAIServer(lambda body: message) as server:
        evaluate(served(data, server.url, limit=1), model="served", label="x", out=tmp_path / "scores")
    sample = read_samples(tmp_path / "scores")[0]
    assert (sample.raw, sample.thinking, sample.status) == (text, "so \\boxed{0}", status)
    assert read_scores(tmp_path / "scores").count("truncated") == 2


def test_failed_requests_count_as_wrong_below_the_limit(data: Path, tmp_path: Path) -> None:
    with OpenAIServer(right, status=lambda number: 400 if number == 2 else 200) as server:
        config = served(data, server.url, max_failed=0.4)
        evaluate(config, model="served", label="x", out=tmp_path / "scores")
    (failed,) = [sample for sample in read_samples(tmp_path / "scores") if sample.status == "failed"]
    assert (failed.correct, failed.raw, failed.finish_reason) == (False, None, None)
    assert failed.error is not None and "injected 400" in failed.error
    assert read_scores(tmp_path / "scores").count("failed") == 1


def test_past_the_limit_the_run_stops_and_a_second_one_asks_only_what_is_missing(data: Path, tmp_path: Path) -> None:
    with OpenAIServer(right, status=lambda number: 200 if number <= 6 else 400) as server:
        config = served(data, server.url, concurrency=1)
        with pytest.raises(ServiceError, match=r"evaluate\.max_failed: Sums: 1 requests failed \(.*injected 400"):
            evaluate(config, model="served", label="x", out=tmp_path / "scores")
        server.status = lambda number: 200
        before = len(server.requests)
        evaluate(config, model="served", label="x", out=tmp_path / "scores")
        assert len(server.requests) - before == 9
        evaluate(config, model="served", label="x", out=tmp_path / "whole")
    assert keys(read_samples(tmp_path / "scores")) == ALL
    assert same(tmp_path / "scores", tmp_path / "whole")


def test_replies_that_were_paid_for_are_found_in_another_place_below_the_path_of_checkpoints(
    data: Path, tmp_path: Path
) -> None:
    """As a step does that is started again in another pod: of the first one's folder nothing is left."""
    with OpenAIServer(right, status=lambda number: 200 if number <= 6 else 400) as server:
        config = served(data, server.url, concurrency=1, checkpoints=str(tmp_path / "kept"))
        with pytest.raises(ServiceError, match="1 requests failed"):
            evaluate(config, model="served", label="x", out=tmp_path / "lost" / "scores")
        assert not (tmp_path / "lost" / "scores").exists()
        server.status = lambda number: 200
        counts = []
        for label in ("y", "x", "x"):  # of another label, which may be asked at once; again; anew, after it was whole
            before = len(server.requests)
            evaluate(config, model="served", label=label, out=tmp_path / f"scores-{len(counts)}")
            counts.append(len(server.requests) - before)
    assert counts == [15, 9, 15]
    assert same(tmp_path / "scores-1", tmp_path / "scores-2")
    assert not part_files(tmp_path / "scores-1") and not list(tmp_path.glob("kept/evaluations/*/"))


def test_the_key_is_sent_and_written_nowhere(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MODEL_KEY", KEY)
    with caplog.at_level(logging.DEBUG), OpenAIServer(right, status=lambda number: 400 if number == 1 else 200) as it:
        config = served(data, it.url, api_key_env="MODEL_KEY", max_failed=0.5)
        evaluate(config, model="served", label="x", out=tmp_path / "scores")
    assert {headers["authorization"] for headers in it.headers} == {f"Bearer {KEY}"}
    assert any("Bearer ***" in (sample.error or "") for sample in read_samples(tmp_path / "scores"))
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    output = capfd.readouterr()
    assert len(written) == 6  # overlaps.json among them: both tables show one picture
    assert not [
        text for text in [*written, caplog.text.encode(), (output.out + output.err).encode()] if KEY.encode() in text
    ]


def test_the_contents_of_a_served_model_are_not_known(data: Path, tmp_path: Path) -> None:
    with OpenAIServer(right) as server:
        evaluate(served(data, server.url, limit=1), model="served", label="x", out=tmp_path / "scores")
    assert read_scores(tmp_path / "scores").model_sha256 == ""
    assert read_scores(tmp_path / "scores").protocol["inference"] == "endpoint"


@pytest.mark.parametrize(
    ("status", "message"), [(401, "AuthenticationError.*check api_key_env"), (404, "NotFoundError.*correct model")]
)
def test_a_refusal_stops_at_once(data: Path, tmp_path: Path, status: int, message: str) -> None:
    with OpenAIServer(status=lambda number: status) as server:
        with pytest.raises(ServiceError, match=f"evaluate.endpoint: {server.url} refuses 'served': {message}"):
            evaluate(served(data, server.url), model="served", label="x", out=tmp_path / "scores")
        assert len(server.requests) <= 4


PAGE = "<!doctype html><title>Chat</title>"


@pytest.mark.parametrize("models", [200, PAGE])
def test_a_web_page_in_place_of_an_answer_is_an_error_of_one_line(
    data: Path, tmp_path: Path, models: int | str, capsys: pytest.CaptureFixture[str]
) -> None:
    with OpenAIServer(lambda body: PAGE, models=models) as server, pytest.raises(SystemExit) as end:
        given = ["--endpoint", server.url, "--model", "served", "--data", str(data)]
        main(["evaluate", *given, "benchmarks.Sums.role=reasoning", "--out", str(tmp_path / "scores")])
    assert end.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said == (
        f"drift: evaluate.endpoint: {server.url} answers, but with no chat completion (a web page?); correct base_url, "
        "which often ends in /v1"
    )


def test_a_web_page_between_answers_is_a_failed_request(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drift.inference.endpoint._WAIT", lambda state: 0.0)
    asked: list[str] = []

    def answer(body: Body) -> Body | str:
        asked.append(question(body))
        return PAGE if question(body) in asked[3:4] else right(body)

    with OpenAIServer(answer) as server:
        config = served(data, server.url, max_failed=0.4, concurrency=1)
        evaluate(config, model="served", label="x", out=tmp_path / "scores")
    (failed,) = [sample for sample in read_samples(tmp_path / "scores") if sample.status == "failed"]
    assert failed.error is not None and failed.error.startswith("MalformedReplyError: no JSON: ")


def test_neutral_sampling_goes_with_every_request_so_that_no_default_of_the_server_decides(
    data: Path, tmp_path: Path
) -> None:
    neutral = {"top_p": 1, "frequency_penalty": 0, "presence_penalty": 0}
    neutral |= {"top_k": -1, "min_p": 0, "repetition_penalty": 1}
    with OpenAIServer(right) as server:
        evaluate(served(data, server.url, limit=1), model="served", label="x", out=tmp_path / "scores")
        plain = served(data, server.url, limit=1, neutral=False)
        evaluate(plain, model="served", label="x", out=tmp_path / "plain")
    first, last = server.requests[0], server.requests[-1]
    assert {name: first[name] for name in neutral} == neutral
    assert last.keys() == {"model", "messages", "temperature", "max_tokens"}
    left, sent = (read_scores(tmp_path / name).protocol for name in ("plain", "scores"))
    assert (left["neutral"], sent["neutral"]) == (False, True)


def test_a_server_that_refuses_a_neutral_parameter_is_an_error_that_says_what_to_set(
    data: Path, tmp_path: Path
) -> None:
    said = r"endpoint: \S+ refuses the parameter 'top_k': .*set evaluate\.endpoint\.neutral: false"
    with (
        OpenAIServer(right, status=lambda number: 400, refusal="Unrecognized argument: top_k") as server,
        pytest.raises(ServiceError, match=said),
    ):
        evaluate(served(data, server.url, max_failed=1), model="served", label="x", out=tmp_path / "scores")


def test_small_images_are_scaled_up_to_the_least_area(data: Path, tmp_path: Path) -> None:
    with OpenAIServer(right) as server:
        config = served(data, server.url, image_min_pixels=112 * 56 * 4, limit=1)
        evaluate(config, model="served", label="served", out=tmp_path / "scores")
    assert {Image.open(io.BytesIO(image_of(body))).size for body in server.requests} == {(224, 112)}
    with pytest.raises(ValueError, match=r"image_min_pixels: 5 is more than image_max_pixels \(4\)"):
        settings(data, image_min_pixels=5, image_max_pixels=4)


def test_one_instruction_stands_below_every_question_and_is_part_of_the_protocol(data: Path, tmp_path: Path) -> None:
    with OpenAIServer(right) as server:
        config = served(data, server.url, instruction="Put it into \\boxed{}.", limit=1)
        evaluate(config, model="served", label="served", out=tmp_path / "scores")
    assert {question(body) for body in server.requests} == {
        "compute b of 0\nPut it into \\boxed{}.",
        "compute b of 0 .\nPut it into \\boxed{}.",
    }
    assert read_scores(tmp_path / "scores").protocol["instruction"] == "Put it into \\boxed{}."


# ------------------------------------------------------------------------------------ several answers


def test_several_answers_are_drawn_with_a_seed_each_where_a_role_asks_for_them(data: Path, tmp_path: Path) -> None:
    def by_seed(body: Body) -> Body:
        return right(body) if body.get("seed", 0) % 2 == 0 else {"content": "none"}

    with OpenAIServer(by_seed) as server:
        config = served(data, server.url, samples={"perception": 4}, temperature=None)
        evaluate(config, model="served", label="served", out=tmp_path / "scores")
    asked = [(question(body), body["temperature"], body.get("seed")) for body in server.requests]
    assert [one[1:] for one in asked if not one[0].endswith(" .")] == [(0, None)] * 12
    drawn = [one for one in asked if one[0].endswith(" .")]
    assert len(drawn) == len({seed for _, _, seed in drawn}) == 4 * 3
    assert {temperature for _, temperature, _ in drawn} == {0.7}
    samples = read_samples(tmp_path / "scores")
    assert [(one.index, one.sample) for one in samples if one.benchmark == "Colours"] == [
        (str(n), sample) for sample in range(4) for n in range(3)
    ]
    score = read_scores(tmp_path / "scores").benchmarks["Colours"]
    mine = [one.correct for one in samples if one.benchmark == "Colours"]
    assert score.columns["Colours"].mean == score.metrics["avg@4"] == pytest.approx(100 * sum(mine) / 12)
    assert (score.n, score.questions, score.samples) == (12, 3, 4)
    assert read_scores(tmp_path / "scores").protocol["decoding"] == {
        "temperature": {"Colours": 0.7, "Sums": 0},
        "samples": {"Colours": 4, "Sums": 1},
        "seed": 0,
    }


def test_several_greedy_answers_are_refused(data: Path) -> None:
    with pytest.raises(ValueError, match="samples: several greedy answers are the same one"):
        settings(data, samples=2, temperature=0)


def test_drawn_answers_depend_on_their_question_and_number_alone(model: Path, data: Path, tmp_path: Path) -> None:
    """Not on batches nor on processes; and another seed draws others."""
    kept = {}
    for name, more in {
        "one": {},
        "batches": {"batch_size": 5},
        "processes": {"processes": 2},
        "seed": {"seed": 1},
    }.items():
        config = settings(data, samples=2, temperature=1.5, limit=3, dtype="float32", **more)
        evaluate(config, model=str(model), label="tiny", out=tmp_path / name)
        samples = read_samples(tmp_path / name)
        kept[name] = [(one.benchmark, one.index, one.sample, one.raw) for one in samples]
    assert kept["one"] == kept["batches"] == kept["processes"]
    assert same(tmp_path / "one", tmp_path / "processes")
    assert kept["one"] != kept["seed"]
    first, second = ([raw for *_, sample, raw in kept["one"] if sample == number] for number in (0, 1))
    assert first != second


def test_no_server_and_no_key_are_errors_within_seconds(data: Path, tmp_path: Path) -> None:
    with OpenAIServer() as server:
        url = server.url
    started = time.monotonic()
    with pytest.raises(ServiceError, match=f"evaluate.endpoint: {url} does not answer"):
        evaluate(served(data, url), model="served", label="x", out=tmp_path / "scores")
    with pytest.raises(ConfigError, match=r"evaluate\.endpoint\.api_key_env: the environment variable 'NO_SUCH_KEY'"):
        evaluate(served(data, url, api_key_env="NO_SUCH_KEY"), model="served", label="x", out=tmp_path / "scores")
    assert time.monotonic() - started < 10


def test_the_command_asks_the_chosen_benchmarks_and_shows_a_row_per_headline_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section = {"data": str(tmp_path), "benchmarks": write_tables(tmp_path)}
    (tmp_path / "config.yaml").write_text(json.dumps({"evaluate": section}))
    chosen = ["--suite", "WeMath_Tiny,RealWorldQA_Tiny", "-c", str(tmp_path / "config.yaml")]
    cut = {"content": "A", "finish_reason": "length"}
    with OpenAIServer(lambda body: cut) as server, pytest.raises(SystemExit, match="0"):
        main(["evaluate", "--endpoint", server.url, "--model", "served", *chosen, "--out", str(tmp_path / "scores")])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["RealWorldQA_Tiny", "50.0", "(15–85)", "4", "0", "4", "0"] in rows  # Wilson's interval of 2 in 4
    assert [row[0] for row in rows if row and row[0].startswith("WeMath")] == [
        "WeMath_Tiny-strict",
        "WeMath_Tiny-loose",
    ]
    assert len(server.requests) == 4 + 7


def test_a_suite_stands_for_its_benchmarks_each_once() -> None:
    assert expand("perception, MMStar,Mine") == ("HallusionBench", "RealWorldQA", "MMStar", "Mine")


# ------------------------------------------------------------------------------------------ processes


def test_two_processes_give_the_same_bytes_as_one(model: Path, data: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        config = settings(data, processes=processes)
        evaluate(config, model=str(model), label="tiny", out=tmp_path / str(processes))
    assert same(tmp_path / "1", tmp_path / "2")


def test_a_process_that_cannot_load_the_model_says_so_on_one_line(model: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cut: the model does not load") as raised:
        evaluate(settings(data, processes=2), model=str(tmp_path / "cut"), label="x", out=tmp_path / "scores")
    assert "\n" not in str(raised.value)


def test_a_process_that_is_killed_ends_the_run_on_one_line(model: Path, data: Path) -> None:
    config = settings(data, processes=2)
    every = [batch for table in read_benchmarks(config) for batch in batches(questions(table), 1)]
    replies = answers(config, model, every)
    next(replies)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    workers = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    os.kill(workers[0], signal.SIGKILL)
    with pytest.raises(PipelineError, match=r"evaluate\.processes: one of 2 ended .*run again to go on") as raised:
        list(replies)
    assert "\n" not in str(raised.value)


# -------------------------------------------------------------------------------------------- resumed


@pytest.mark.parametrize(
    ("processes", "samples"),
    [(1, 1), pytest.param(2, 1, marks=pytest.mark.slow), pytest.param(1, 3, marks=pytest.mark.slow)],
)
def test_a_killed_evaluation_goes_on_and_ends_as_if_it_had_not_been(
    model: Path, data: Path, tmp_path: Path, processes: int, samples: int
) -> None:
    arguments = ["evaluate", "--model", str(model), "--data", str(data), "--out", str(tmp_path / "scores")]
    arguments += ["benchmarks.Sums.role=reasoning", "benchmarks.Colours.role=perception", "max_new_tokens=200"]
    arguments += ["batch_size=2", "threads=1", f"samples.perception={samples}"]
    process = begin(main, [*arguments, f"processes={processes}"])
    _wait_for_lines(tmp_path / "scores.partial", 3)
    process.kill()
    process.join()
    (part,) = part_files(tmp_path / "scores.partial")
    lines = part.read_bytes().splitlines(keepends=True)
    assert 3 <= len(lines) < len(ALL) + (samples - 1) * COUNTS["Colours"]
    part.write_bytes(b"".join(lines[:3]) + lines[2][:20])  # torn, with half of a batch before it
    for out, count in (("scores", processes), ("whole", 1)):
        with pytest.raises(SystemExit, match="0"):
            main([*arguments, f"processes={count}", f"--out={tmp_path / out}"])
    assert len(set(keys(read_samples(tmp_path / "scores")))) == len(ALL)
    assert same(tmp_path / "scores", tmp_path / "whole")
    assert not (tmp_path / "scores.partial").exists()
    assert not part_files(tmp_path / "scores")


def _wait_for_lines(folder: Path, lines: int) -> None:
    deadline = time.monotonic() + 90
    while sum(path.read_bytes().count(b"\n") for path in part_files(folder)) < lines:
        assert time.monotonic() < deadline, f"fewer than {lines} lines after 90 seconds"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "change", [{"max_new_tokens": 9}, {"image_max_pixels": 784}, {"batch_size": 3}, {"limit": 2}, {"dtype": "float32"}]
)
def test_replies_of_other_settings_are_not_read(
    model: Path, data: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    benchmarks = read_benchmarks(settings(data))
    collect(settings(data), benchmarks, str(model), tmp_path)
    changed = settings(data, **change)
    with pytest.raises(DataError, match="begun with another model, prompt, other limits or data"):
        collect(changed, read_benchmarks(changed), str(model), tmp_path)


def test_a_complete_folder_is_judged_again_without_a_model_or_server(data: Path, tmp_path: Path) -> None:
    with OpenAIServer(right) as server:
        config = served(data, server.url)
        first = collect(config, read_benchmarks(config), "served", tmp_path)
    assert collect(config, read_benchmarks(config), "served", tmp_path) == first
