"""A training on several nodes as a TrainJob: what is sent, and every way it was seen to end, as recorded."""

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable

import pytest
from safetensors.torch import load_file

from drift.config.nodes import NODES, SHARED, Mount, Nodes
from drift.config.section import to_json
from drift.config.train import TrainConfig
from drift.ground.artifacts import read_json, write_json
from drift.ground.errors import ConfigError, PipelineError, ServiceError
from drift.training.fit import fit
from drift.training.nodes import cluster, kube
from drift.training.nodes.node import read_job
from drift.training.nodes.trainjob import LONGEST, job_name, manifest
from drift.training.sft import train
from tests.forked import begin
from tests.ranks import IN_ONE_PIECE, QUICK, apart, free_port, write_inputs
from tests.trainer_server import COMPLETE, Trainer, invalid, pod, recorded, terminated
from tests.unit.training.test_train_nodes import end_node
from tests.world import VLM

DONE = [{"suspend": False, "status": {"conditions": [COMPLETE]}}]
AT_WORK = [{"suspend": False, "status": {"jobsStatus": [{"name": "node", "active": 1}]}}]
LOST = "drift: node 0: rank 0 lost the other ranks: Connection closed by peer [10.1.0.7]:4711"
KILLED = "drift: node 1: rank 1 ended with exit code -9: Signal 9 (SIGKILL) received by PID 77"


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(cluster, "RESULT_WITHIN_SECONDS", 0.2)
    monkeypatch.setattr(kube, "FIRST_WAIT_SECONDS", 0.01)
    for name in ("DRIFT_SERVICE_ACCOUNT", "KFP_POD_NAME", "KFP_POD_UID", "DRIFT_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def machines(claim, **changes):
    given = {
        "nodes": 2,
        "gpus": 1,
        "image": "registry/drift-train-python@sha256:0",
        "runtime": "drift-torch",
        "mounts": (Mount(claim="drift-scratch", path=str(claim)),),
    }
    return Nodes(**{**given, **changes})


def body_of(tmp_path, **changes):
    return manifest(machines(tmp_path, **changes), "drift-0123abcd-main-89abcdef", tmp_path / "job.json", run="0123")


@contextlib.contextmanager
def serving(monkeypatch, tmp_path, *arguments, **options):
    with Trainer(*arguments, **options) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        yield server


def follow(tmp_path, **changes):
    """Create the TrainJob and follow it to its end."""
    cluster.run_to_the_end(body_of(tmp_path, **changes), tmp_path / "result.json")


def at_the_end(tmp_path, looks):
    """No pod to be seen, and the result once a TrainJob was looked at so often."""

    def pods(name, seen):
        if seen >= looks:
            (tmp_path / "result.json").write_text("{}")
        return [pod(name, 0), pod(name, 1)]

    return pods


# ------------------------------------------------------------------------------------------- what is sent


def test_a_trainjob_belongs_to_the_pod_that_creates_it_and_its_definition_allows_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DRIFT_SERVICE_ACCOUNT", "runner")
    monkeypatch.setenv("KFP_POD_NAME", "run-1")
    monkeypatch.setenv("KFP_POD_UID", "77")
    body = body_of(tmp_path, gpus=8, queue={"kueue.x-k8s.io/queue-name": "drift"})
    assert invalid(body["spec"]) == ""
    assert body["metadata"]["labels"] == {"drift.io/run": "0123", "kueue.x-k8s.io/queue-name": "drift"}
    assert body["metadata"]["ownerReferences"] == [{"apiVersion": "v1", "kind": "Pod", "name": "run-1", "uid": "77"}]
    assert (body["spec"]["trainer"]["numNodes"], body["spec"]["trainer"]["numProcPerNode"]) == (2, 8)
    assert '"serviceAccountName": "runner"' in json.dumps(body["spec"]["runtimePatches"])


def test_what_the_definition_forbids_is_found(tmp_path):
    spec = body_of(tmp_path)["spec"]
    assert "$.trainer.numNodes" in invalid({**spec, "trainer": {"numNodes": "2"}})
    assert "'shm' was unexpected" in invalid({**spec, "shm": "1Gi"})
    assert "twice" in invalid({**spec, "trainer": {"env": [{"name": "A"}, {"name": "A"}]}})


def test_a_trainjobs_name_is_one_label_and_leaves_room_for_its_pods():
    name = job_name("0123ABCD-4567", "an_Arm.with a very long name, longer than any", "f" * 64)
    assert name == "drift-0123abcd-an-arm-with-a-very-l-ffffffff"
    assert len(name) <= LONGEST
    assert job_name("0123ABCD", "main", "e" * 64) != job_name("0123ABCD", "main", "d" * 64)


def test_no_nodes_one_node_and_torchruns_own_variables_are_refused_before_anything_is_asked(tmp_path):
    for wrong in (0, 1):  # Trainer calls a TrainJob of 0 nodes Complete at once
        with pytest.raises(ValueError, match="greater than or equal to 2"):
            machines(tmp_path, nodes=wrong)
    with pytest.raises(ValueError, match="PET_NNODES is Trainer's own"):
        machines(tmp_path, environment={"PET_NNODES": "3"})
    with pytest.raises(ConfigError, match=r"train\.processes is 3, but 2 nodes of 8 GPUs have 16"):
        machines(tmp_path, gpus=8).ranks(3)


# ------------------------------------------------------------------------------------------- how it ends


def test_complete_with_the_first_ranks_result_is_the_end_and_the_trainjob_is_deleted(tmp_path, monkeypatch, capfd):
    logs = {0: "2026-11-26T12:08:50.5Z step 1 of 4\n2026-11-26T12:08:50.51Z step 2 of 4"}
    states = recorded("complete")
    with serving(monkeypatch, tmp_path, states, pods=at_the_end(tmp_path, len(states)), logs=logs) as server:
        follow(tmp_path)
    assert capfd.readouterr().err.splitlines() == ["step 1 of 4", "step 2 of 4"]
    assert server.deleted == ["drift-0123abcd-main-89abcdef"]


def test_complete_without_a_result_is_an_error(tmp_path, monkeypatch):
    with (
        serving(monkeypatch, tmp_path, recorded("complete")) as server,
        pytest.raises(
            PipelineError, match=r"Complete, but its first rank left no .*result.json; is the claim the same"
        ),
    ):
        follow(tmp_path)
    assert server.job is None


def failing_in_its_own_runtime(name, looks):
    """As seen: rank 1 is killed, the first node notices; all start anew, three times, until the last Job fails."""
    if looks < 3 or looks > 10:
        return [pod(name, 0, attempt=looks // 5), pod(name, 1, attempt=looks // 5)]
    if looks == 3:  # the machine of the second node is gone: its pod is not known to have failed yet
        return [pod(name, 0, phase="Failed", ended=terminated(1, LOST)), pod(name, 1)]
    return [
        pod(name, 0, phase="Failed", attempt=looks // 5, ended=terminated(1, LOST, "2026-11-26T12:13:09Z")),
        pod(name, 1, phase="Failed", attempt=looks // 5, ended=terminated(1, KILLED, "2026-11-26T12:13:10Z")),
    ]


def test_in_our_own_runtime_all_start_anew_and_the_first_cause_is_the_error(tmp_path, monkeypatch, caplog):
    states = recorded("failing-own-runtime")
    with (
        serving(monkeypatch, tmp_path, states, pods=failing_in_its_own_runtime) as server,
        pytest.raises(PipelineError) as caught,
    ):
        follow(tmp_path)
    pod_name = "drift-0123abcd-main-89abcdef-node-0-1-abcde"
    assert str(caught.value) == f"node 1 (pod {pod_name}): {KILLED.removeprefix('drift: node 1: ')}"
    said = [line for line in caplog.messages if "all nodes start anew" in line]
    assert (
        len(said) == 4 and "lost the other ranks" in said[0]
    )  # of three attempts; the first has its cause a look later
    assert server.looks == len(states)


def test_in_the_stock_runtime_the_first_failing_pod_is_the_end_at_once(tmp_path, monkeypatch, capfd):
    def pods(name, looks):
        if looks < 3:
            return [pod(name, 0, restart="OnFailure"), pod(name, 1, restart="OnFailure")]
        again = pod(name, 1, restart="OnFailure", before=terminated(1))  # started again in place, after 10 s
        return [pod(name, 0, restart="OnFailure"), again]

    states, logs = recorded("failing-stock-runtime"), {1: "t begin\nt RuntimeError: no kernel image"}
    with (
        serving(monkeypatch, tmp_path, states, pods=pods, logs=logs) as server,
        pytest.raises(PipelineError, match=r"^node 1 \(pod .*-1-abcde\): RuntimeError: no kernel image$"),
    ):
        follow(tmp_path)
    assert server.looks == 3 and server.job is None
    assert "[node 1] begin" in capfd.readouterr().err


def test_what_the_input_is_to_blame_for_is_not_tried_again(tmp_path, monkeypatch):
    def pods(name, looks):
        line = "drift: node 1: row 00000005: the image does not decode"
        return [pod(name, 0), pod(name, 1, phase="Failed", ended=terminated(2, line))]

    with (
        serving(monkeypatch, tmp_path, recorded("failing-own-runtime"), pods=pods) as server,
        pytest.raises(PipelineError, match=r"node 1 \(pod .*\): row 00000005: the image does not decode$"),
    ):
        follow(tmp_path)
    assert server.looks == 1 and server.job is None


@pytest.mark.parametrize(
    ("failed", "cause"),
    [
        ({"ended": terminated(137, reason="OOMKilled")}, "OOMKilled"),
        ({"ended": terminated(139)}, "exit code 139"),
        ({}, "the pod failed"),
    ],
)
def test_a_pod_that_left_no_message_is_told_by_its_reason(tmp_path, monkeypatch, failed, cause):
    def pods(name, looks):
        return [pod(name, 0), pod(name, 1, phase="Failed", restart="Always", **failed)]

    with (
        serving(monkeypatch, tmp_path, AT_WORK, pods=pods),
        pytest.raises(PipelineError, match=rf"node 1 \(pod .*\): {cause}$"),
    ):
        follow(tmp_path)


def test_the_deadline_is_named_and_what_a_node_waited_for(tmp_path, monkeypatch):
    def pods(name, looks):
        return [pod(name, 0), pod(name, 1, phase="Pending", unschedulable="0/3 nodes are available")]

    with (
        serving(monkeypatch, tmp_path, recorded("deadline"), pods=pods) as server,
        pytest.raises(
            PipelineError,
            match=r"not done within timeout_seconds .* \(DeadlineExceeded\); node 1 waited: Unschedulable: 0/3",
        ),
    ):
        follow(tmp_path, timeout_seconds=25)
    assert server.made[0]["spec"]["activeDeadlineSeconds"] == 25 and server.job is None


def test_pods_that_nobody_may_create_are_explained_by_the_events(tmp_path, monkeypatch, caplog):
    refused = {"name": "drift-0123abcd-main-89abcdef-node-0"}
    forbidden = 'pods "x" is forbidden: violates PodSecurity "restricted:latest"'
    event = {"metadata": {}, "involvedObject": refused, "reason": "FailedCreate", "message": forbidden}
    with (
        serving(monkeypatch, tmp_path, recorded("deadline"), events=[event]),
        pytest.raises(PipelineError, match=r"FailedCreate: pods .* violates PodSecurity"),
    ):
        follow(tmp_path)
    assert sum("violates PodSecurity" in line for line in caplog.messages) == 1


@pytest.mark.parametrize(("name", "waits"), [("queued", 1), ("preempted", 1)])
def test_suspended_before_or_after_it_ran_is_waiting_for_quota_and_no_error(tmp_path, monkeypatch, caplog, name, waits):
    states = recorded(name)
    with serving(monkeypatch, tmp_path, states, pods=at_the_end(tmp_path, len(states))):
        follow(tmp_path, queue={"kueue.x-k8s.io/queue-name": "drift"})
    assert sum("it waits for quota" in line for line in caplog.messages) == waits
    assert sum(line.endswith("admitted") for line in caplog.messages) == 1


def test_pods_that_end_because_of_a_preemption_are_no_failure(tmp_path, monkeypatch):
    states = recorded("preempted")

    def pods(name, looks):
        if looks == 3:  # suspended: the pods are killed
            return [pod(name, 0, phase="Failed", restart="OnFailure", ended=terminated(143))]
        return at_the_end(tmp_path, len(states))(name, looks)

    with serving(monkeypatch, tmp_path, states, pods=pods):
        follow(tmp_path)


def test_a_trainjob_that_vanishes_is_an_error(tmp_path, monkeypatch):
    with (
        serving(monkeypatch, tmp_path, AT_WORK, pods=lambda name, looks: None if looks > 2 else []),
        pytest.raises(PipelineError, match="TrainJob drift-0123abcd-main-89abcdef vanished"),
    ):
        follow(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtimes": ()}, "403: admission webhook .* specified trainingRuntime must be created before"),
        (
            {"forbidden": 'User "pipeline-runner" cannot create resource "trainjobs"'},
            '403: User "pipeline-runner" cannot',
        ),
    ],
)
def test_a_refusal_is_told_in_the_servers_own_words(tmp_path, monkeypatch, options, message):
    with serving(monkeypatch, tmp_path, AT_WORK, **options), pytest.raises(ServiceError, match=message):
        follow(tmp_path)


def test_a_server_that_is_away_for_a_while_ends_no_training(tmp_path, monkeypatch, caplog):
    states = recorded("complete")
    with serving(monkeypatch, tmp_path, states, pods=at_the_end(tmp_path, len(states))) as server:
        server.away = [503, 429, 500]
        follow(tmp_path)
    assert sum("asking again in" in line for line in caplog.messages) == 3


def signal_once(true: Callable[[], bool]) -> None:
    """SIGTERM to this process as soon as something is true, or after a minute."""
    end = time.monotonic() + 60
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    signal.raise_signal(signal.SIGTERM)


def test_sigterm_deletes_the_trainjob(tmp_path, monkeypatch):
    """The signal may come between a socket and its connection, which the process's end then closes."""

    def end(number, frame):
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, end)
    try:
        with serving(monkeypatch, tmp_path, AT_WORK) as server:
            threading.Thread(target=signal_once, args=[lambda: server.looks > 0]).start()
            with pytest.raises(SystemExit):
                follow(tmp_path)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(server.made) == 1 and server.job is None


def test_the_end_of_a_run_deletes_what_a_killed_pod_left(tmp_path, monkeypatch):
    monkeypatch.setenv("DRIFT_RUN_ID", "0123")
    with serving(monkeypatch, tmp_path, AT_WORK, there=body_of(tmp_path)) as server:
        kube.end_left_jobs()
        assert server.job is not None  # where a profile has no nodes nobody is asked
        monkeypatch.setenv(NODES, to_json(machines(tmp_path)))
        kube.end_left_jobs()
        assert server.job is None
        server.away = [403]
        kube.end_left_jobs()


# ------------------------------------------------------------------------------------------- begun by another pod


def test_a_trainjob_that_an_earlier_pod_created_is_adopted(tmp_path, monkeypatch):
    monkeypatch.setenv("KFP_POD_NAME", "the-second")
    monkeypatch.setenv("KFP_POD_UID", "2")
    states = recorded("complete")
    there = body_of(tmp_path)
    with serving(monkeypatch, tmp_path, states, pods=at_the_end(tmp_path, len(states)), there=there) as server:
        follow(tmp_path)
    assert server.made == []
    assert server.patched[0]["metadata"]["ownerReferences"][0]["name"] == "the-second"


@pytest.mark.parametrize("other", ["another specification", "failed"])
def test_a_trainjob_of_that_name_that_is_another_or_has_failed_makes_room(tmp_path, monkeypatch, other):
    there = body_of(tmp_path, gpus=4 if other == "another specification" else 1)
    states = [recorded("failing-own-runtime")[-1], *recorded("complete")[:-1]]
    done = [*states, recorded("complete")[-1]]
    if other != "failed":
        done = done[1:]
    with serving(monkeypatch, tmp_path, done, pods=at_the_end(tmp_path, 3), there=there) as server:
        monkeypatch.setattr(server, "created", lambda body: setattr(server, "states", recorded("complete")))
        follow(tmp_path)
    assert len(server.deleted) == 2 and len(server.made) == 1


# ------------------------------------------------------------------------------------------- a whole training


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("world"))


class Machines:
    """Runs a TrainJob's command as Trainer would: a node each, with its variables."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []

    def start(self, body):
        trainer, port = body["spec"]["trainer"], str(free_port())
        assert trainer["command"][:3] == ["python3", "-m", "drift.training.nodes.node"]
        variables = {one["name"]: one["value"] for one in trainer["env"]} | {
            "PET_NNODES": str(trainer["numNodes"]),
            "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": port,
            "DRIFT_TERMINATION_FILE": str(self.folder / "termination-log"),
        }
        for rank in range(trainer["numNodes"]):
            log = self.folder / f"node{len(self.processes)}.err"
            arguments = trainer["command"][3:]
            self.processes.append(begin(end_node, arguments, err=log, PET_NODE_RANK=str(rank), **variables))

    def at_work(self):
        return any(process.is_alive() for process in self.processes)


def on_nodes(monkeypatch, claim, **changes):
    monkeypatch.setenv(SHARED, str(claim))
    monkeypatch.setenv(NODES, to_json(machines(claim, **changes)))


@pytest.mark.slow
def test_a_training_in_a_pod_with_nodes_is_a_trainjobs_and_its_weights_are_one_processs(world, tmp_path, monkeypatch):
    claim, nodes = tmp_path / "claim", Machines(tmp_path)
    on_nodes(monkeypatch, claim)
    inputs = {"model": str(VLM), "training_set": world / "data", "delta": world / "delta"}
    config = TrainConfig(**{**QUICK, "processes": None})
    with serving(monkeypatch, tmp_path, [*AT_WORK, *DONE], at_work=nodes.at_work, created=nodes.start) as server:
        report = train(config, **inputs, out=tmp_path / "out", name="main")
    assert (report.steps, len(report.cosines)) == (4, 4)
    assert server.made[0]["metadata"]["name"].startswith("drift-local-main-")
    assert invalid(server.made[0]["spec"]) == "" and server.job is None
    assert len(list((claim / "inputs").iterdir())) == 3  # model, training set and Δ, for the other arms too
    assert not list((claim / "trainings").glob("*/"))
    assert read_json(tmp_path / "out" / "provenance.json")["processes"] == 2
    monkeypatch.delenv(SHARED)
    monkeypatch.delenv(NODES)
    train(TrainConfig(**{**QUICK, **IN_ONE_PIECE}), **inputs, out=tmp_path / "alone")
    weights, alone = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "alone"))
    assert apart(weights, alone) <= 1e-5


def test_a_pod_that_finds_the_result_of_one_that_was_lost_starts_no_trainjob(world, tmp_path, monkeypatch):
    claim = tmp_path / "claim"
    on_nodes(monkeypatch, claim)
    config = TrainConfig(**{**QUICK, "processes": None, "save_steps": 2})
    inputs = {"model": str(VLM), "training_set": world / "data", "delta": world / "delta"}
    broken = {"runtimes": ()}  # the first pod finds no runtime, and leaves its folder: there might be a checkpoint
    with serving(monkeypatch, tmp_path, DONE, **broken), pytest.raises(ServiceError):
        train(config, **inputs, out=tmp_path / "out")
    (place,) = (claim / "trainings").glob("*/")
    assert json.loads((place / "job.json").read_text())["config"]["save_steps"] == 2
    write_json(place / "result.json", fit(read_job(place / "job.json")))  # by nodes that outlived it
    with serving(monkeypatch, tmp_path, DONE) as server:
        train(config, **inputs, out=tmp_path / "out")
    assert server.made == [] and (tmp_path / "out" / "model.safetensors").exists()


def test_one_nodes_training_goes_on_from_the_claim_in_a_new_pod(world, tmp_path, monkeypatch):
    claim = tmp_path / "claim"
    inputs = {"model": str(VLM), "training_set": world / "data", "delta": world / "delta"}
    config = TrainConfig(**{**QUICK, "processes": 1, "save_steps": 4})
    train(config, **inputs, out=tmp_path / "whole")
    lost = begin(train_here, config, inputs, tmp_path / "first" / "out", **{SHARED: str(claim)})
    complete = "trainings/*/model/checkpoints/checkpoint-4/complete"
    while lost.is_alive() and not list(claim.glob(complete)):
        time.sleep(0.01)
    lost.kill()
    lost.join()
    assert list(claim.glob(complete))
    monkeypatch.setenv(SHARED, str(claim))
    train(config, **inputs, out=tmp_path / "second" / "out")
    there = (tmp_path / "second" / "out" / "model.safetensors").read_bytes()
    assert there == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert not list((claim / "trainings").glob("*/"))


def train_here(config, inputs, out):
    train(config, **inputs, out=out)
