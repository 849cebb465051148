"""What this machine and a cluster have for a run: the library's own checks, Docker, and Kubeflow with its namespace.

Kubeflow is looked at where its variable is set, the namespace where a resources profile is given.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from components._images import IMAGES
from drift import doctor
from drift.config import Config
from drift.errors import ConfigError
from drift.findings import Check, Finding, Noted, find, optional
from drift.validation import suggest
from pipelines.namespace import cluster_checks, surroundings
from pipelines.placement import read_resources
from pipelines.pod import examine_in_pod

SERVER = SpecifierSet(">=2.14")
"""Kubeflow Pipelines that collect artifacts from a loop and tell an exit handler how the run ended: 2.14.0's notes."""


def examine(
    config: Config, *, resources: Path | None = None, pods: tuple[str, ...] = (), service_account: str | None = None
) -> list[Finding]:
    """Every check here, in the namespace if there is a profile, and all of a machine's in a pod of each role.

    Raises ConfigError for a role that there is not, or a profile that cannot be read.
    """
    for role in set(pods) - set(IMAGES):
        raise ConfigError(f"--pod: no role '{role}'{suggest(role, IMAGES)}")
    profile = read_resources(resources)
    cluster = [*cluster_checks(profile), *surroundings()] if resources else []
    here: list[Check] = [*doctor.checks(config), ("Docker", partial(optional, _docker)), ("Kubeflow", _kubeflow)]
    found = [find(name, look) for name, look in [*here, *cluster]]
    return [*found, *(one for role in pods for one in examine_in_pod(role, config, profile, service_account))]


def _docker() -> str:
    from pipelines import containers

    with containers.engine() as client:
        containers.image_ids(client)
        return f"{client.version()['Version']}, with the images of the steps"


def _kubeflow() -> str:
    from pipelines.cluster import HOST, Target, server_version

    if not (host := os.environ.get(HOST)):
        raise Noted(f"{HOST} is not set: needed for `drift submit` and `drift schedule` alone")
    version = server_version(Target(host))
    try:
        if Version(version) not in SERVER:
            raise ConfigError(f"{host} is Kubeflow Pipelines {version}, not {SERVER}; upgrade it")
    except InvalidVersion:
        raise Noted(f"{host} does not say its version; needed is {SERVER}") from None
    return f"{host} {version}"
