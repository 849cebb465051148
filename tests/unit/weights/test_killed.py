"""Δ and merges killed with SIGKILL at any moment: nothing that looks complete is left, and run again they complete."""

import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from drift.config.models import DeltaConfig, MergeConfig
from drift.ground.artifacts import read_provenance, write_json
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import load_delta
from drift.weights.merging.merge import merge
from drift.weights.storage.checkpoints import Checkpoint
from tests.forked import FORKS, begin

MOMENTS = (0.02, 0.5, 0.95)
"""Of the time that the undisturbed work takes."""


def work(step: str, models: Path, out: Path, channel: Connection) -> None:
    """What is killed: the step, and a word before it and after it."""
    channel.send("ready")
    given = {"expert": str(models / "expert"), "vlm": str(models / "vlm"), "base": str(models / "expert-base")}
    if step == "delta":
        compute_delta(DeltaConfig(modules=("attn",)), **given, out=out)
    else:
        merge(MergeConfig(method="ties"), **given, out=out)
    channel.send("done")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models of 8 MB a tensor, so that the work takes a while."""
    folder = tmp_path_factory.mktemp("models")
    base = torch.randn(1024, 2048, generator=torch.Generator().manual_seed(0))
    for seed, name in enumerate(("expert", "vlm", "expert-base")):
        (folder / name).mkdir()
        write_json(folder / name / "config.json", {"vision_config": {}} if name == "vlm" else {})
        noise = torch.randn(1024, 2048, generator=torch.Generator().manual_seed(seed + 1))
        layers = {f"model.layers.{i}.self_attn.q_proj.weight": base + 0.1 * noise for i in range(12)}
        save_file(layers, folder / name / "model.safetensors")
    return folder


def started(step: str, models: Path, out: Path) -> tuple[ForkServerProcess, Connection]:
    """The step in a process of its own, its imports done."""
    heard, told = FORKS.Pipe(duplex=False)
    process = begin(work, step, models, out, told)
    told.close()
    assert heard.recv() == "ready"
    return process, heard


def finished(step: str, models: Path, out: Path) -> float:
    """Seconds that the undisturbed work takes."""
    process, heard = started(step, models, out)
    before = time.monotonic()
    with heard:
        assert heard.recv() == "done"
    seconds = time.monotonic() - before
    process.join()
    return seconds


@pytest.mark.parametrize(
    ("step", "load"), [("delta", load_delta), ("merge", lambda folder: (Checkpoint(folder), read_provenance(folder)))]
)
def test_killed_at_any_moment_nothing_looks_complete_and_run_again_it_is(
    step: str, load: Callable[[Path], object], models: Path, tmp_path: Path
) -> None:
    seconds = finished(step, models, tmp_path / "whole")
    unfinished = 0
    for moment in MOMENTS:
        process, heard = started(step, models, tmp_path / "out")
        with heard:
            time.sleep(moment * seconds)
            process.kill()
            process.join()
        if (tmp_path / "out").exists():  # it was quicker this time: then it must be whole
            load(tmp_path / "out")
            (tmp_path / "out").rename(tmp_path / f"early-{moment}")
        else:
            unfinished += 1
    assert unfinished >= 1
    finished(step, models, tmp_path / "out")
    load(tmp_path / "out")
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} <= {"whole", "out", "early"}, "nothing stays"
    for file in (tmp_path / "whole").glob("*.safetensors"):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
