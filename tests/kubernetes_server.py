"""A real HTTP server on loopback with the routes of Kubernetes' API that our commands use: what a namespace has, pods.

A pod is really run: its container's command as a process of this machine, or however ``start`` runs it, with the
variables that the pod takes from config maps and secrets. Its log is what the command printed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import yaml

from tests.loopback import Loopback

Body = dict[str, Any]
ROOT = "/api/v1/namespaces/kubeflow"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
BOUND = {"spec": {"accessModes": ["ReadWriteMany"]}, "status": {"phase": "Bound"}}
MLFLOW = "MLFLOW_TRACKING_URI"


def as_process(image: str, command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a pod's command here, whatever its image."""
    here = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ended = subprocess.run(command, env=here | environment, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stderr + ended.stdout


class Namespace(Loopback):
    """Use as a context manager. ``claims`` and ``secrets`` by name; ``config`` is the config map `drift-mlflow`'s.

    ``waiting``: why no pod's container ever starts. ``refusal``: the status that answers who makes a pod.
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
        refusal: int = 0,
    ) -> None:
        self.secrets = {name: dict(values) for name, values in (secrets or {}).items()}
        self.config, self.start, self.waiting, self.refusal = config, start, waiting, refusal
        self.there: dict[str, Body] = {
            f"{ROOT}/persistentvolumeclaims/{name}": claim for name, claim in (claims or {}).items()
        }
        self.there |= {f"{ROOT}/secrets/{name}": {"data": _encoded(values)} for name, values in self.secrets.items()}
        self.there |= {CLASSES: {"items": []}, **(more or {})}
        if config is not None:
            self.there[f"{ROOT}/configmaps/drift-mlflow"] = {"data": dict(config)}
        self.made: list[Body] = []
        self.logs: dict[str, str] = {}
        self.deleted: list[str] = []
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

    def make_pod(self, pod: Body) -> Body:
        """Start the pod, which runs to its end unless none starts."""
        self.made.append(pod)
        name, (container,) = pod["metadata"]["name"], pod["spec"]["containers"]
        waiting = {"reason": self.waiting or "ContainerCreating", "message": "back-off"}
        self._set(name, {"waiting": waiting})
        if not self.waiting:
            threading.Thread(target=self._run, args=(name, container), daemon=True).start()
        return pod

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


def _encoded(values: Mapping[str, str]) -> dict[str, str]:
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}


@contextlib.contextmanager
def namespace(folder: Path, **contents: Any) -> Iterator[Path]:
    """Serve a namespace `kubeflow` with these contents; the kubeconfig that leads to it."""
    with Namespace(**contents) as server:
        yield server.kubeconfig(folder)


def _handler(server: Namespace) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.endswith("/log"):
                self._send(200, server.logs[path.split("/")[-2]].encode(), "text/plain")
            else:
                self._answer(200 if path in server.there else 404, server.there.get(path, {"kind": "Status"}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(*((server.refusal, {"kind": "Status"}) if server.refusal else (201, server.make_pod(body))))

        def do_DELETE(self) -> None:
            server.deleted.append(self.path.split("/")[-1])
            self._answer(200, {"kind": "Status"})

        def _answer(self, status: int, content: Body) -> None:
            self._send(status, json.dumps(content).encode(), "application/json")

        def _send(self, status: int, payload: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return Handler
