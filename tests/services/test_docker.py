"""The chain in real containers, as a user without rights: the same results as in processes.

Runs with `make test-services`: needs Docker and the images of `make images`.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from docker.models.containers import Container

import docker
from components._images import IMAGES
from drift.ground.artifacts import read_json
from pipelines.local.containers import ContainerWork, create, settings
from tests.end_to_end import chain

USER = os.getuid() or 10002
SOCKET = Path("/var/run/docker.sock")
SAME = ("problems.parquet", "train.parquet", "delta.safetensors", "model.safetensors", "samples.parquet")
"""Files that must be equal to the byte, wherever the steps ran."""


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


def drift_run(client: docker.DockerClient, config: Path, *arguments: str) -> Container:
    """`drift run` of this checkout, started as a user without rights who may talk to Docker: itself in a container."""
    folder, temporary = config.parent, tempfile.mkdtemp(prefix="d")  # sockets need a short path
    for path in (folder, temporary, *folder.rglob("*")):
        os.chown(path, USER, USER)
    places = {str(chain.ROOT): "ro", str(folder): "rw", temporary: "rw"}
    same = {path: {"bind": path, "mode": mode} for path, mode in places.items()}
    return client.containers.run(
        IMAGES["pipeline"],
        ["python3", *chain.DRIFT[1:], "run", "-c", str(config), "--json", *arguments],
        user=f"{USER}:{USER}",
        group_add=[SOCKET.stat().st_gid],
        volumes={**same, str(SOCKET): {"bind": str(SOCKET), "mode": "rw"}},
        working_dir=str(chain.ROOT),
        environment={"HOME": str(folder), "TMPDIR": temporary, "PYTHONPATH": str(chain.ROOT)},
        network_mode="host",
        detach=True,
    )


def finished(process: Container) -> dict:
    try:
        assert process.wait(timeout=900)["StatusCode"] == 0, process.logs(stdout=False).decode()
        return json.loads(process.logs(stderr=False))
    finally:
        process.remove(force=True)


@pytest.fixture(scope="module")
def in_processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Where the chain ran in processes, and its result."""
    folder = tmp_path_factory.mktemp("processes")
    with contextlib.closing(docker.from_env()) as client:
        return folder / "runs", finished(drift_run(client, chain.write_config(folder)))


def contents(runs: Path) -> dict[str, str]:
    """Hash of every file of SAME, by its place in the run."""
    (tasks,) = runs.glob("*/tasks")
    found = [path for name in SAME for path in tasks.rglob(name)]
    return {str(path.relative_to(tasks)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_the_whole_chain_in_containers_gives_what_it_gives_in_processes(
    client: docker.DockerClient, in_processes: tuple[Path, dict], tmp_path: Path
):
    config, runs = chain.write_config(tmp_path), tmp_path / "runs"
    processes, expected = in_processes
    result = finished(drift_run(client, config, "--runner", "docker"))
    assert contents(runs) == contents(processes)
    assert len(contents(runs)) >= 9
    assert result["summary"]["rows"][2]["reasoning"] == expected["summary"]["rows"][2]["reasoning"]
    assert result["registered"]["version"] == 1
    assert {path.stat().st_uid for path in runs.rglob("*")} == {USER}
    again = finished(drift_run(client, config, "--runner", "docker"))
    assert {"ingest", "generate", "curate", "deltas", "arm"}.isdisjoint(step for step, _ in chain.worked(again))
    ids = pq.read_table(next(runs.rglob("train.parquet")), columns=["id"])["id"]
    assert len(ids) >= 64


def kinds(runs: Path) -> list[tuple[str, str]]:
    """Hash of every file of SAME by its name: in the loops of shards its place is another one."""
    return sorted((Path(place).name, digest) for place, digest in contents(runs).items())


def test_shards_in_containers_give_what_one_step_gives_in_processes(
    client: docker.DockerClient, in_processes: tuple[Path, dict], tmp_path: Path
):
    split = ("--runner", "docker", "generate.shards=2", "evaluate.shards=2")
    result = finished(drift_run(client, chain.write_config(tmp_path), *split))
    assert kinds(tmp_path / "runs") == kinds(in_processes[0])
    places = {(step["step"], step["arm"]) for step in result["steps"]}
    assert places >= {("generate", "1/2"), ("generate", "2/2"), ("answer_vlm", "2/2"), ("answer_arm", "drift 1/2")}


def test_a_step_that_exits_3_fails_fifty_times_of_fifty(client: docker.DockerClient, tmp_path: Path):
    arguments = settings("exit-codes", [tmp_path], {}, [])
    codes = []
    for _ in range(50):
        with (tmp_path / "log.txt").open("wb") as log:
            container = create(client, IMAGES["pipeline"], ["sh", "-c", "echo x; exit 3"], {}, arguments)
            codes.append(ContainerWork(container, log).wait())
    assert codes == [3] * 50
    assert client.containers.list(all=True, filters={"label": "drift.run=exit-codes"}) == []


def test_a_container_can_write_where_it_should_and_nowhere_else(client: docker.DockerClient, tmp_path: Path):
    script = f"id -u; touch {tmp_path}/ok /tmp/ok; touch /opt/drift/x || touch {chain.ROOT}/x || echo refused"
    with (tmp_path / "log.txt").open("w+b") as log:
        arguments = settings("rights", [tmp_path], {}, [])
        assert ContainerWork(create(client, IMAGES["pipeline"], ["sh", "-c", script], {}, arguments), log).wait() == 0
        log.seek(0)
        lines = log.read().decode().splitlines()
    assert lines[0] == str(os.getuid()) and lines[-1] == "refused"
    assert (tmp_path / "ok").is_file()


BILL = """id -u; python3 -c 'import json, sys
print(*(part["name"] for part in json.load(open("/opt/drift/sbom.cdx.json"))["components"]))'"""


def test_the_image_runs_as_a_user_without_rights_and_says_what_is_in_it(client: docker.DockerClient):
    user, *names = client.containers.run(IMAGES["pipeline"], ["sh", "-c", BILL], remove=True).decode().split()
    assert user == "10001"
    assert {"torch", "kfp", "mlflow", "transformers"} <= set(names)
    labels = client.images.get(IMAGES["pipeline"]).labels
    assert len(labels["org.opencontainers.image.revision"]) == 40


def test_killing_the_runner_ends_its_container(client: docker.DockerClient, tmp_path: Path):
    runner = drift_run(client, chain.write_config(tmp_path), "--runner", "docker")
    deadline = time.monotonic() + 120
    while not at_work(client, tmp_path / "runs"):
        assert time.monotonic() < deadline, "no container started"
        time.sleep(0.2)
    time.sleep(3)  # let the step begin
    runner.kill()
    while time.monotonic() < deadline and at_work(client, tmp_path / "runs"):
        time.sleep(0.5)
    assert not at_work(client, tmp_path / "runs")
    runner.remove(force=True)


def at_work(client: docker.DockerClient, runs: Path) -> list[Container]:
    """The running containers of the one run in ``runs``, if it has begun; others' may be there too."""
    labels = [f"drift.run={read_json(path)['run_id']}" for path in runs.glob("*/run.json")]
    return [one for label in labels for one in client.containers.list(filters={"label": label}, ignore_removed=True)]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"DOCKER_HOST": "unix:///nowhere.sock"}, "drift: Docker does not answer"),
        ({"DRIFT_IMAGE_TRAIN": "nobody/train-python:1"}, "drift: image nobody/train-python:1: not on this machine"),
    ],
)
def test_without_docker_or_an_image_nothing_begins(tmp_path: Path, environment: dict[str, str], message: str):
    config = chain.write_config(tmp_path)
    command = [*chain.DRIFT, "run", "-c", str(config), "--runner", "docker"]
    ended = subprocess.run(
        command, cwd=chain.ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert ended.stderr.startswith(message)
    assert not list((tmp_path / "runs").glob("miniature-*"))
