"""Pipelines kept on the server with their versions, so that a schedule can be compared, moved forward and back."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kfp
import yaml

from drift.ground.errors import ConfigError
from pipelines.cluster.server import RefusedError, Server, equal

DIGITS = 12
"""Of the compiled pipeline's sha256 in a version's name."""
LONGEST = 60
"""Lines of a difference that are shown."""


@dataclass(frozen=True)
class Version:
    """A version of a pipeline: named by the hash of what was compiled and the time of its upload."""

    id: str
    name: str
    pipeline_id: str
    created_at: str


def upload(server: Server, client: kfp.Client, name: str, package: Path) -> Version:
    """The compiled pipeline as a version of the pipeline `name`; the same one as before if nothing has changed."""
    pipeline_id = _pipeline(server, name) or _create(server, name)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()[:DIGITS]
    for version in versions(server, pipeline_id):
        if version.name.startswith(digest):
            return version
    called = f"{digest}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    made = client.upload_pipeline_version(str(package), called, pipeline_id=pipeline_id)
    return Version(str(made.pipeline_version_id), called, pipeline_id, str(made.created_at or ""))


def versions(server: Server, pipeline_id: str) -> list[Version]:
    """All versions, the newest first."""
    query = {"sort_by": "created_at desc"}
    found = server.pages(f"/pipelines/{pipeline_id}/versions", "pipeline_versions", query)
    return [_version(one) for one in found]


def choose(server: Server, pipeline_id: str, given: str) -> Version:
    """The version with this id, or whose name begins so. Raises ConfigError if none or several."""
    known = versions(server, pipeline_id)
    fitting = [one for one in known if one.id == given or one.name.startswith(given)]
    if len(fitting) != 1:
        names = ", ".join(one.name for one in known) or "none"
        raise ConfigError(f"--version: '{given}' fits {len(fitting)} versions; there are {names}")
    return fitting[0]


def read(server: Server, pipeline_id: str, version_id: str) -> dict[str, Any]:
    """The specification of a version; {} if it is gone."""
    try:
        said = server.ask("GET", f"/pipelines/{pipeline_id}/versions/{version_id}")
    except RefusedError as error:
        if error.status != 404:
            raise
        return {}
    return said.get("pipeline_spec") or {}


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """What differs between two specifications: parameters key by key, and images; at most `LONGEST` lines."""
    lines = [
        line
        for line in difflib.unified_diff(_told(before), _told(after), "before", "after", n=1, lineterm="")
        if not line.startswith(("---", "+++", "@@"))
    ]
    more = [f"… and {len(lines) - LONGEST} lines more"] if len(lines) > LONGEST else []
    return (*lines[:LONGEST], *more)


def _told(spec: Mapping[str, Any]) -> list[str]:
    """A line per key with its whole path, so that each line of a difference can be read alone."""
    inner = spec.get("pipeline_spec") or spec
    parameters = inner.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    executors = inner.get("deploymentSpec", {}).get("executors", {})
    images = {name: one["container"]["image"] for name, one in executors.items() if "container" in one}
    defaults = {name: _opened(one.get("defaultValue")) for name, one in parameters.items()}
    return [*_lines("", defaults), *_lines("images.", images)]


def _lines(prefix: str, value: Any) -> list[str]:
    if isinstance(value, Mapping) and value:
        return [line for key in sorted(value) for line in _lines(f"{prefix}{key}.", value[key])]
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return [f"{prefix.rstrip('.')}: {text.partition(chr(10))[0]}"]


def _opened(value: Any) -> Any:
    """A step's parameter is JSON as text; a list of such ones becomes their configurations by name."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, list):
        opened = [_opened(one) for one in value]
        named = [one.get("name") if isinstance(one, dict) else None for one in opened]
        return dict(zip(named, opened, strict=True)) if all(named) else opened
    return value["config"] if isinstance(value, dict) and "config" in value else value


def _pipeline(server: Server, name: str) -> str | None:
    query = {"filter": equal("display_name", name), "namespace": server.target.namespace}
    found = next(server.pages("/pipelines", "pipelines", query), None)
    return str(found["pipeline_id"]) if found else None


def _create(server: Server, name: str) -> str:
    body = {"display_name": name, "name": name, "namespace": server.target.namespace or ""}
    return str(server.ask("POST", "/pipelines", body=body)["pipeline_id"])


def _version(said: Mapping[str, Any]) -> Version:
    name = said.get("display_name") or said.get("name") or ""
    return Version(
        str(said["pipeline_version_id"]), str(name), str(said.get("pipeline_id", "")), str(said.get("created_at", ""))
    )
