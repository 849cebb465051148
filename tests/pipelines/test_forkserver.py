"""The process that steps are forked from: warm, with a step's own log, environment and end, and never our old code."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.local import forkserver
from pipelines.local.work import ForkedWork, ForkServer

STEP = """
import os, signal, sys, time

def step():
    print(os.environ["WORD"], sys.stdin.read(), os.getpgid(0) == os.getpid(), flush=True)
    {does}
"""


@pytest.fixture
def server() -> Iterator[ForkServer]:
    with contextlib.closing(ForkServer()) as server:
        yield server


def started(server: ForkServer, folder: Path, does: str, module: str = "json") -> ForkedWork:
    outputs = {"outputs": {"outputFile": str(folder / "out.json")}}
    arguments = ["--executor_input", json.dumps(outputs), "--function_to_execute", "step"]
    source = STEP.format(does=does)
    return server.start(
        ["sh", "-ec", "", source, *arguments], {**os.environ, "WORD": "hello"}, folder / "log", module, []
    )


def test_a_step_has_its_own_log_environment_session_and_exit_code(server: ForkServer, tmp_path: Path) -> None:
    assert started(server, tmp_path, "pass").wait() == 0
    assert "hello  True" in (tmp_path / "log").read_text()
    assert started(server, tmp_path, "sys.exit(7)").wait() == 7
    assert started(server, tmp_path, "raise ValueError('wrong')").wait() == 1
    assert "ValueError: wrong" in (tmp_path / "log").read_text()
    assert started(server, tmp_path, "os.kill(os.getpid(), signal.SIGTERM)").wait() == -signal.SIGTERM


def test_steps_run_side_by_side_and_each_can_be_signalled(server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    slow, quick = started(server, tmp_path, "time.sleep(60)"), started(server, tmp_path / "other", "pass")
    assert quick.wait() == 0
    slow.send(signal.SIGKILL)
    assert slow.wait() == -signal.SIGKILL


def test_a_step_ends_and_counts_as_killed_where_the_server_is_gone(server: ForkServer, tmp_path: Path) -> None:
    work = started(server, tmp_path, "time.sleep(60)")
    child = work._pid
    server._process.kill()
    assert work.wait() == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        while True:
            os.kill(child, 0)
            time.sleep(0.05)


def test_the_server_keeps_what_a_module_brings_along_and_nothing_of_ours() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(forkserver.__file__).parents[2])!r});"
        "from pipelines.local.forkserver import bring_along;"
        "bring_along('drift.data.tables'); bring_along('no.such_module');"
        "print('pyarrow' in sys.modules, [name for name in sys.modules if name.startswith('drift')])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True []\n"


def test_the_server_ends_when_the_runner_is_killed() -> None:
    code = (
        "import time; from pipelines.local.work import ForkServer;"
        "print(ForkServer()._process.pid, flush=True); time.sleep(60)"
    )
    root = Path(forkserver.__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        pid = int(runner.stdout.readline())
        runner.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the fork server outlived its runner"
        time.sleep(0.05)
