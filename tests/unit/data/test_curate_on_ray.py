"""`drift curate --ray`: the bytes of one machine, also when a worker dies; without Ray or a cluster, one line."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from drift.cli.app import main
from drift.config.data import CurateConfig
from drift.data.selection.curation import curate
from drift.data.selection.distributed import on_ray
from drift.data.selection.verdicts import Deciding
from drift.ground.errors import ConfigError
from drift.verdicts.expressions import Decision, Pair, decide
from tests.forked import begin, drift
from tests.pool_rows import ingested, pool_row
from tests.unit.data.test_curate import cot, generations

PROBLEMS = 24
COMPARED = ("train.parquet", "rejects.parquet", "funnel.json")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[bytes]]:
    """Problems with formulas as golds, their generations, and what one machine makes of them."""
    folder = tmp_path_factory.mktemp("pool")
    problems = ingested(folder, [pool_row(number, answer=f"x^{{{number + 2}}}+1") for number in range(PROBLEMS)])
    texts = [
        [cot(f"1+x^{{{number + 2}}}"), cot(f"x^{{{number + 3}}}+1"), cot("x^{"), cot("none")]
        for number in range(PROBLEMS)
    ]
    chains = generations(folder / "generations", problems, texts)
    curate(CurateConfig(), problems, chains, folder / "alone")
    return problems, chains, written(folder / "alone")


def written(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in COMPARED]


def two_workers(problems: Path, chains: Path, out: Path) -> None:
    with on_ray("local", num_cpus=2) as deciding:
        curate(CurateConfig(), problems, chains, out, deciding)


def at_work(process: psutil.Process) -> list[psutil.Process]:
    """Ray's workers below a process that have started the process for their expressions."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):  # they come and go while they are looked at
        for one in process.children(recursive=True):
            if one.name().startswith("ray::MapBatches") and one.children():
                found.append(one)
    return found


def until(true: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def test_who_decides_and_how_much_at_a_time_changes_no_byte(tmp_path: Path, pool: tuple[Path, Path, list[bytes]]):
    problems, chains, alone = pool
    asked: list[int] = []

    def one_process(pairs: set[Pair], timeout_seconds: float) -> dict[Pair, Decision]:
        asked.append(len(pairs))
        return decide(pairs, timeout_seconds, processes=1)

    curate(CurateConfig(), problems, chains, tmp_path / "out", Deciding(one_process, characters_at_once=2000))
    assert written(tmp_path / "out") == alone
    assert len(asked) > 1 and sum(asked) >= 2 * PROBLEMS, "some at a time, and all of them there"


def test_two_workers_give_the_same_bytes_though_one_is_killed(tmp_path: Path, pool: tuple[Path, Path, list[bytes]]):
    problems, chains, alone = pool
    log = tmp_path / "log.txt"
    process = begin(two_workers, problems, chains, tmp_path / "out", err=log, HOME=str(tmp_path))
    driver = psutil.Process(process.pid)
    found: list[psutil.Process] = []
    until(lambda: found.extend(at_work(driver)) or len(set(found)) == 2 or not process.is_alive())
    assert process.is_alive(), log.read_text()[-2000:]
    killed = found[-1]
    killed.kill()
    killed.wait()
    assert process.is_alive(), "in the middle"
    process.join()
    assert process.exitcode == 0, log.read_text()[-2000:]
    assert written(tmp_path / "out") == alone


def test_the_command_gives_the_same_bytes(tmp_path: Path, pool: tuple[Path, Path, list[bytes]]):
    problems, chains, alone = pool
    given = ["--problems", str(problems), "--generations", str(chains), "--out", str(tmp_path / "out")]
    ended = drift("curate", *given, "--ray", "local", HOME=str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert written(tmp_path / "out") == alone


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_where_no_cluster_is_one_line_says_so(address: str, tmp_path: Path, pool: tuple[Path, Path, list[bytes]]):
    given = ["--problems", str(pool[0]), "--generations", str(pool[1]), "--out", str(tmp_path / "out")]
    ended = drift("curate", *given, "--ray", address, HOME=str(tmp_path))
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert ended.stderr.startswith(f"drift: --ray: no Ray cluster at {address} (")
    assert not (tmp_path / "out").exists()


def test_without_ray_one_line_says_what_to_install(
    tmp_path: Path, pool: tuple[Path, Path, list[bytes]], monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setitem(sys.modules, "ray", None)  # so that it cannot be imported, if it is there
    given = ["--problems", str(pool[0]), "--generations", str(pool[1]), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main(["curate", *given, "--ray", "local"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "drift: --ray: Ray is not installed; pip install 'drift-mllm[ray]'\n"
    with pytest.raises(ConfigError), on_ray("local"):
        pass
    assert not (tmp_path / "out").exists()
