"""Whether the claims and secrets that a resources profile names exist in the cluster's namespace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from drift.errors import ConfigError
from drift.findings import Noted
from pipelines.placement import Placement, Resources

SECONDS = 5
NAMESPACE = "KFP_NAMESPACE"
DEFAULT = "kubeflow"


def cluster_checks(resources: Resources) -> Iterator[tuple[str, Callable[[], None]]]:
    """A check per claim, and per secret with the keys that steps take from it."""
    placements = placements_of(resources)
    claims = {volume.claim for placement in placements for volume in placement.volumes}
    keys: dict[str, set[str]] = {name: set() for name in resources.pull_secrets}
    for secret in (secret for placement in placements for secret in placement.secrets):
        keys.setdefault(secret.name, set()).update(secret.env)
    yield from ((f"claim {claim}", partial(_claim, claim)) for claim in sorted(claims))
    yield from ((f"secret {name}", partial(_secret, name, keys[name])) for name in sorted(keys))


def placements_of(resources: Resources) -> list[Placement]:
    """What any step may get: of each role, and each step's own in every role."""
    own = [resources.of(step, role) for step in resources.steps for role in resources.roles or ("pipeline",)]
    return [*resources.roles.values(), *own]


def _claim(name: str) -> None:
    api = _api()
    _found(f"volumes: claim '{name}'", api.read_namespaced_persistent_volume_claim, name)


def _secret(name: str, keys: set[str]) -> None:
    """The values come along, as the cluster's API has it, and are not looked at."""
    api = _api()
    there = _found(f"secrets: '{name}'", api.read_namespaced_secret, name).data or {}
    if missing := sorted(keys - set(there)):
        raise ConfigError(f"secrets: '{name}' has no key '{missing[0]}'; it has {', '.join(sorted(there)) or 'none'}")


def _found(what: str, read: Callable[..., Any], name: str) -> Any:
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    namespace = os.environ.get(NAMESPACE, DEFAULT)
    try:
        return read(name, namespace, _request_timeout=SECONDS)
    except ApiException as error:
        if error.status == 404:
            raise ConfigError(f"{what} is not in the namespace '{namespace}'; create it, or correct its name") from None
        raise Noted(f"the cluster answers {error.status} {error.reason}") from None
    except HTTPError as error:
        raise Noted(f"the cluster does not answer ({type(error).__name__})") from None


def _api() -> Any:
    """Kubernetes' own client, by the kubeconfig or from inside a pod. Raises Noted without either."""
    from kubernetes import client, config

    try:
        config.load_kube_config(os.environ.get("KUBECONFIG"))
    except config.ConfigException:
        try:
            config.load_incluster_config()
        except config.ConfigException:
            raise Noted("no cluster: neither a kubeconfig nor a pod's service account here") from None
    settings = client.Configuration.get_default_copy()
    settings.retries = False
    return client.CoreV1Api(client.ApiClient(settings))
