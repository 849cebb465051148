"""A real HTTP server on loopback that answers for Kubeflow Trainer 2.3.0, as it did on a real control plane.

The states of a TrainJob are recordings (`tests/recorded/trainer`, polled from a cluster), one further at each look.
What is sent is held against the schema of the TrainJob's own definition, reduced from its source, and against what its
webhook refuses (pkg/runtime/framework/plugins/torch/torch.go, pkg/runtime/core/trainingruntime.go at v2.3.0). Pods were
seen and not recorded: their labels and states are Kubernetes' own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema

from tests.loopback import Answering, Loopback

Body = dict[str, Any]
RECORDED = Path(__file__).parent / "recorded" / "trainer"
JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/kubeflow/trainjobs"
CORE = "/api/v1/namespaces/kubeflow"
SCHEMA = json.loads((RECORDED / "trainjob-crd.json").read_text())["spec"]
RESERVED = {"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"}
COMPLETE = {
    "type": "Complete",
    "status": "True",
    "reason": "AllJobsCompleted",
    "message": "jobset completed successfully",
}


def recorded(name: str) -> list[Body]:
    """The states of a TrainJob, in order: `suspend` of its specification, and its status."""
    states: list[Body] = json.loads((RECORDED / f"{name}.json").read_text())
    return states


def pod(
    name: str,
    node: int,
    *,
    attempt: int = 0,
    phase: str = "Running",
    ended: Body | None = None,
    before: Body | None = None,
    waiting: Body | None = None,
    restart: str = "Never",
    unschedulable: str = "",
) -> Body:
    """A node's pod. ``ended``, ``before``: how its container did; ``waiting``: why it does not start."""
    state = {"terminated": ended} if ended else {"waiting": waiting} if waiting else {"running": {}}
    container = {"name": "node", "image": "i", "imageID": "i", "ready": not (ended or waiting), "restartCount": 0}
    unmet = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": unschedulable}
    return {
        "metadata": {
            "name": f"{name}-node-0-{node}-abcde",
            "labels": {
                "jobset.sigs.k8s.io/jobset-name": name,
                "batch.kubernetes.io/job-completion-index": str(node),
                "jobset.sigs.k8s.io/restart-attempt": str(attempt),
            },
        },
        "spec": {"restartPolicy": restart, "containers": [{"name": "node"}]},
        "status": {
            "phase": phase,
            "conditions": [unmet] if unschedulable else [],
            "containerStatuses": []
            if unschedulable
            else [{**container, "state": state, **({"lastState": {"terminated": before}} if before else {})}],
        },
    }


def terminated(code: int, message: str = "", at: str = "2026-11-26T12:13:10Z", reason: str = "Error") -> Body:
    """How a container ended."""
    return {"exitCode": code, "reason": reason, "finishedAt": at, **({"message": message} if message else {})}


class Trainer(Loopback):
    """Use as a context manager. ``states``: of the TrainJob, one further at each look; the last one stays.

    ``pods(looks)``: what there is after so many looks; None: the TrainJob is gone. ``logs`` by pod, with times.
    ``away``: statuses that answer the next requests. ``created``: called with a new TrainJob,
    which stays in its first state as long as it is ``at_work``.
    """

    def __init__(
        self,
        states: Sequence[Body] = (),
        *,
        pods: Callable[[str, int], list[Body] | None] = lambda name, looks: [],
        logs: Mapping[int, str] | None = None,
        events: Sequence[Body] = (),
        runtimes: Sequence[str] = ("drift-torch",),
        forbidden: str = "",
        created: Callable[[Body], None] = lambda body: None,
        at_work: Callable[[], bool] = lambda: False,
        there: Body | None = None,
    ) -> None:
        self.states, self.pods, self.logs = list(states), pods, dict(logs or {})
        self.events, self.runtimes, self.forbidden, self.created = list(events), runtimes, forbidden, created
        self.at_work = at_work
        self.job: Body | None = there
        self.looks = 0
        self.away: list[int] = []
        self.made: list[Body] = []
        self.patched: list[Body] = []
        self.deleted: list[str] = []
        super().__init__(_handler(self))

    def kubeconfig(self, folder: Path) -> Path:
        """A kubeconfig that leads here; JSON is YAML."""
        path = folder / "kubeconfig.json"
        context = {"cluster": "test", "user": "test", "namespace": "kubeflow"}
        config = {
            "current-context": "test",
            "contexts": [{"name": "test", "context": context}],
            "clusters": [{"name": "test", "cluster": {"server": self.host}}],
            "users": [{"name": "test", "user": {}}],
        }
        path.write_text(json.dumps(config))
        return path

    def make(self, body: Body) -> tuple[int, Body]:
        """Create a TrainJob, as the API server, its schema and Trainer's webhook do."""
        name = body["metadata"]["name"]
        if self.forbidden:
            return _status(403, self.forbidden)
        if self.job is not None:
            return _status(409, f'trainjobs.trainer.kubeflow.org "{name}" already exists')
        if wrong := invalid(body["spec"]):
            return _status(422, f'TrainJob.trainer.kubeflow.org "{name}" is invalid: {wrong}')
        if wrong := self._refused(body["spec"]):
            return _status(
                403, f'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: {wrong}'
            )
        self.job, self.looks = body, 0
        self.made.append(body)
        self.created(body)
        return 201, body

    def look(self) -> Body | None:
        """The TrainJob, in its next state."""
        if self.job is None or self.pods(self.job["metadata"]["name"], self.looks + 1) is None:
            return None
        state = self.states[min(self.looks, len(self.states) - 1)]
        self.looks += not self.at_work()
        spec = {**self.job["spec"], "suspend": state["suspend"]}
        return {**self.job, "spec": spec, "status": state["status"]}

    def _refused(self, spec: Body) -> str:
        if spec["runtimeRef"]["name"] not in self.runtimes:
            return "specified trainingRuntime must be created before the TrainJob is created"
        names = {one["name"] for one in spec["trainer"].get("env", [])}
        return f"must not have reserved envs, invalid envs configured: {names & RESERVED}" if names & RESERVED else ""


def invalid(spec: Body) -> str:
    """What the definition of a TrainJob refuses about a specification; '' if nothing."""
    errors = sorted(
        jsonschema.Draft202012Validator(_strict(SCHEMA)).iter_errors(spec), key=lambda error: error.json_path
    )
    return "; ".join(f"{error.json_path}: {error.message}" for error in errors) or next(_twice(SCHEMA, spec), "")


def _strict(schema: Any) -> Any:
    """The schema, with no field that it does not name: the server would drop it, in silence."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if "properties" in schema and schema.get("type") == "object" else {}
    return {**closed, **{key: _strict(value) for key, value in schema.items()}}


def _twice(schema: Body, value: Any, path: str = "$") -> Iterator[str]:
    """Entries of a list that is a map by the same key."""
    if isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys", [])
        names = [tuple(one.get(key) for key in keys) for one in value if keys]
        yield from (f"{path}: {name} twice" for name in {name for name in names if names.count(name) > 1})
        for place, one in enumerate(value):
            yield from _twice(schema.get("items", {}), one, f"{path}[{place}]")
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _twice(schema.get("properties", {}).get(key, {}), one, f"{path}.{key}")


def _status(code: int, message: str) -> tuple[int, Body]:
    return code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}


def _handler(server: Trainer) -> type[BaseHTTPRequestHandler]:
    class Handler(Answering, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if server.away:
                self.answer(*_status(server.away.pop(0), "the server is currently unable to handle the request"))
            elif path == JOBS:
                self.answer(200, {"items": [server.job] if server.job else []})
            elif path.startswith(JOBS):
                job = server.look()
                self.answer(*((200, job) if job else _status(404, "not found")))
            elif path == f"{CORE}/events":
                self.answer(200, {"items": server.events})
            elif path.endswith("/log"):
                self._log(path.split("/")[-2], "timestamps=True" in query)
            else:
                name = unquote(query).rpartition("jobset-name=")[2].partition("&")[0]
                there = server.pods(name, server.looks) if server.job else []
                self.answer(200, {"items": there or []})

        def do_POST(self) -> None:
            self.answer(*server.make(self._body()))

        def do_PATCH(self) -> None:
            server.patched.append(self._body())
            self.answer(200, server.job)

        def do_DELETE(self) -> None:
            server.deleted.append(self.path.partition("?")[0].rpartition("/")[2])
            gone, server.job = server.job, None
            self.answer(*((200, {"kind": "Status"}) if gone else _status(404, "not found")))

        def _body(self) -> Body:
            content: Body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            return content

        def _log(self, name: str, stamped: bool) -> None:
            lines = server.logs.get(int(name.split("-")[-2]), "").splitlines()
            text = "\n".join(line if stamped else line.partition(" ")[2] for line in lines)
            self.send(200, text.encode(), "text/plain")

    return Handler
