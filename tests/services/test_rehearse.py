"""`drift rehearse --runner docker`: each step in its image. Runs with `make test-services`; needs `make images`."""

import json
import os
import subprocess
from pathlib import Path

import docker
from components._images import IMAGES
from drift.config.file import load
from drift.config.plan import plan
from tests.end_to_end import chain


def rehearse(config: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*chain.DRIFT, "rehearse", "-c", str(config), "--runner", "docker", *arguments]
    settings = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=chain.ROOT, env=settings, capture_output=True, text=True, timeout=900, check=False
    )


def test_every_kind_of_step_of_the_papers_dag_runs_in_its_image(tmp_path: Path) -> None:
    config = chain.two_arms(tmp_path)  # all arms run in `tests/end_to_end/test_rehearse.py`
    ended = rehearse(config, "--anyway", "--json", f"runs={tmp_path / 'runs'}", "evaluate.data=/no/data")
    assert ended.returncode == 2, ended.stderr  # models and data are not here
    result = json.loads(ended.stdout)
    planned = plan(load(config), local=False).tasks(registers=True)
    assert sorted((step["step"], step["arm"]) for step in result["steps"]) == sorted(planned)
    assert result["registered"]["model"] == "qwen2_5_vl_7b-drift-rehearsal"


def test_an_image_without_drift_is_found_before_anything_runs(tmp_path: Path) -> None:
    client = docker.from_env()
    container = client.containers.create(IMAGES["pipeline"], ["true"])
    try:
        container.commit("bare-python", "test", changes=["ENV PYTHONPATH=/none PATH=/usr/bin:/bin", "ENTRYPOINT []"])
        ended = rehearse(chain.write_config(tmp_path), "--only-checks", DRIFT_IMAGE_TRAIN="bare-python:test")
    finally:
        container.remove()
        client.images.remove("bare-python:test")
        client.close()
    assert ended.returncode == 2
    assert "✗ Docker" in ended.stdout and "image bare-python:test: " in ended.stdout


def test_a_missing_image_is_found_before_anything_runs(tmp_path: Path) -> None:
    ended = rehearse(chain.write_config(tmp_path), "--only-checks", DRIFT_IMAGE_TRAIN="nobody/train-python:1")
    assert ended.returncode == 2
    assert "image nobody/train-python:1: not on this machine" in ended.stdout
    assert not list(tmp_path.glob("runs/rehearsal"))
