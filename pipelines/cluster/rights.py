"""What a training on several nodes needs of the cluster: its account's rights, the runtime that it runs by."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from drift.ground.errors import ConfigError
from drift.ground.findings import Check, Noted
from pipelines.cluster.api import Refused, api, ask
from pipelines.placement import Resources

TRAINER, VERSION = "trainer.kubeflow.org", "v1alpha1"
TRAIN_JOBS = f"trainjobs.{TRAINER}"
RIGHTS = (
    (TRAINER, "trainjobs", "", ("create", "get", "list", "watch", "patch", "delete")),
    (TRAINER, "trainingruntimes", "", ("get",)),
    ("", "pods", "", ("get", "list", "watch")),
    ("", "pods", "log", ("get", "list", "watch")),
    ("", "events", "", ("get", "list", "watch")),
)
"""Group, resource and sub-resource, and what the steps' account does with them in its namespace."""
APPLY = "an administrator applies configs/kubeflow/ to the namespace (docs/nodes.md)"


def several_checks(resources: Resources, namespace: str, account: str) -> Iterator[Check]:
    """Checks of what a training on several nodes needs besides its claim."""
    yield "TrainJob", train_jobs
    yield f"runtime {resources.runtime}", partial(_runtime, namespace, resources.runtime)
    yield f"rights of {account}", partial(_rights, namespace, account)


def train_jobs() -> str:
    """Whether the cluster knows Trainer's jobs. Raises ConfigError if not."""
    if ask(api("ApiextensionsV1Api").read_custom_resource_definition, TRAIN_JOBS) is None:
        raise ConfigError(f"no {TRAIN_JOBS}, by which several nodes train; install Kubeflow Trainer, or set nodes: 1")
    return TRAIN_JOBS


def _runtime(namespace: str, name: str) -> str:
    read = api("CustomObjectsApi").get_namespaced_custom_object
    if ask(read, TRAINER, VERSION, namespace, "trainingruntimes", name) is None:
        raise ConfigError(f"runtime: no TrainingRuntime '{name}' in the namespace '{namespace}'; {APPLY}")
    return name


def _rights(namespace: str, account: str) -> str:
    """Asked in the account's name, which takes the right to impersonate it."""
    reviews = api("AuthorizationV1Api", account=f"{namespace}:{account}")
    try:
        missing = [right for right in _each() if not _allowed(reviews, namespace, *right)]
    except Refused as refusal:
        who = f"system:serviceaccount:{namespace}:{account}"
        if refusal.status == 403:
            raise Noted(
                f"not yours to ask for {account} ({refusal.message}); see kubectl auth can-i --list --as {who}"
            ) from None
        raise
    if missing:
        said = ", ".join(f"{verb} {'/'.join(filter(None, (resource, sub)))}" for _, resource, sub, verb in missing)
        raise ConfigError(f"the account '{account}' may not {said}; {APPLY}")
    return f"{sum(1 for _ in _each())} rights"


def _each() -> Iterator[tuple[str, str, str, str]]:
    yield from ((group, name, sub, verb) for group, name, sub, verbs in RIGHTS for verb in verbs)


def _allowed(reviews: Any, namespace: str, group: str, resource: str, sub: str, verb: str) -> bool:
    wanted = {"namespace": namespace, "group": group, "resource": resource, "subresource": sub, "verb": verb}
    review = {"spec": {"resourceAttributes": wanted}}
    return bool(ask(reviews.create_self_subject_access_review, review).status.allowed)
