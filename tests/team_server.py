"""The server of docker/compose.yaml without its images: PostgreSQL, an S3 server and MLflow with users, on loopback.

Command line, environment and users' file are the compose file's own, with the places of this machine put in.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.mlflow_server import mlflow_server
from tests.s3_server import KEYS, Bucket, s3_server

COMPOSE = Path(__file__).parent.parent / "docker" / "compose.yaml"
USERS = COMPOSE.parent / "mlflow" / "auth.ini"
PASSWORD = "a-password-of-tests"
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
"""Where Debian puts PostgreSQL."""


@dataclass(frozen=True)
class Team:
    """The server at ``address``, as its administrator, and the bucket that it keeps files in."""

    address: str
    bucket: Bucket

    def ask(self, method: str, path: str, *, as_user: str = "admin", **body: Any) -> requests.Response:
        """Ask the REST API; ``path`` is below `mlflow/` of its version 2.0, or begins with another."""
        version = "" if path.startswith("3.0/") else "2.0/mlflow/"
        where = f"{self.address}/api/{version}{path}"
        return requests.request(method, where, json=body or None, auth=(as_user, PASSWORD), timeout=30)

    def grant(self, user: str, kind: str, resource: str) -> None:
        """Let a user change an experiment, by its id, or a registered model, by its name."""
        asked = {"username": user, "resource_type": kind, "resource_id": resource, "permission": "EDIT"}
        self.ask("POST", "3.0/mlflow/users/permissions/grant", **asked).raise_for_status()

    def user(self, name: str) -> dict[str, str]:
        """A new user without rights of its own; the environment of its processes."""
        self.ask("POST", "users/create", username=name, password=PASSWORD).raise_for_status()
        return {
            "MLFLOW_TRACKING_URI": self.address,
            "MLFLOW_TRACKING_USERNAME": name,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        }


@contextlib.contextmanager
def team_server(folder: Path) -> Iterator[Team]:
    """Serve for the block, with everything in ``folder`` and PostgreSQL in a folder of its own."""
    compose = yaml.safe_load(COMPOSE.read_text())
    with postgres() as database, s3_server("mlflow") as (bucket,):
        places = {"@postgres/": f"@{database}/", "http://s3:8333": bucket.address}
        settings = folder / "auth.ini"
        settings.write_text(_placed(USERS.read_text(), places))
        asked = {name: _placed(value, places) for name, value in compose["services"]["mlflow"]["environment"].items()}
        ours = {"MLFLOW_AUTH_CONFIG_PATH": str(settings), **KEYS}
        command = compose["services"]["mlflow"]["command"][2:]
        flags = [flag for flag in command if not flag.startswith(("--host", "--port", "--workers"))]
        stores = ["--backend-store-uri", asked["MLFLOW_BACKEND_STORE_URI"]]
        with mlflow_server(folder, *flags, *stores, environment=asked | ours) as address:
            yield Team(address, bucket)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A new database `mlflow` of the user `mlflow`; yields `127.0.0.1:PORT`. PostgreSQL does not run as root."""
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="drift-postgres-"))
    shutil.chown(folder, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(program: str, *arguments: str) -> None:
        command = [str(BINARIES[-1] / program), *arguments]
        subprocess.run(command, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)

    (password := folder / "password").write_text(PASSWORD)
    shutil.chown(password, user)
    try:
        call("initdb", "-D", "data", "-U", "mlflow", "--pwfile=password", "--auth=scram-sha-256")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        call("pg_ctl", "-D", "data", "-l", "log", "-w", "-o", options, "start")
        try:
            environment = {**os.environ, "PGPASSWORD": PASSWORD}
            create = [str(BINARIES[-1] / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow"]
            subprocess.run(create, check=True, env=environment)
            yield f"127.0.0.1:{port}"
        finally:
            call("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


def _placed(text: str, places: Mapping[str, str]) -> str:
    """A value of the compose file with every password, and the places of this machine, put in."""
    text = re.sub(r"\$\{\w+(?::?[-?][^}]*)?\}", PASSWORD, str(text))
    for theirs, ours in places.items():
        text = text.replace(theirs, ours)
    return text
