"""Two containers on a network of their own train as two nodes, by the very command and variables of a TrainJob.

Runs with `make test-services`: needs Docker and the images of `make images`. The code is this checkout's.
"""

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.models.containers import Container
from docker.models.networks import Network
from safetensors.torch import load_file

import docker
from components._images import IMAGES
from drift.config.nodes import Mount, Nodes
from drift.config.train import TrainConfig
from drift.training.fit import CHECKPOINTS, Job
from drift.training.nodes.node import write_job
from drift.training.nodes.trainjob import manifest
from drift.training.sft import train
from tests.ranks import IN_ONE_PIECE, QUICK, apart, write_inputs
from tests.world import VLM

ROOT = Path(__file__).parents[2]
USER = os.getuid() or 10002
SECONDS = 180
NOTICED_WITHIN_SECONDS = 60
"""In which a node must have ended whose partner was killed; on gloo it takes a second or two."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs, and the weights of one process."""
    folder = write_inputs(tmp_path_factory.mktemp("world"))
    inputs = {"training_set": folder / "data", "delta": folder / "delta"}
    train(TrainConfig(**{**QUICK, **IN_ONE_PIECE}), model=str(VLM), out=folder / "alone", **inputs)
    return folder


@pytest.fixture
def network() -> Iterator[Network]:
    client = docker.from_env()
    network = client.networks.create(f"drift-{uuid.uuid4().hex[:8]}", internal=True)
    yield network
    network.remove()
    client.close()


class Pods:
    """The nodes of a TrainJob, told as Trainer tells them (pkg/runtime/framework/plugins/torch/torch.go at v2.3.0)."""

    def __init__(self, network: Network, world: Path, job: Path) -> None:
        claim = Mount(claim="drift-shared", path=str(job.parent))
        nodes = Nodes(nodes=2, gpus=1, image=IMAGES["train"], runtime="drift-torch", mounts=(claim,))
        trainer = manifest(nodes, "t", job, run="r")["spec"]["trainer"]
        own = {one["name"]: one["value"] for one in trainer["env"]}
        first = f"{network.name}-node-0"
        told = {
            "PET_NNODES": str(trainer["numNodes"]), "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
            "PET_MASTER_ADDR": first, "PET_MASTER_PORT": "29500",
        }  # fmt: skip
        shared = {str(path): {"bind": str(path), "mode": "rw"} for path in (world, job.parent)}
        self.nodes = [
            network.client.containers.run(  # type: ignore[union-attr]
                trainer["image"],
                trainer["command"],
                name=f"{network.name}-node-{rank}",
                environment={
                    **own,
                    **told,
                    "PET_NODE_RANK": str(rank),
                    "PYTHONPATH": str(ROOT),
                    "OMP_NUM_THREADS": "1",
                },
                volumes={**shared, str(ROOT): {"bind": str(ROOT), "mode": "ro"}},
                user=f"{USER}:{USER}",
                network=network.name,
                read_only=True,
                tmpfs={"/tmp": ""},
                cap_drop=["ALL"],
                detach=True,
            )
            for rank in range(2)
        ]

    def codes(self) -> list[int]:
        """Exit codes, of nodes that end within `SECONDS`; the containers stay, with their logs."""
        return [node.wait(timeout=SECONDS)["StatusCode"] for node in self.nodes]

    def logs(self) -> str:
        return "\n".join(_log(node) for node in self.nodes)

    def remove(self) -> None:
        for node in self.nodes:
            with contextlib.suppress(docker.errors.NotFound):
                node.remove(force=True)


def _log(node: Container) -> str:
    return str(node.logs().decode())


@contextlib.contextmanager
def pods(network: Network, world: Path, job: Path) -> Iterator[Pods]:
    running = Pods(network, world, job)
    try:
        yield running
    finally:
        running.remove()


def job_in(folder: Path, world: Path, backend: str) -> Path:
    """A job on the claim, as the pod that creates a TrainJob writes it."""
    (folder / "model").mkdir(parents=True)
    zero = {"deepspeed": str(world / f"{backend}.json")} if backend.startswith("zero") else {}
    config = TrainConfig(**{**QUICK, "processes": None, "save_steps": 2, **zero})
    write_job(folder / "job.json", Job(config, VLM, world / "data", world / "delta", folder / "model"))
    for path in (world, *world.rglob("*"), folder, *folder.rglob("*")):
        os.chown(path, USER, USER)
    for path in (folder, *folder.parents):
        with contextlib.suppress(PermissionError):
            path.chmod(path.stat().st_mode | 0o055)
    return folder / "job.json"


@pytest.mark.parametrize("backend", ["ddp", "zero2", "zero3"])
def test_two_containers_train_as_one_process_and_a_killed_one_costs_only_the_steps_since_the_checkpoint(
    network: Network, world: Path, tmp_path: Path, backend: str
) -> None:
    whole = job_in(tmp_path / "whole", world, backend)
    with pods(network, world, whole) as running:
        assert running.codes() == [0, 0], running.logs()
    assert json.loads((tmp_path / "whole" / "result.json").read_text())["steps"] == 4
    weights = load_file(tmp_path / "whole" / "model" / "model.safetensors")
    assert apart(weights, load_file(world / "alone" / "model.safetensors")) <= 1e-5

    killed = job_in(tmp_path / "killed", world, backend)
    with pods(network, world, killed) as running:
        complete = tmp_path / "killed" / "model" / CHECKPOINTS / "checkpoint-2" / "complete"
        deadline = time.monotonic() + SECONDS
        while not complete.exists():
            assert time.monotonic() < deadline, running.logs()
            time.sleep(0.01)
        running.nodes[1].kill()
        began = time.monotonic()
        assert running.codes() == [1, 137]
        assert time.monotonic() - began < NOTICED_WITHIN_SECONDS
        last = _log(running.nodes[0]).strip().splitlines()[-1]
        assert last.startswith("drift: node 0: rank 0 lost the other ranks: "), running.logs()
    assert not (tmp_path / "killed" / "result.json").exists()
    with pods(network, world, killed) as running:
        assert running.codes() == [0, 0], running.logs()
    again = (tmp_path / "killed" / "model" / "model.safetensors").read_bytes()
    assert again == (tmp_path / "whole" / "model" / "model.safetensors").read_bytes()


def test_sigterm_ends_a_container_that_waits_for_the_other_node_before_kubernetes_would_kill_it(
    network: Network, world: Path, tmp_path: Path
) -> None:
    with pods(network, world, job_in(tmp_path / "alone", world, "ddp")) as running:
        running.nodes[1].kill()
        deadline = time.monotonic() + SECONDS
        while not is_met(running.nodes[0]):
            assert time.monotonic() < deadline, running.logs()
            time.sleep(0.5)
        running.nodes[0].kill("SIGTERM")
        began = time.monotonic()
        assert running.nodes[0].wait(timeout=SECONDS)["StatusCode"] == 143
        assert time.monotonic() - began < 20


def is_met(first: Container) -> bool:
    """Whether the first node listens for the others, at port 29500."""
    listening = ":733C [0-9A-F]+:0000 0A"
    return first.exec_run(["grep", "-qE", listening, "/proc/net/tcp", "/proc/net/tcp6"]).exit_code == 0
