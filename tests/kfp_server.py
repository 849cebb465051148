"""A real HTTP server on loopback that speaks the routes of Kubeflow Pipelines' v2beta1 API which our commands use.

What a client creates is kept and given back, in the API's JSON. A run's steps go through their states poll by poll.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.loopback import Loopback

Body = dict[str, Any]
API = "/apis/v2beta1"
TIME = "2026-11-25T03:00:00Z"


class KubeflowServer(Loopback):
    """Use as a context manager; ``url`` is the host. ``status`` other than 200 answers every request with that error.

    ``states`` are a run's states at each poll; ``tasks`` its steps, in a loop with their arm (`arm/sft`), and their
    states at each poll. ``token``: what the server asks for. ``version``: of its release.
    """

    def __init__(
        self,
        *,
        states: tuple[str, ...] = ("RUNNING", "SUCCEEDED"),
        tasks: dict[str, tuple[str, ...]] | None = None,
        status: int = 200,
        token: str | None = None,
        version: str = "2.17.0",
    ) -> None:
        self.states, self.tasks, self.status, self.token = states, tasks or {}, status, token
        self.version = version
        self.runs: dict[str, Body] = {}
        self.recurring: dict[str, Body] = {}
        self.experiments: dict[str, Body] = {}
        self.polls = 0
        self.calls: list[tuple[str, str]] = []
        super().__init__(_handler(self))
        self.url = self.host

    def answer(self, method: str, path: str, body: Body, authorization: str | None) -> tuple[int, Body]:
        self.calls.append((method, path))
        if self.status != 200:
            return self.status, {"error": "injected"}
        if self.token is not None and authorization != f"Bearer {self.token}":
            return 401, {"error": "token expired"}
        for (verb, pattern), route in ROUTES.items():
            match = re.fullmatch(API + pattern, path)
            if verb == method and match:
                return route(self, body, *match.groups())
        return 404, {"error": f"no route {method} {path}"}


def _health(server: KubeflowServer, body: Body) -> tuple[int, Body]:
    return 200, {"multi_user": False, "tag_name": server.version}


def _list_experiments(server: KubeflowServer, body: Body) -> tuple[int, Body]:
    return 200, {"experiments": list(server.experiments.values())}


def _create_experiment(server: KubeflowServer, body: Body) -> tuple[int, Body]:
    made = body | {"experiment_id": f"e{len(server.experiments) + 1}"}
    server.experiments[made["experiment_id"]] = made
    return 200, made


def _create_run(server: KubeflowServer, body: Body) -> tuple[int, Body]:
    made = body | {"run_id": f"r{len(server.runs) + 1}", "state": "PENDING"}
    server.runs[made["run_id"]] = made
    return 200, made


def _get_run(server: KubeflowServer, body: Body, run_id: str) -> tuple[int, Body]:
    place = server.polls
    server.polls += 1
    details = [_node("root-driver", "root-driver", "SUCCEEDED", "root")]
    for name, states in server.tasks.items():
        step, state = name.partition("/")[0], _at(states, place)
        details += [_node(f"{name}-driver", f"{step}-driver", "SUCCEEDED", name)]
        details += [_node(name, step, state, f"{name}-executor"), _node(f"{name}-executor", "executor", state)]
    run = server.runs[run_id] | {"state": _at(server.states, place), "run_details": {"task_details": details}}
    return 200, run


def _node(id: str, name: str, state: str, *children: str) -> Body:
    """A node of Argo's graph as the server tells of it; a step is three of them."""
    after = [{"pod_name": child} for child in children]
    return {
        "task_id": id, "display_name": name, "state": state, "start_time": TIME, "end_time": TIME, "child_tasks": after
    }  # fmt: skip


def _at(states: tuple[str, ...], place: int) -> str:
    return states[min(place, len(states) - 1)]


def _list_recurring(server: KubeflowServer, body: Body) -> tuple[int, Body]:
    return 200, {"recurringRuns": list(server.recurring.values())}


def _create_recurring(server: KubeflowServer, body: Body) -> tuple[int, Body]:
    made = body | {"recurring_run_id": f"s{len(server.recurring) + 1}", "status": "ENABLED"}
    server.recurring[made["recurring_run_id"]] = made
    return 200, made


def _set_status(status: str) -> Callable[[KubeflowServer, Body, str], tuple[int, Body]]:
    def change(server: KubeflowServer, body: Body, schedule: str) -> tuple[int, Body]:
        if schedule not in server.recurring:
            return 404, {"error": "no such recurring run"}
        server.recurring[schedule]["status"] = status
        return 200, {}

    return change


def _delete_recurring(server: KubeflowServer, body: Body, schedule: str) -> tuple[int, Body]:
    return (200, {}) if server.recurring.pop(schedule, None) else (404, {"error": "no such recurring run"})


ROUTES: dict[tuple[str, str], Callable[..., tuple[int, Body]]] = {
    ("GET", "/healthz"): _health,
    ("GET", "/experiments"): _list_experiments,
    ("POST", "/experiments"): _create_experiment,
    ("POST", "/runs"): _create_run,
    ("GET", "/runs/([^/]+)"): _get_run,
    ("GET", "/recurringruns"): _list_recurring,
    ("POST", "/recurringruns"): _create_recurring,
    ("POST", "/recurringruns/([^/:]+):disable"): _set_status("DISABLED"),
    ("POST", "/recurringruns/([^/:]+):enable"): _set_status("ENABLED"),
    ("DELETE", "/recurringruns/([^/]+)"): _delete_recurring,
}


def _handler(server: KubeflowServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _respond(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}") if length else {}
            path = self.path.partition("?")[0]
            status, content = server.answer(self.command, path, body, self.headers.get("Authorization"))
            payload = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = do_DELETE = _respond  # noqa: N815

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return Handler
