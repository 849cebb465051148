"""Two commands at once with one --out: one works, the other is told by whom and since when, and nothing is mixed."""

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from drift.cli.app import main
from tests.forked import begin
from tests.openai_server import OpenAIServer
from tests.world import ASSETS, EXPERT, VLM, training_set

BOTH = ["--expert", str(EXPERT), "--vlm", str(VLM)]
TOLD = r"^drift: {out}: process \d+ on \S+ since 20\S+ \S+ UTC \(.*\) writes it; wait for it, stop it, or choose "
OVER = r"^drift: {out}: exists already; remove it or choose another --out$"


def run_at_once(commands: Sequence[list[str]], folder: Path) -> list[tuple[int, str]]:
    """Exit code and last line on standard error of each."""
    errors = [folder / f"{number}.err" for number in range(len(commands))]
    processes = [begin(main, words, err=err) for words, err in zip(commands, errors, strict=True)]
    for process in processes:
        process.join(120)
    return [
        (process.exitcode, (err.read_text().splitlines() or [""])[-1])
        for process, err in zip(processes, errors, strict=True)
    ]


def test_of_two_merges_the_one_that_says_ok_is_the_one_in_the_file(tmp_path: Path):
    weights = (["0.9", "0.1"], ["0.5", "0.5"])
    out = tmp_path / "both"
    commands = [["merge", *BOTH, "--method", "linear", "--weights", ",".join(pair), "--out"] for pair in weights]
    for name, words in zip("ab", commands, strict=True):
        with pytest.raises(SystemExit):
            main([*words, str(tmp_path / name)])
    ended = run_at_once([[*words, str(out)] for words in commands], tmp_path)
    assert sorted(code for code, _ in ended) == [0, 2]
    won = [code for code, _ in ended].index(0)
    assert any(re.match(said.format(out=out), ended[1 - won][1]) for said in (TOLD, OVER)), ended
    assert json.loads((out / "merge.json").read_text())["weights"] == [float(one) for one in weights[won]]
    alone = load_file(tmp_path / "ab"[won] / "model.safetensors")
    assert all(torch.equal(tensor, alone[name]) for name, tensor in load_file(out / "model.safetensors").items())
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "both", "0.err", "1.err"}


@pytest.mark.slow
def test_a_second_training_does_not_touch_the_checkpoints_of_the_first(tmp_path: Path):
    data, out = training_set(tmp_path / "data", 32), tmp_path / "out"
    quick = ["learning_rate=1e-3", "per_device_batch_size=8", "bf16=false", "gradient_checkpointing=false", "threads=1"]
    words = ["train", "--model", str(VLM), "--data", str(data), "epochs=4", "save_steps=2", *quick, "--out"]
    first = begin(main, [*words, str(out)], err=tmp_path / "first.err")
    while not list(tmp_path.glob("out.partial/checkpoints/checkpoint-2")):
        assert first.is_alive()
        time.sleep(0.01)
    ((code, said),) = run_at_once([[*words, str(out)]], tmp_path)
    first.join()
    assert code == 2 and re.match(TOLD.format(out=out), said), said
    assert first.exitcode == 0
    with pytest.raises(SystemExit):
        main([*words, str(tmp_path / "alone")])
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "alone" / "model.safetensors").read_bytes()


def test_a_second_generation_pays_for_nothing(tmp_path: Path):
    problems, out = tmp_path / "problems", tmp_path / "out"
    with pytest.raises(SystemExit):
        main(["ingest", "--source", str(ASSETS / "pool.parquet"), "--out", str(problems), "limit=20"])
    with OpenAIServer(delay_seconds=0.3) as server:
        words = ["generate", "--problems", str(problems), "--out", str(out), "samples=4"]
        words += ["--endpoint", server.url, "--model", "m", "teacher.concurrency=4"]
        first = begin(main, words, err=tmp_path / "first.err")
        while not server.requests:
            assert first.is_alive()
            time.sleep(0.01)
        ((code, said),) = run_at_once([words], tmp_path)
        first.join()
        assert code == 2 and re.match(TOLD.format(out=out), said), said
        assert first.exitcode == 0
        assert len(server.requests) <= 20 * 4 + 1, "each sample once"
