"""A real HTTP server on loopback that speaks the routes of Kubeflow Pipelines' API which our commands use.

What a client creates is checked as the real server checks it, kept, and given back in the API's JSON. A recorded run is
replayed poll by poll; another one's steps go through the states that a test gives. Refusals are the recorded ones.
"""

from __future__ import annotations

import email
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from drift.ground.errors import PipelineError
from pipelines.check import check_spec
from tests.kfp_nodes import TIME, nodes_of
from tests.kfp_recordings import polls, refusal
from tests.loopback import Loopback

Body = dict[str, Any]
Answer = tuple[int, Any]
API = "/apis/v2beta1"
ENDED = ("SUCCEEDED", "FAILED", "CANCELED")


class KubeflowServer(Loopback):
    """Use as a context manager; ``url`` is the host. ``status`` other than 200 answers every request with that error.

    ``states`` are a run's states at each poll; ``tasks`` its steps, in a loop with their arm (`arm/sft`), and their
    states at each poll. ``recording``: replay this one, also as the run that it is of. ``token``: what the server asks
    for. ``version``: of its release. ``interruptions``: what the next polls of a run get instead; 0 is a connection
    that breaks. ``on_poll`` hears of each answered poll, with the recorded time.
    """

    def __init__(
        self,
        *,
        states: tuple[str, ...] = ("RUNNING", "SUCCEEDED"),
        tasks: dict[str, tuple[str, ...]] | None = None,
        recording: str | None = None,
        status: int = 200,
        token: str | None = None,
        version: str = "2.17.0",
        interruptions: Iterable[int] = (),
        on_poll: Callable[[str], None] = lambda at: None,
    ) -> None:
        self.states, self.tasks, self.status, self.token = states, tasks or {}, status, token
        self.version, self.interruptions, self.on_poll = version, list(interruptions), on_poll
        self.replay = polls(recording) if recording else []
        self.runs: dict[str, Body] = {}
        self.recurring: dict[str, Body] = {}
        self.experiments: dict[str, Body] = {}
        self.pipelines: dict[str, Body] = {}
        self.versions: dict[str, Body] = {}
        self.logs: dict[str, str] = {}
        self.made: Counter[str] = Counter()
        self.polls = 0
        self.calls: list[tuple[str, str]] = []
        if self.replay:
            first = self.replay[0]
            self.runs[first["run_id"]] = {key: first[key] for key in ("run_id", "display_name", "experiment_id")}
        super().__init__(_handler(self))
        self.url = self.host

    def answer(self, method: str, address: str, body: Body, authorization: str | None) -> Answer:
        parts = urlsplit(address)
        self.calls.append((method, parts.path))
        if self.status != 200:
            return self.status, {"error": "injected"}
        if self.token is not None and authorization != f"Bearer {self.token}":
            return 401, {"error": "token expired"}
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        for (verb, pattern), route in ROUTES.items():
            match = re.fullmatch(pattern if pattern.startswith("/apis") else API + pattern, parts.path)
            if verb == method and match:
                return route(self, body | {"query": query}, *match.groups())
        return refusal("no such route")

    def change(self, run_id: str, state: str) -> None:
        """Give a run a state, and its history an entry, as the server does at every change."""
        run = self.runs[run_id]
        if run.get("state") != state:
            run["state"] = state
            run.setdefault("state_history", []).append({"update_time": TIME, "state": state})


def _health(server: KubeflowServer, body: Body) -> Answer:
    return 200, {"multi_user": False, "tag_name": server.version, "pipeline_store": "database"}


def _page(key: str, entries: Iterable[Body], body: Body) -> Answer:
    """A page of what the filter and the query leave, with the token of the next."""
    query = dict(body["query"])
    given = query.pop("filter", "{}")
    try:
        predicates = json.loads(given).get("predicates", [])
    except ValueError:
        return refusal("experiments: filter that is no JSON", xx=given)
    for one in predicates:
        assert one["operation"] in (1, "EQUALS")
        query[one["key"]] = one.get("string_value", one.get("stringValue"))
    size, start = int(query.pop("page_size", 0) or 10), int(query.pop("page_token", "") or 0)
    wanted = {name: value for name, value in query.items() if name not in ("sort_by", "namespace")}
    fitting = [one for one in entries if all(str(one.get(name)) == value for name, value in wanted.items())]
    more = {"next_page_token": str(start + size)} if start + size < len(fitting) else {}
    shown = {key: fitting[start : start + size]} if fitting else {}
    return 200, {**shown, **({"total_size": len(fitting)} if fitting else {}), **more}


def _list_experiments(server: KubeflowServer, body: Body) -> Answer:
    return _page("experiments", server.experiments.values(), body)


def _create_experiment(server: KubeflowServer, body: Body) -> Answer:
    name = body.get("display_name", "")
    if not name:
        return refusal("experiment: no name")
    if len(name) > 128:
        return refusal("experiment: name of 129 letters")
    if any(one["display_name"] == name for one in server.experiments.values()):
        return refusal("experiment: the same name twice", Default=name)
    return _kept(server, server.experiments, body, "experiment_id", "e")


def _kept(server: KubeflowServer, where: dict[str, Body], body: Body, id: str, letter: str, **more: Any) -> Answer:
    made = {name: value for name, value in body.items() if name != "query"}
    server.made[letter] += 1
    made |= {id: f"{letter}{server.made[letter]}", "created_at": TIME, **more}
    where[made[id]] = made
    return 200, made


def _specified(server: KubeflowServer, body: Body) -> Answer | None:
    """A refusal, if what is to run is no pipeline: checked strictly, as the server's protobufs do."""
    version = body.get("pipeline_version_reference") or {}
    if version:
        known = version.get("pipeline_version_id") in server.versions
        return None if known else (404, {"code": 5, "message": "PipelineVersion not found", "details": []})
    spec = body.get("pipeline_spec")
    if not spec:
        return refusal("run: no specification")
    try:
        check_spec(spec.get("pipeline_spec", spec), spec.get("platform_spec"))
    except PipelineError:
        return refusal("run: specification with an unknown field")
    return None


def _create_run(server: KubeflowServer, body: Body) -> Answer:
    if refused := _specified(server, body):
        return refused
    status, made = _kept(server, server.runs, body, "run_id", "r")
    server.change(made["run_id"], "PENDING")
    return status, made


def _list_runs(server: KubeflowServer, body: Body) -> Answer:
    return _page("runs", reversed(server.runs.values()), body)


def _get_run(server: KubeflowServer, body: Body, run_id: str) -> Answer:
    if run_id not in server.runs:
        return refusal("run: unknown", **{"0" * 8 + "-0000" * 3 + "-" + "0" * 12: run_id})
    if server.interruptions and server.polls:
        return server.interruptions.pop(0), {"error": "upstream connect error"}
    place = server.polls
    server.polls += 1
    if server.replay:
        said = _replayed(server.replay, place)
        server.on_poll(said["at"])
        return 200, server.runs[run_id] | said | {"run_id": run_id}
    if server.runs[run_id].get("state") not in ("CANCELING", *ENDED):
        server.change(run_id, _at(server.states, place))
    elif server.runs[run_id]["state"] == "CANCELING":
        server.change(run_id, "FAILED")
    states = {name: _at(states, place) for name, states in server.tasks.items()}
    arms = list(dict.fromkeys(name.partition("/")[2] for name in server.tasks if "/" in name))
    return 200, server.runs[run_id] | {
        "run_details": {"task_details": nodes_of(states, arms, server.runs[run_id]["state"])}
    }


def _replayed(recorded: list[Body], place: int) -> Body:
    """The poll at this place; after the last one of a recording that stopped before its run's end, that."""
    last = recorded[-1]
    if place >= len(recorded) and last["state"] not in ENDED:
        history = [*last["state_history"], {"update_time": f"2026-11-26T{last['at']}Z", "state": "SUCCEEDED"}]
        nodes = [node | ({"state": "SUCCEEDED"} if node.get("state") in ("RUNNING", "PENDING") else {}) for node in
                 last["run_details"]["task_details"]]  # fmt: skip
        details = {"task_details": nodes}
        return last | {"state": "SUCCEEDED", "state_history": history, "run_details": details}
    return recorded[min(place, len(recorded) - 1)]


def _at(states: tuple[str, ...], place: int) -> str:
    return states[min(place, len(states) - 1)]


def _terminate(server: KubeflowServer, body: Body, run_id: str) -> Answer:
    if server.runs.get(run_id, {}).get("state") in (None, *ENDED):
        return refusal("run: terminate one that has ended", **{"2fce734e-de5d-4e7c-b59e-e5402e611210": run_id})
    server.change(run_id, "CANCELING")
    return 200, {}


def _retry(server: KubeflowServer, body: Body, run_id: str) -> Answer:
    if run_id not in server.runs:
        return refusal("run: retry unknown")
    if server.runs[run_id].get("state") != "FAILED":
        return refusal("run: retry one that succeeded", **{"fb7221ca-7b8e-4db8-81c0-e6240c667045": run_id})
    server.change(run_id, "RUNNING")
    return 200, {}


def _log(server: KubeflowServer, body: Body, run_id: str, node: str) -> Answer:
    """Text, or an error with status 200 all the same (apiserver/server/run_log_server.go:54 and 73)."""
    if node in server.logs:
        return 200, server.logs[node]
    why = f'Failed to read logs for run {run_id}: pods "{node}" not found'
    return 200, {"error_message": why, "error_details": why}


def _list_recurring(server: KubeflowServer, body: Body) -> Answer:
    return _page("recurringRuns", server.recurring.values(), body)


def _create_recurring(server: KubeflowServer, body: Body) -> Answer:
    cron = body["trigger"]["cron_schedule"]["cron"]
    if not 5 <= len(cron.split()) <= 6:
        return refusal("recurring run: bad cron", bad=cron)
    if not 1 <= int(body["max_concurrency"]) <= 10:
        return refusal("recurring run: max_concurrency 0")
    if refused := _specified(server, body):
        return refused
    return _kept(server, server.recurring, body, "recurring_run_id", "s", status=f"{body['mode']}D")


def _set_status(status: str) -> Callable[[KubeflowServer, Body, str], Answer]:
    def change(server: KubeflowServer, body: Body, schedule: str) -> Answer:
        if schedule not in server.recurring:
            return refusal("recurring run: delete unknown")
        server.recurring[schedule]["status"] = status
        return 200, {}

    return change


def _delete_recurring(server: KubeflowServer, body: Body, schedule: str) -> Answer:
    return (200, {}) if server.recurring.pop(schedule, None) else refusal("recurring run: delete unknown")


def _list_pipelines(server: KubeflowServer, body: Body) -> Answer:
    return _page("pipelines", server.pipelines.values(), body)


def _create_pipeline(server: KubeflowServer, body: Body) -> Answer:
    return _kept(server, server.pipelines, body, "pipeline_id", "p")


def _upload_version(server: KubeflowServer, body: Body) -> Answer:
    query = body["query"]
    documents = list(yaml.safe_load_all(body["uploadfile"]))
    spec = {"pipeline_spec": documents[0], "platform_spec": documents[1]} if len(documents) > 1 else documents[0]
    said = {"display_name": query["name"], "pipeline_id": query["pipelineid"], "pipeline_spec": spec}
    if refused := _specified(server, said):
        return refused
    return _kept(server, server.versions, said, "pipeline_version_id", "v")


def _list_versions(server: KubeflowServer, body: Body, pipeline: str) -> Answer:
    newest = [one for one in reversed(server.versions.values()) if one["pipeline_id"] == pipeline]
    return _page("pipeline_versions", newest, body)


def _get_version(server: KubeflowServer, body: Body, pipeline: str, version: str) -> Answer:
    return 200, server.versions[version]


ROUTES: dict[tuple[str, str], Callable[..., Answer]] = {
    ("GET", "/healthz"): _health,
    ("GET", "/experiments"): _list_experiments,
    ("POST", "/experiments"): _create_experiment,
    ("GET", "/runs"): _list_runs,
    ("POST", "/runs"): _create_run,
    ("GET", "/runs/([^/:]+)"): _get_run,
    ("POST", "/runs/([^/:]+):terminate"): _terminate,
    ("POST", "/runs/([^/:]+):retry"): _retry,
    ("GET", "/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log"): _log,
    ("GET", "/recurringruns"): _list_recurring,
    ("POST", "/recurringruns"): _create_recurring,
    ("POST", "/recurringruns/([^/:]+):disable"): _set_status("DISABLED"),
    ("POST", "/recurringruns/([^/:]+):enable"): _set_status("ENABLED"),
    ("DELETE", "/recurringruns/([^/]+)"): _delete_recurring,
    ("GET", "/pipelines"): _list_pipelines,
    ("POST", "/pipelines"): _create_pipeline,
    ("POST", "/pipelines/upload_version"): _upload_version,
    ("GET", "/pipelines/([^/]+)/versions"): _list_versions,
    ("GET", "/pipelines/([^/]+)/versions/([^/]+)"): _get_version,
}


def _sent(kind: str, content: bytes) -> Body:
    """A request's body: JSON, or the file of a form."""
    if not kind.startswith("multipart/"):
        return json.loads(content or b"{}")
    form = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + content)
    (part,) = form.get_payload()
    return {"uploadfile": part.get_payload(decode=True)}


def _handler(server: KubeflowServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _respond(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = _sent(self.headers.get("Content-Type") or "", content)
            status, said = server.answer(self.command, self.path, body, self.headers.get("Authorization"))
            if status == 0:
                self.close_connection = True
                return
            text = isinstance(said, str)
            payload = said.encode() if text else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if text else "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = do_DELETE = _respond  # noqa: N815

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return Handler
