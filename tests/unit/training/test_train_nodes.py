"""Training on two nodes, each with an agent of its own on loopback: under torchrun, and as a TrainJob runs it."""

import json
import time

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from torch.distributed.run import main as torchrun

from drift.config.train import TrainConfig
from drift.ground.artifacts import read_json
from drift.ground.errors import ConfigError, PipelineError
from drift.training.fit import CHECKPOINTS, Job
from drift.training.nodes import node
from drift.training.ranks import started_ranks
from drift.training.sft import train
from tests.forked import begin
from tests.ranks import IN_ONE_PIECE, QUICK, apart, free_port, write_inputs
from tests.world import VLM

SECONDS = 120
"""In which two nodes must have ended, whatever happens to one of them."""
GUIDED = 129408
"""Elements of Δ; a rank holds its share of them where weights are sharded."""
BACKENDS = ["ddp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("zero2", "zero3", "fsdp2"))]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def alone(world):
    """The weights of one process."""
    config = TrainConfig(**{**QUICK, **IN_ONE_PIECE})
    train(config, model=str(VLM), training_set=world / "data", delta=world / "delta", out=world / "alone")
    return load_file(world / "alone" / "model.safetensors")


def settings(world, backend, **changes):
    """Of a training on nodes, which are counted by whoever starts them."""
    zero = {"deepspeed": str(world / f"{backend}.json")} if backend.startswith("zero") else {}
    return {**QUICK, "processes": None, **zero, "fsdp": backend == "fsdp2", **changes}


class TwoNodes:
    """``work(arguments)`` on two nodes of one rank each, told as Trainer and torchrun tell them."""

    def __init__(self, folder, work, arguments, **variables):
        folder.mkdir(exist_ok=True)
        self.errors, self.outputs = ([folder / f"node{n}.{kind}" for n in (0, 1)] for kind in ("err", "out"))
        variables |= {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1"}
        variables |= {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(free_port())}
        self.processes = [
            begin(work, arguments, out=out, err=err, PET_NODE_RANK=str(rank), **variables)
            for rank, (out, err) in enumerate(zip(self.outputs, self.errors, strict=True))
        ]

    def codes(self):
        """Exit codes, of nodes that ended within `SECONDS`."""
        for process in self.processes:
            process.join(SECONDS)
        return [process.exitcode for process in self.processes]

    def said(self, rank):
        return self.errors[rank].read_text()


def end_node(arguments):
    """`python -m drift.training.nodes.node`."""
    raise SystemExit(node.main(arguments))


def drift_train(world, folder, backend="ddp", data="data", **changes):
    """`torchrun -m drift.cli train` on two nodes."""
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings(world, backend, **changes).items()]
    paths = ["--model", str(VLM), "--data", str(world / data), "--delta", str(world / "delta")]
    command = ["-m", "drift.cli", "train", *paths, "--out", str(folder / "out"), "--json", *overrides]
    return TwoNodes(folder / "logs", torchrun, command)


def node_job(world, folder, backend="ddp", data="data", **changes):
    """A job as the pod that creates a TrainJob writes it."""
    config = TrainConfig(**settings(world, backend, **changes))
    (folder / "model").mkdir(parents=True, exist_ok=True)
    job = Job(config, VLM, world / data, world / "delta", folder / "model")
    node.write_job(folder / "job.json", job)
    assert node.read_job(folder / "job.json") == job
    return ["--job", str(folder / "job.json")]


@pytest.mark.parametrize("backend", BACKENDS)
def test_drift_train_under_torchrun_on_two_nodes_gives_the_weights_of_one_process(world, alone, tmp_path, backend):
    nodes = drift_train(world, tmp_path, backend)
    assert nodes.codes() == [0, 0], nodes.said(0) + nodes.said(1)
    assert apart(load_file(tmp_path / "out" / "model.safetensors"), alone) <= 1e-5
    assert read_json(tmp_path / "out" / "provenance.json")["processes"] == 2
    first, second = (path.read_text() for path in nodes.outputs)
    assert '"train/steps": 4' in first and "train/steps" not in second


def broken_row(world):
    """A training set with an image that does not decode: where, and the row's id."""
    rows = pq.read_table(world / "data" / "train.parquet").to_pylist()
    rows[5]["images"][0]["bytes"] = b"no image"
    (world / "broken").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), world / "broken" / "train.parquet")
    return rows[5]["id"]


@pytest.mark.slow
def test_what_the_input_is_to_blame_for_ends_both_nodes_with_one_line_and_a_code_that_says_so(world, tmp_path):
    row = broken_row(world)
    message = tmp_path / "termination-log"
    nodes = TwoNodes(
        tmp_path / "logs", end_node, node_job(world, tmp_path, data="broken"), DRIFT_TERMINATION_FILE=str(message)
    )
    assert nodes.codes() == [2, 2]
    for rank in (0, 1):
        assert f"drift: node {rank}: row {row}: the image does not decode" in nodes.said(rank)
        assert "Traceback" not in nodes.said(rank)
    assert message.read_text().startswith("drift: node ") and "\n" not in message.read_text()
    assert not (tmp_path / "result.json").exists()


@pytest.mark.slow
def test_an_error_of_the_first_rank_is_said_by_every_rank_under_torchrun(world, tmp_path):
    nodes = drift_train(world, tmp_path, cutoff_tokens=5)
    assert 0 not in nodes.codes()
    for rank in (0, 1):
        assert "drift: " in nodes.said(rank) and "longer than train.cutoff_tokens = 5" in nodes.said(rank)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "share"), [("ddp", 1.0), ("fsdp2", 0.5)])
def test_nodes_of_a_trainjob_give_the_weights_of_one_process_also_if_one_was_killed(
    world, alone, tmp_path, backend, share
):
    whole = TwoNodes(tmp_path / "logs", end_node, node_job(world, tmp_path / "whole", backend, save_steps=2))
    assert whole.codes() == [0, 0], whole.said(0) + whole.said(1)
    assert apart(load_file(tmp_path / "whole" / "model" / "model.safetensors"), alone) <= 1e-5
    assert read_json(tmp_path / "whole" / "result.json")["guided_elements"] == pytest.approx(share * GUIDED, rel=0.01)
    arguments = node_job(world, tmp_path / "killed", backend, save_steps=2)
    nodes = TwoNodes(tmp_path / "killed-logs", end_node, arguments)
    kill_behind_a_checkpoint(nodes.processes[1], tmp_path / "killed" / "model" / CHECKPOINTS)
    began = time.monotonic()
    assert nodes.codes() == [1, -9]
    assert time.monotonic() - began < 30
    assert "drift: node 0: rank 0 lost the other ranks: " in nodes.said(0) and "Traceback" not in nodes.said(0)
    assert not (tmp_path / "killed" / "result.json").exists()
    again = TwoNodes(tmp_path / "again-logs", end_node, arguments)
    assert again.codes() == [0, 0], again.said(0) + again.said(1)
    killed, reference = (tmp_path / name / "model" / "model.safetensors" for name in ("killed", "whole"))
    assert killed.read_bytes() == reference.read_bytes()
    assert read_json(tmp_path / "killed" / "result.json")["steps"] == 4


def kill_behind_a_checkpoint(process, checkpoints):
    """SIGKILL a node, its rank with it, as soon as the first checkpoint is complete."""
    while process.is_alive() and not (checkpoints / "checkpoint-2" / "complete").exists():
        time.sleep(0.01)
    alive = psutil.Process(process.pid)
    for one in [*alive.children(recursive=True), alive]:
        one.kill()


@pytest.mark.slow
def test_sigterm_ends_a_node_that_still_waits_for_the_others(world, tmp_path):
    port = free_port()
    variables = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_NODE_RANK": "0"}
    variables |= {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port)}
    process = begin(end_node, node_job(world, tmp_path), **variables)
    while not any(one.laddr.port == port for one in psutil.Process(process.pid).net_connections("tcp")):
        time.sleep(0.05)
    process.terminate()
    process.join(30)
    assert process.exitcode == node.TERMINATED


def test_ranks_must_know_their_number_and_be_as_many_as_asked_for(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PipelineError, match="WORLD_SIZE is 2, but RANK is not set: start every rank with torchrun"):
        started_ranks(None)
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    assert started_ranks(None) == 2
    with pytest.raises(ConfigError, match=r"train\.processes is 4, but 2 ranks were started; set it to null"):
        started_ranks(4)
