"""A real HTTP server on loopback with the routes of Kubernetes' API that our commands use: what a namespace has, pods.

A pod is really run: its container's command as a process of this machine, or however ``start`` runs it, with the
variables that the pod takes from config maps and secrets. Its log is what the command printed.

Answers are shaped as Kubernetes' own: Event and SelfSubjectAccessReview as its API reference has them, refusals as a
Status in the words of kubernetes/kubernetes: apiserver/pkg/endpoints/handlers/responsewriters/errors.go of a missing
right, pod-security-admission/admission/admission.go of Pod Security.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import yaml

from tests.loopback import Answering, Loopback
from tests.pod_security import refusals

Body = dict[str, Any]
ROOT = "/api/v1/namespaces/kubeflow"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
NODES = "/api/v1/nodes"
TRAIN_JOBS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/trainjobs.trainer.kubeflow.org"
RUNTIMES = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/kubeflow/trainingruntimes"
BOUND = {"spec": {"accessModes": ["ReadWriteMany"]}, "status": {"phase": "Bound"}}
MLFLOW = "MLFLOW_TRACKING_URI"


def as_process(image: str, command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a pod's command here, whatever its image."""
    here = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ended = subprocess.run(command, env=here | environment, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stderr + ended.stdout


class Namespace(Loopback):
    """Use as a context manager. ``claims`` and ``secrets`` by name; ``config`` is the config map `drift-mlflow`'s.

    ``waiting``: why no pod's container ever starts. ``refusal``: the status and the words that answer who makes a pod.
    ``events`` of every pod: reason and message of a warning, or of what is normal. ``restricted``: Pod Security is
    enforced. ``nodes``: how many there are; none may be seen if 0. ``denied``: what a service account may not, such as
    `create trainjobs`; `impersonate` takes the right to ask in its name.
    """

    def __init__(
        self,
        *,
        claims: Mapping[str, Body] | None = None,
        secrets: Mapping[str, Mapping[str, str]] | None = None,
        config: Mapping[str, str] | None = None,
        more: Mapping[str, Body] | None = None,
        start: Callable[[str, list[str], dict[str, str]], tuple[int, str]] = as_process,
        waiting: str = "",
        refusal: tuple[int, str] | None = None,
        events: Sequence[tuple[str, str, str]] = (),
        restricted: bool = False,
        nodes: int = 2,
        denied: Sequence[str] = (),
    ) -> None:
        self.secrets = {name: dict(values) for name, values in (secrets or {}).items()}
        self.config, self.start, self.waiting, self.refusal = config, start, waiting, refusal
        self.events, self.restricted, self.denied = events, restricted, denied
        self.there: dict[str, Body] = {
            f"{ROOT}/persistentvolumeclaims/{name}": claim for name, claim in (claims or {}).items()
        }
        self.there |= {f"{ROOT}/secrets/{name}": {"data": _encoded(values)} for name, values in self.secrets.items()}
        self.there |= {CLASSES: {"items": []}, f"{ROOT}/events": {"items": []}, **(more or {})}
        if nodes:
            self.there[NODES] = {"items": [{"metadata": {"name": f"node-{place}"}} for place in range(nodes)]}
        if config is not None:
            self.there[f"{ROOT}/configmaps/drift-mlflow"] = {"data": dict(config)}
        self.made: list[Body] = []
        self.logs: dict[str, str] = {}
        self.deleted: list[str] = []
        self.asked_for: set[str] = set()
        super().__init__(_handler(self))

    def kubeconfig(self, folder: Path) -> Path:
        """A kubeconfig that leads here."""
        path = folder / "kubeconfig.yaml"
        config = {
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": self.host}}],
            "users": [{"name": "test", "user": {}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def make_pod(self, pod: Body) -> tuple[int, Body]:
        """Start the pod, which runs to its end unless none starts; or say why it may not be made."""
        name, (container,) = pod["metadata"]["name"], pod["spec"]["containers"]
        if refusal := self.refusal or self._security(name, pod["spec"]):
            return refusal[0], status_of(*refusal)
        self.made.append(pod)
        self.there[f"{ROOT}/events"] = {"items": [_event(name, *event) for event in self.events]}
        waiting = {"reason": self.waiting or "ContainerCreating", "message": "back-off"}
        self._set(name, {"waiting": waiting})
        if not self.waiting:
            threading.Thread(target=self._run, args=(name, container), daemon=True).start()
        return 201, pod

    def _security(self, name: str, spec: Body) -> tuple[int, str] | None:
        if self.restricted and (broken := refusals(spec)):
            return 403, f'pods "{name}" is forbidden: violates PodSecurity "restricted:latest": {", ".join(broken)}'
        return None

    def review(self, account: str, review: Body) -> tuple[int, Body]:
        """Whether the account, in whose name is asked, may do what the review asks."""
        self.asked_for.add(account)
        if "impersonate" in self.denied:
            name = account.rpartition(":")[2]
            said = (
                f'serviceaccounts "{name}" is forbidden: User "me" cannot impersonate resource "serviceaccounts" in '
                'API group "" in the namespace "kubeflow"'
            )
            return 403, status_of(403, said)
        wanted = review["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (wanted["resource"], wanted.get("subresource"))))
        return 201, {**review, "status": {"allowed": f"{wanted['verb']} {resource}" not in self.denied}}

    def _run(self, name: str, container: Body) -> None:
        code, self.logs[name] = self.start(container["image"], container["command"], self._environment(container))
        self._set(name, {"terminated": {"exitCode": code}})

    def _set(self, pod: str, state: Body) -> None:
        status = {"name": "main", "state": state, "image": "", "imageID": "", "ready": False, "restartCount": 0}
        self.there[f"{ROOT}/pods/{pod}/status"] = {"status": {"phase": "Pending", "containerStatuses": [status]}}

    def _environment(self, container: Body) -> dict[str, str]:
        return {one["name"]: value for one in container["env"] if (value := self._value(one)) is not None}

    def _value(self, variable: Body) -> str | None:
        if "value" in variable:
            return str(variable["value"])
        ((kind, source),) = variable["valueFrom"].items()
        values = self.secrets[source["name"]] if kind == "secretKeyRef" else self.config or {}
        return values.get(source["key"])


def status_of(code: int, message: str) -> Body:
    """A refusal, as Kubernetes answers it."""
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}


def _event(pod: str, kind: str, reason: str, message: str) -> Body:
    about = {"kind": "Pod", "namespace": "kubeflow", "name": pod}
    return {"metadata": {"name": f"{pod}.1"}, "involvedObject": about, "type": kind, "reason": reason,
            "message": message, "count": 1}  # fmt: skip


def _encoded(values: Mapping[str, str]) -> dict[str, str]:
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}


@contextlib.contextmanager
def namespace(folder: Path, **contents: Any) -> Iterator[Path]:
    """Serve a namespace `kubeflow` with these contents; the kubeconfig that leads to it."""
    with Namespace(**contents) as server:
        yield server.kubeconfig(folder)


def _handler(server: Namespace) -> type[BaseHTTPRequestHandler]:
    class Handler(Answering, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.endswith("/log"):
                self.send(200, server.logs[path.split("/")[-2]].encode(), "text/plain")
            else:
                missing = 403 if path == NODES else 404
                self.answer(200 if path in server.there else missing, server.there.get(path, {"kind": "Status"}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.partition("?")[0] == REVIEWS:
                self.answer(*server.review(self.headers["Impersonate-User"], body))
            else:
                self.answer(*server.make_pod(body))

        def do_DELETE(self) -> None:
            server.deleted.append(self.path.split("/")[-1])
            self.answer(200, {"kind": "Status"})

    return Handler
