"""Whether what a resources profile names exists in the cluster's namespace, and what else the cluster has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from drift.config.plan import MODULES
from drift.ground.errors import ConfigError
from drift.ground.findings import Check, Noted, optional
from pipelines.cluster.api import Refused, api, ask
from pipelines.cluster.needs import together
from pipelines.cluster.rights import several_checks, train_jobs
from pipelines.placement import TRAINED, Placement, Resources
from pipelines.tracked import CONFIG_MAP, FROM_CONFIG_MAP

DEFAULT = "kubeflow"
"""The namespace of a cluster for one user."""
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
DEFAULT_ACCOUNT = "pipeline-runner"
USER_ACCOUNT = "default-editor"
"""The steps' service account if none is named: of a cluster for one user, and of a user's namespace on one for many."""
HOSTNAME = "kubernetes.io/hostname"
MANY = {"ReadWriteMany", "ReadOnlyMany"}
"""Access modes of a claim that pods on several nodes can mount at once."""


def cluster_checks(resources: Resources, namespace: str, account: str | None = None) -> Iterator[Check]:
    """A check per claim, per secret with the keys that steps take from it, of MLflow's address and of several nodes."""
    placements = {step: resources.of(step) for step in MODULES}
    for claim in sorted({volume.claim for placement in placements.values() for volume in placement.volumes}):
        mounted = {step: one for step, one in placements.items() if claim in {volume.claim for volume in one.volumes}}
        yield f"claim {claim}", partial(_claim, namespace, claim, mounted)
    if resources.shared:
        yield f"shared claim {resources.shared.claim}", partial(_shared, namespace, resources.shared.claim)
    keys: dict[str, set[str]] = {name: set() for name in resources.pull_secrets}
    for secret in (secret for placement in placements.values() for secret in placement.secrets):
        keys.setdefault(secret.name, set()).update(secret.env)
    yield from ((f"secret {name}", partial(_secret, namespace, name, keys[name])) for name in sorted(keys))
    yield f"config map {CONFIG_MAP}", partial(_config_map, namespace)
    if placements[TRAINED].nodes > 1:
        yield from several_checks(resources, namespace, account or _account(namespace))


def _account(namespace: str) -> str:
    return DEFAULT_ACCOUNT if namespace == DEFAULT else USER_ACCOUNT


def surroundings(resources: Resources) -> Iterator[Check]:
    """What a claim can be made of, and whether there are Kubeflow's training jobs: to know, not to need."""
    yield "storage classes", _storage_classes
    if resources.of(TRAINED).nodes == 1:
        yield "TrainJob", partial(optional, train_jobs)


def _found(what: str, read: Callable[..., Any], name: str, namespace: str) -> Any:
    found = ask(read, name, namespace)
    if found is None:
        raise ConfigError(f"{what} is not in the namespace '{namespace}'; create it, or correct its name")
    return found


def _claim(namespace: str, name: str, mounted: Mapping[str, Placement]) -> str:
    found = _bound(namespace, name)
    phase, modes = found.status.phase, set(found.spec.access_modes)
    if not MANY & modes and together(mounted) and (why := _apart(mounted)):
        raise ConfigError(
            f"volumes: claim '{name}' is {', '.join(sorted(modes))}, and steps that run at the same time mount it{why}"
            f"; make it ReadWriteMany, or keep them on one node: node_selector: {{{HOSTNAME}: ...}}"
        )
    if phase != "Bound":
        raise Noted(f"{phase}: its storage class '{found.spec.storage_class_name}' has made no volume yet")
    return f"{phase}, {', '.join(sorted(modes))}"


def _shared(namespace: str, name: str) -> str:
    found = _bound(namespace, name)
    if "ReadWriteMany" not in found.spec.access_modes:
        raise ConfigError(
            f"shared: claim '{name}' is {', '.join(found.spec.access_modes)}, and every node of a training writes "
            "there; name one that is ReadWriteMany"
        )
    return f"{found.status.phase}, ReadWriteMany"


def _bound(namespace: str, name: str) -> Any:
    """The claim, unless its volume is lost."""
    found = _found(f"volumes: claim '{name}'", api().read_namespaced_persistent_volume_claim, name, namespace)
    if found.status.phase == "Lost":
        raise ConfigError(f"volumes: claim '{name}' has lost its volume; restore it, or create the claim anew")
    return found


def _apart(mounted: Mapping[str, Placement]) -> str:
    """How it is known that the steps' pods may lie on several nodes; '' if they cannot."""
    hosts = {placement.node_selector.get(HOSTNAME) for placement in mounted.values()}
    if len(hosts) == 1 and None not in hosts:
        return ""
    try:
        nodes = ask(api().list_node, limit=2)
    except Refused:
        return " (how many nodes there are is not yours to see)"
    return " on several nodes" if nodes is None or len(nodes.items) > 1 else ""


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
