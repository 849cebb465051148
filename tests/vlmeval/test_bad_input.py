"""A judge or an environment that cannot be used: one line that says so, quickly, before anything long is done."""

import sys
import time
from pathlib import Path

import psutil
import pytest

from drift.cli.app import main
from drift.config.evaluate import EvaluateConfig
from drift.evaluate import judged
from drift.evaluate.benchmarks import read_benchmarks
from drift.ground.errors import ConfigError, DriftError, ServiceError
from drift.inference.reply import Reply
from tests.openai_server import OpenAIServer
from tests.vlmeval.conftest import Settings
from tests.vlmeval.judges import sensible

DOWN = "http://127.0.0.1:9/v1"


def refused(settings: Settings, url: str, **judge: object) -> DriftError:
    started = time.monotonic()
    with pytest.raises(DriftError) as caught:
        judged.check(settings(url, judge=judge).judge)
    assert time.monotonic() - started < 20
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_judge_without_quota(settings: Settings) -> None:
    with OpenAIServer(sensible, status=lambda number: 429) as judge:
        error = refused(settings, judge.url)
    assert isinstance(error, ServiceError)
    assert f"evaluate.judge: {judge.url} refuses 'a judge/of 7B': RateLimitError" in str(error)
    assert str(error).endswith("check model, api_key_env and quota")


def test_a_judge_that_is_a_web_page(settings: Settings) -> None:
    with OpenAIServer(lambda body: "<title>Chat</title>") as judge:
        error = refused(settings, judge.url)
    assert isinstance(error, ServiceError)
    assert f"evaluate.judge: {judge.url} answers, but with no chat completion (a web page?)" in str(error)


def test_a_wrong_key_is_not_repeated_in_the_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-wrong")
    with OpenAIServer(sensible, status=lambda number: 401) as judge:
        error = refused(settings, judge.url, api_key_env="JUDGE_KEY")
    assert "AuthenticationError" in str(error)
    assert "Bearer ***" in str(error)
    assert "sk-wrong" not in str(error)


def test_a_judge_that_is_down(settings: Settings) -> None:
    error = refused(settings, DOWN)
    assert isinstance(error, ServiceError)
    assert f"evaluate.judge: {DOWN} does not answer (ConnectError); start the server" in str(error)


def test_a_key_that_is_not_set(settings: Settings) -> None:
    error = refused(settings, DOWN, api_key_env="NO_SUCH_KEY")
    assert isinstance(error, ConfigError)
    assert "evaluate.judge.api_key_env: the environment variable 'NO_SUCH_KEY' is not set" in str(error)


@pytest.mark.parametrize("python", ["/nonexistent/python", sys.executable])
def test_no_vlmevalkit(settings: Settings, python: str) -> None:
    error = refused(settings, DOWN, python=python)
    assert isinstance(error, ConfigError)
    assert f"'{python}'" in str(error)
    assert "`make .venv-vlmeval/ready` installs" in str(error)


def test_the_time_limit_ends_vlmevalkit(settings: Settings) -> None:
    with OpenAIServer(sensible, delay_seconds=60) as judge, pytest.raises(ServiceError) as caught:
        run(settings(judge.url, "MMStar", judge={"timeout_seconds": 5}))
    assert "evaluate.judge.timeout_seconds: VLMEvalKit was not done after 5 s" in str(caught.value)
    assert not [child for child in psutil.Process().children(recursive=True) if "vlmevalkit" in str(child.cmdline())]


def test_the_time_limit_ends_its_children_too(settings: Settings, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nsleep 300 &\necho $! > {tmp_path}/child\nwait\n")
    program.chmod(0o755)
    with pytest.raises(ServiceError, match="not done after 1 s"):
        run(settings(DOWN, "MMStar", judge={"timeout_seconds": 1, "python": str(program)}))
    child = int((tmp_path / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_judge_that_dies_meanwhile_ends_the_run_soon(settings: Settings) -> None:
    with OpenAIServer(sensible, status=lambda number: 500) as judge, pytest.raises(ServiceError) as caught:
        run(settings(judge.url, "MMStar", judge={"concurrency": 1}))
    assert "evaluate.judge: VLMEvalKit failed: JudgeDownError: 4 requests to the judge failed in a row" in str(
        caught.value
    ).replace("__main__.", "")


def run(config: EvaluateConfig) -> None:
    (table,) = read_benchmarks(config)
    replies = {item.index: Reply("perhaps A or B", "stop") for item in table.items}
    judged.judge_all(config, [table], {table.name: [replies]})


def test_the_command_ends_with_one_line_and_code_2(
    settings: Settings, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = settings(DOWN).data
    given = ["--model", str(model), "--data", data, "--judge", DOWN, "--judge-model", "judge"]
    table = "benchmarks.MMStar_Tiny={format: MMStar}"
    with pytest.raises(SystemExit) as end:
        main(["evaluate", *given, "--out", str(tmp_path / "out"), table])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"drift: evaluate.judge: {DOWN} does not answer")
    assert not (tmp_path / "out").exists()
