"""benchmarks/gpu.sh from end to end on a machine without a GPU, at a size that says nothing about speed."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks.gpu import PARTS, lacking, needed

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
NOT_ON_A_PROCESSOR = {"sdpa, memory-efficient", "flash_attention_2", "flash_attention_3"}


def gpu(out, *options):
    command = ["bash", SCRIPT, "--device", "cpu", "--small", "--out", out, *options]
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    (written,) = out.glob("*.json")
    return done, json.loads(written.read_text()), written.with_suffix(".md").read_text()


@pytest.mark.slow
def test_every_part_runs_to_its_end_and_names_what_a_processor_cannot_do(tmp_path):
    done, result, table = gpu(tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(result["parts"]) == PARTS
    rows = [row for part in result["parts"].values() for row in part["rows"]]
    assert {row["case"].removeprefix("padded, ").removeprefix("packed, ") for row in rows if "not_run" in row} == (
        NOT_ON_A_PROCESSOR
    )
    assert all(f"- {row['case']}: not run, " in table for row in rows if "not_run" in row)
    steps, bf16 = ({row["case"]: row for row in result["parts"][part]["rows"]} for part in ("steps", "invariance"))
    assert steps["guided, attn"]["delta_gigabytes"] < steps["guided, attn+mlp"]["delta_gigabytes"]
    assert bf16["bf16, accumulation 8"]["of_float32"] < 0.02 < bf16["backward: bf16, accumulation 4"]["of_float32"]


@pytest.mark.parametrize(
    ("minutes", "ended"), [("0", "not started: the time was up"), ("0.01", "cut off after 1 s")], ids=["none", "short"]
)
def test_what_the_time_does_not_suffice_for_is_said(tmp_path, minutes, ended):
    done, result, table = gpu(tmp_path, "--minutes", minutes)
    assert done.returncode == 1
    assert {part["ended"] for part in result["parts"].values()} == {ended}
    assert table.count(ended) == len(PARTS)


def test_a_package_that_is_absent_or_of_another_version_is_named():
    assert lacking(needed()) == {}
    assert lacking(["torch>=2.6", "safetensors>=99", "no_such_package>=1"]) == {
        "safetensors>=99": version("safetensors"),
        "no_such_package>=1": None,
    }
