"""Whether what a resources profile names exists in the cluster's namespace, and what else the cluster has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from drift.config.plan import MODULES
from drift.ground.errors import ConfigError
from drift.ground.findings import Check, Noted
from pipelines.placement import Resources
from pipelines.tracked import CONFIG_MAP, FROM_CONFIG_MAP

SECONDS = 5
DEFAULT = "kubeflow"
"""The namespace of a cluster for one user."""
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
TRAIN_JOBS = "trainjobs.trainer.kubeflow.org"
SHARED = {"ReadWriteMany", "ReadOnlyMany"}
"""Access modes of a claim that pods on several nodes can mount at once."""


def cluster_checks(resources: Resources, namespace: str) -> Iterator[Check]:
    """A check per claim, per secret with the keys that steps take from it, and of MLflow's address."""
    placements = [resources.of(step) for step in MODULES]
    claims = {volume.claim for placement in placements for volume in placement.volumes}
    keys: dict[str, set[str]] = {name: set() for name in resources.pull_secrets}
    for secret in (secret for placement in placements for secret in placement.secrets):
        keys.setdefault(secret.name, set()).update(secret.env)
    yield from ((f"claim {claim}", partial(_claim, namespace, claim)) for claim in sorted(claims))
    yield from ((f"secret {name}", partial(_secret, namespace, name, keys[name])) for name in sorted(keys))
    yield f"config map {CONFIG_MAP}", partial(_config_map, namespace)


def surroundings() -> Iterator[Check]:
    """What a claim can be made of, and whether there are Kubeflow's training jobs: to know, not to need."""
    yield "storage classes", _storage_classes
    yield "TrainJob", _train_jobs


def api(kind: str = "CoreV1Api") -> Any:
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
    return getattr(client, kind)(client.ApiClient(settings))


def ask(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The cluster's answer; None if there is no such thing. Raises Noted if it refuses, or does not answer."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return call(*arguments, **options, _request_timeout=SECONDS)
    except ApiException as error:
        if error.status == 404:
            return None
        raise Noted(f"the cluster answers {error.status} {error.reason}") from None
    except HTTPError as error:
        raise Noted(f"the cluster does not answer ({type(error).__name__})") from None


def _found(what: str, read: Callable[..., Any], name: str, namespace: str) -> Any:
    found = ask(read, name, namespace)
    if found is None:
        raise ConfigError(f"{what} is not in the namespace '{namespace}'; create it, or correct its name")
    return found


def _claim(namespace: str, name: str) -> str:
    claim = _found(f"volumes: claim '{name}'", api().read_namespaced_persistent_volume_claim, name, namespace)
    phase, modes = claim.status.phase, claim.spec.access_modes
    if phase == "Lost":
        raise ConfigError(f"volumes: claim '{name}' has lost its volume; restore it, or create the claim anew")
    if not SHARED & set(modes):
        raise Noted(f"{phase}, {', '.join(modes)}: steps on several nodes wait for each other; ReadWriteMany would not")
    if phase != "Bound":
        raise Noted(f"{phase}: its storage class '{claim.spec.storage_class_name}' has made no volume yet")
    return f"{phase}, {', '.join(modes)}"


def _secret(namespace: str, name: str, keys: set[str]) -> None:
    """The values come along, as the cluster's API has it, and are not looked at."""
    there = _found(f"secrets: '{name}'", api().read_namespaced_secret, name, namespace).data or {}
    if missing := sorted(keys - set(there)):
        raise ConfigError(f"secrets: '{name}' has no key '{missing[0]}'; it has {', '.join(sorted(there)) or 'none'}")


def _config_map(namespace: str) -> str:
    key = next(iter(FROM_CONFIG_MAP))
    there = _found(f"config map '{CONFIG_MAP}'", api().read_namespaced_config_map, CONFIG_MAP, namespace).data or {}
    if key not in there:
        raise ConfigError(f"config map '{CONFIG_MAP}' has no key '{key}'; give it MLflow's address as pods see it")
    return str(there[key])


def _storage_classes() -> str:
    classes = ask(api("StorageV1Api").list_storage_class).items
    if not classes:
        raise Noted("none: a claim needs a volume that somebody made for it")
    return ", ".join(sorted(map(_class, classes)))


def _class(one: Any) -> str:
    default = (one.metadata.annotations or {}).get(DEFAULT_CLASS) == "true"
    return f"{one.metadata.name}{' (default)' if default else ''}"


def _train_jobs() -> str:
    if ask(api("ApiextensionsV1Api").read_custom_resource_definition, TRAIN_JOBS) is None:
        raise Noted(f"no {TRAIN_JOBS}: not needed, a training runs in one pod")
    return TRAIN_JOBS
