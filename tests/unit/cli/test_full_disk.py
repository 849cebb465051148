"""Every command that writes, on a disk that gets full: one line, exit code 2, nothing half-written."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tqdm import tqdm

from drift.cli.app import main
from tests.forked import begin
from tests.openai_server import OpenAIServer
from tests.small_disk import grow, small_disk
from tests.world import ASSETS, EXPERT, VLM, training_set

PROBLEMS = ["ingest", "--source", str(ASSETS / "pool.parquet"), "limit=60"]
QUICK = ["epochs=1", "bf16=false", "gradient_checkpointing=false", "threads=1", "per_device_batch_size=4"]
BOTH = ["--expert", str(EXPERT), "--vlm", str(VLM)]
ROLES = ["benchmarks.MiniMath2.role=reasoning", "benchmarks.MiniRead.role=perception"]
EVALUATE = ["evaluate", "--data", str(ASSETS / "benchmarks"), *ROLES, "--model", str(VLM), "max_new_tokens=2"]
COMMANDS = {
    "ingest": (PROBLEMS, "16k"),
    "delta": (["delta", *BOTH], "64k"),
    "merge": (["merge", *BOTH, "--method", "linear"], "64k"),
    "train": (["train", "--model", str(VLM), "--data", "DATA", *QUICK], "128k"),
    "evaluate": ([*EVALUATE, "--limit", "4"], "8k"),
    "compile": (["compile", "-c", "configs/miniature.yaml"], "8k"),
    "verify": (["verify", "ANSWERS"], "4k"),
}
FULL = ("No space left", "free; choose", "are free, and the training writes")
"""What is said when the disk was full, and before it is."""
FILES = {"compile": "chain.yaml", "verify": "verdicts.jsonl"}
GOES_ON = {"evaluate"}
"""Commands whose unfinished work stays, for the same command to go on from."""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What commands read, by the word that stands for it."""
    folder = tmp_path_factory.mktemp("given")
    answers = [{"gold": "4", "response": "So the answer is \\boxed{4}."}] * 200
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    return {"DATA": str(training_set(folder / "data", 8)), "ANSWERS": str(folder / "answers.jsonl")}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_line_and_leaves_nothing(
    name: str, given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words, size = COMMANDS[name]
    out = tmp_path / FILES.get(name, "out")
    with small_disk(tmp_path, size):
        with pytest.raises(SystemExit) as end:
            main([*(given.get(word, word) for word in words), "--out", str(out)])
        left = {path.name for path in tmp_path.iterdir()}
    said = capsys.readouterr().err
    assert end.value.code == 2 and "Traceback" not in said
    assert said.splitlines()[-1].startswith("drift: ") and any(words in said for words in FULL)
    assert left == ({"out.partial"} if name in GOES_ON else set())


def test_replies_that_were_paid_for_are_not_torn_and_the_same_command_goes_on_from_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    disk, problems = tmp_path / "disk", tmp_path / "problems"
    disk.mkdir()
    with pytest.raises(SystemExit):
        main([*PROBLEMS, "--out", str(problems)])
    samples = 4 * pq.read_metadata(problems / "problems.parquet").num_rows
    with OpenAIServer() as server, small_disk(disk, "32k"):
        command = ["generate", "--problems", str(problems), "--out", str(disk / "out"), "samples=4"]
        command += ["--endpoint", server.url, "--model", "m"]
        with pytest.raises(SystemExit) as end:
            main(command)
        assert end.value.code == 2 and "No space left on device" in capsys.readouterr().err.splitlines()[-1]
        (part,) = (disk / "out.partial").glob("part-*")
        paid, before = part.read_bytes().count(b"\n"), len(server.requests)
        assert paid > 10
        grow(disk, "4m")
        with pytest.raises(SystemExit) as end:
            main(command)
        assert end.value.code == 0
        assert len(server.requests) - before == samples - paid, "what was paid for is not asked again"


@pytest.mark.parametrize("words", [["--version"], ["config", "schema"]])
def test_results_that_standard_output_does_not_take_are_an_error_on_one_line(words: list[str], tmp_path: Path):
    process = begin(main, words, out=Path("/dev/full"), err=tmp_path / "err")
    process.join()
    assert process.exitcode == 2
    assert (tmp_path / "err").read_text() == (
        "drift: the disk: No space left on device; make room, and start the same command again\n"
    )


def test_a_reader_that_has_read_enough_gets_no_traceback():
    command = [sys.executable, "-m", "drift", "config", "schema"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""


def test_an_errors_line_stands_alone_although_it_left_a_bar_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bar = tqdm(total=3, desc="rows", mininterval=0)
    bar.update(1)
    with pytest.raises(SystemExit):
        main(["compile", "--config", "/nowhere.yaml", "--out", str(tmp_path / "out.yaml")])
    bar.close()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("drift: ") and "/nowhere.yaml" in last and "rows" not in last
