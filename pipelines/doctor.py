"""What this machine and a cluster have for a run: the library's own checks, Docker, and Kubeflow with its namespace.

Kubeflow is looked at where its address is given, the namespace where a resources profile is given.
"""

from __future__ import annotations

import itertools
import os
from functools import partial
from pathlib import Path

from components._images import IMAGES
from drift.config.chain import Config
from drift.config.section import suggest
from drift.ground.errors import ConfigError
from drift.ground.findings import Check, Finding, Noted, find, optional
from drift.planning import doctor
from pipelines.cluster.look import examine_in_pod
from pipelines.cluster.namespace import DEFAULT, cluster_checks, surroundings
from pipelines.cluster.server import HOST, Target, check_release
from pipelines.placement import read_resources


def examine(
    config: Config,
    *,
    resources: Path | None = None,
    namespace: str | None = None,
    pods: tuple[str, ...] = (),
    service_account: str | None = None,
    host: str = "",
    ca_cert: Path | None = None,
) -> list[Finding]:
    """Every check here, in the namespace if there is a profile, and all of a machine's in a pod of each role.

    Raises ConfigError for a role that there is not, or a profile that cannot be read.
    """
    for role in set(pods) - set(IMAGES):
        raise ConfigError(f"--pod: no role '{role}'{suggest(role, IMAGES)}")
    profile, place = read_resources(resources), namespace or DEFAULT
    cluster = [*cluster_checks(profile, place, service_account), *surroundings(profile)] if resources else []
    here: list[Check] = [*doctor.checks(config), ("Docker", partial(optional, _docker))]
    here.append(("Kubeflow", partial(_kubeflow, host or os.environ.get(HOST, ""), ca_cert)))
    found = [find(name, look) for name, look in [*here, *cluster]]
    seen = (examine_in_pod(role, config, profile, place, service_account) for role in pods)
    return [*found, *itertools.chain.from_iterable(seen)]


def _docker() -> str:
    from pipelines.local import containers

    with containers.engine() as client:
        containers.image_ids(client)
        return f"{client.version()['Version']}, with the images of the steps"


def _kubeflow(host: str, ca_cert: Path | None) -> str:
    if not host:
        raise Noted(f"no --host, and {HOST} is not set: needed for what talks to a cluster alone")
    return check_release(Target(host, ca_cert=ca_cert))
