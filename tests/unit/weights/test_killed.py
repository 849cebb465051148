"""Δ and merges killed with SIGKILL at any moment: nothing that looks complete is left, and run again they complete."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from drift.ground.artifacts import read_provenance, write_json
from drift.weights.checkpoints import Checkpoint
from drift.weights.deltafile import load_delta

MOMENTS = (0.02, 0.5, 0.95)
"""Of the time that the undisturbed work takes."""
STEP = """
import sys
from pathlib import Path
from drift.config import DeltaConfig, MergeConfig
from drift.weights import compute_delta, merge

step, expert, vlm, out = sys.argv[1:]
print("ready", flush=True)
models = {"expert": expert, "vlm": vlm, "base": expert + "-base", "out": Path(out)}
if step == "delta":
    compute_delta(DeltaConfig(modules=("attn",)), **models)
else:
    merge(MergeConfig(method="ties"), **models)
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models of 8 MB a tensor, so that the work takes a while."""
    folder = tmp_path_factory.mktemp("models")
    base = torch.randn(1024, 2048, generator=torch.Generator().manual_seed(0))
    for seed, name in enumerate(("expert", "vlm", "expert-base")):
        (folder / name).mkdir()
        write_json(folder / name / "config.json", {})
        noise = torch.randn(1024, 2048, generator=torch.Generator().manual_seed(seed + 1))
        layers = {f"model.layers.{i}.self_attn.q_proj.weight": base + 0.1 * noise for i in range(12)}
        save_file(layers, folder / name / "model.safetensors")
    return folder


def started(step: str, models: Path, out: Path) -> subprocess.Popen[str]:
    """The step in a process of its own, its imports done."""
    command = [sys.executable, "-c", STEP, step, str(models / "expert"), str(models / "vlm"), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finished(step: str, models: Path, out: Path) -> float:
    """Seconds that the undisturbed work takes."""
    process = started(step, models, out)
    before = time.monotonic()
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        return time.monotonic() - before


@pytest.mark.parametrize(
    ("step", "load"), [("delta", load_delta), ("merge", lambda folder: (Checkpoint(folder), read_provenance(folder)))]
)
def test_killed_at_any_moment_nothing_looks_complete_and_run_again_it_is(
    step: str, load: Callable[[Path], object], models: Path, tmp_path: Path
) -> None:
    seconds = finished(step, models, tmp_path / "whole")
    unfinished = 0
    for moment in MOMENTS:
        with started(step, models, tmp_path / "out") as process:
            time.sleep(moment * seconds)
            process.send_signal(signal.SIGKILL)
        if (tmp_path / "out").exists():  # it was quicker this time: then it must be whole
            load(tmp_path / "out")
            (tmp_path / "out").rename(tmp_path / f"early-{moment}")
        else:
            unfinished += 1
    assert unfinished >= 1
    finished(step, models, tmp_path / "out")
    load(tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()
    for file in (tmp_path / "whole").glob("*.safetensors"):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
