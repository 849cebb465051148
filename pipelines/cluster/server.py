"""A Kubeflow Pipelines server: where it is, that it answers, and what it says when it refuses.

The token comes from the environment (KFP_EXISTING_TOKEN) or from the pod's projected service account, never from the
command line, where every process of the machine can read it. The pod's is read again for every request: it is renewed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import kfp
import kfp_server_api
import urllib3
from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from drift.ground.errors import ConfigError, ServiceError
from drift.ground.findings import Noted
from pipelines.placement import NOTHING, Resources

TOKEN = "KFP_EXISTING_TOKEN"
HOST = "KF_PIPELINES_ENDPOINT"
API = "/apis/v2beta1"

SECONDS = urllib3.Timeout(connect=10.0, read=30.0)
PAGE = 100
LONGEST = 600
"""Characters of a server's message that are passed on."""

RELEASES = SpecifierSet(">=2.16")
"""Kubeflow Pipelines that know a step's security context: 2.15's compiler refuses a field that it does not know
(backend/src/v2/compiler/argocompiler/container.go:309), and older ones collect no artifacts from a loop."""

REMEDIES = {401: f"export a fresh token as {TOKEN}", 403: "ask for the right on this namespace"}


@dataclass(frozen=True)
class Target:
    """Where a pipeline is to run. Raises ConfigError without a host."""

    host: str
    namespace: str | None = None
    experiment: str | None = None
    """None: the configuration's."""
    service_account: str | None = None
    ca_cert: Path | None = None
    resources: Resources = NOTHING
    """What the steps' pods get."""
    pipeline_root: str | None = None
    """Where artifacts go, such as `s3://bucket/drift`; None: the server's default."""

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError(f"--host: no Kubeflow Pipelines server given; name its URL, or export {HOST}")

    def page(self, run_id: str) -> str:
        """The run's page in Kubeflow's interface."""
        return f"{self.host.rstrip('/')}/#/runs/details/{run_id}"


class RefusedError(ServiceError):
    """The server answers, and not what was asked for. `status`: HTTP's; 0 if it does not answer at all."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Server:
    """The server's own routes, as JSON: Kubeflow's client lacks some, and waits for others longer than a user does."""

    target: Target

    def ask(self, method: str, path: str, query: Mapping[str, Any] | None = None, body: Any = None) -> dict[str, Any]:
        """The answer of a route of the v2beta1 API. Raises RefusedError."""
        said = self.text(method, API + path, query, body)
        try:
            answer: dict[str, Any] = json.loads(said or "{}")
        except ValueError:
            host = self.target.host
            raise RefusedError(f"{host} answers, but not as Kubeflow; check --host, or export {TOKEN}", 401) from None
        return answer

    def text(self, method: str, path: str, query: Mapping[str, Any] | None = None, body: Any = None) -> str:
        """The answer of any route, as text. Raises RefusedError."""
        host = self.target.host
        fields = {name: value for name, value in (query or {}).items() if value not in (None, "")}
        address = f"{host.rstrip('/')}{path}{'?' + urlencode(fields) if fields else ''}"
        with on_one_line(host), self._pool() as pool:
            answer = pool.request(method, address, headers=_authorization(), json=body)
            if answer.status >= 400:
                raise RefusedError(refusal(host, answer.status, answer.reason, answer.data), answer.status)
            return answer.data.decode(errors="replace")

    def pages(self, path: str, key: str, query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """All entries of a list, page by page."""
        token = ""
        while True:
            page = self.ask("GET", path, {**query, "page_size": PAGE, "page_token": token})
            yield from page.get(key) or ()
            token = page.get("next_page_token") or ""
            if not token:
                return

    def _pool(self) -> urllib3.PoolManager:
        ca_certs = str(self.target.ca_cert) if self.target.ca_cert else None
        return urllib3.PoolManager(ca_certs=ca_certs, timeout=SECONDS, retries=False)


def equal(key: str, value: str) -> str:
    """The filter of a list: only what has this value."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "string_value": value}]})


@contextlib.contextmanager
def connected(target: Target) -> Iterator[kfp.Client]:
    """A client of the target's server; whatever it raises becomes a ServiceError of one line.

    What Kubeflow's client prints goes to standard error.
    """
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), on_one_line(target.host):
        warnings.filterwarnings("ignore", category=FutureWarning, module="kfp")
        yield _client(target)


def check_release(target: Target) -> str:
    """The server's address and release, once it has answered to our token.

    Raises ServiceError if it does not, ConfigError for a release that the pipeline does not run on, Noted if it tells
    none.
    """
    said = Server(target).ask("GET", "/healthz")
    release = str(said.get("tag_name") or said.get("apiServerTagName") or "")
    try:
        if Version(release) not in RELEASES:
            raise ConfigError(f"{target.host} is Kubeflow Pipelines {release}, not {RELEASES}; upgrade it")
    except InvalidVersion:
        raise Noted(f"{target.host} does not say its release; needed is {RELEASES}") from None
    return f"{target.host} {release}"


@contextlib.contextmanager
def on_one_line(host: str) -> Iterator[None]:
    """What the server and the way to it raise, as a RefusedError of one line."""
    try:
        yield
    except kfp_server_api.ApiException as error:
        raise RefusedError(refusal(host, error.status, error.reason, error.body), error.status or 0) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        reason = type(getattr(error, "reason", None) or error).__name__
        raise RefusedError(f"{host} does not answer ({reason}); check --host and the network") from None


def refusal(host: str, status: int | None, reason: str | None, body: str | bytes | None) -> str:
    """One line of what the server said: its own `message` whatever the status, for a user's mistake is a 500 too."""
    said = _message(body)
    unsaid = "check --host" if status == 404 else "see the log of ml-pipeline"
    remedy = REMEDIES.get(status or 0, "" if said else unsaid)
    return f"{host} answers {status}: {said or reason}{'; ' + remedy if remedy else ''}"


def _message(body: str | bytes | None) -> str:
    text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
    try:
        said = json.loads(text)
    except ValueError:
        return ""
    message = (said.get("message") or said.get("error_message") or "") if isinstance(said, dict) else ""
    return "" if message == "Not Found" else " ".join(str(message).split())[:LONGEST]


def _client(target: Target) -> kfp.Client:
    """Kubeflow's client, after one request of ours: its own start repeats a failing one for half a minute."""
    Server(target).ask("GET", "/healthz")
    token, mounted = os.environ.get(TOKEN), _service_account_token()
    return kfp.Client(
        host=target.host,
        namespace=target.namespace or "kubeflow",
        existing_token=token,
        credentials=ServiceAccountTokenVolumeCredentials() if mounted and not token else None,
        ssl_ca_cert=str(target.ca_cert) if target.ca_cert else None,
    )


def _authorization() -> dict[str, str]:
    token = os.environ.get(TOKEN) or _service_account_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _service_account_token() -> str | None:
    path = Path(os.environ.get(KF_PIPELINES_SA_TOKEN_ENV) or KF_PIPELINES_SA_TOKEN_PATH)
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None
