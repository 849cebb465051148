"""A pod like those of a role's steps, in which `drift doctor` looks: its image, and all that the profile gives it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from components._images import IMAGES
from components._images import role as role_of
from drift.config.chain import Config
from drift.config.section import to_json
from pipelines.placement import SCRATCH, TRAINED, Placement, Resources
from pipelines.tracked import CONFIG_MAP, FROM_CONFIG_MAP

Body = dict[str, Any]
MAIN = "main"
COMMAND = (
    'export MLFLOW_TRACKING_URI="${MLFLOW_TRACKING_URI:-$DRIFT_MLFLOW_TRACKING_URI}"; '
    'file=$(mktemp) && printf %s "$DRIFT_CONFIG" > "$file" && exec drift doctor --json -c "$file" "$@"'
)


def pod_of(role: str, config: Config, resources: Resources, service_account: str | None) -> Body:
    """The pod, as Kubernetes' API has it; a namespace with Pod Security `restricted` takes it."""
    placement = placement_of(role, resources)
    labels = {"app.kubernetes.io/name": "drift-doctor", **placement.labels}
    mounted = list(_mounts(placement, resources))
    return {
        "metadata": {
            "name": f"drift-doctor-{uuid.uuid4().hex[:8]}", "labels": labels, "annotations": placement.annotations,
        },
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [_container(role, config, placement, resources, [mount for mount, _ in mounted])],
            "volumes": list({volume["name"]: volume for _, volume in mounted}.values()),
            "tolerations": [taint.model_dump(exclude_none=True) for taint in placement.tolerations],
            "nodeSelector": placement.node_selector,
            "affinity": {"nodeAffinity": _affinity(placement)},
            "imagePullSecrets": [{"name": name} for name in resources.pull_secrets],
            **({"serviceAccountName": service_account} if service_account else {}),
        },
    }  # fmt: skip


def placement_of(role: str, resources: Resources) -> Placement:
    """What the role's pods get; `train` has one step, which may differ from its role."""
    return resources.of(TRAINED) if role == role_of(TRAINED) else resources.roles.get(role, Placement())


def _container(role: str, config: Config, placement: Placement, resources: Resources, mounts: list[Body]) -> Body:
    return {
        "name": MAIN,
        "image": IMAGES[role],
        "command": ["sh", "-c", COMMAND, "drift", *_options(role, placement, resources)],
        "env": [{"name": "DRIFT_CONFIG", "value": to_json(config)}, *_variables(placement)],
        "resources": _size(placement),
        "volumeMounts": mounts,
        "securityContext": _rights(placement),
        **({"imagePullPolicy": placement.image_pull_policy} if placement.image_pull_policy else {}),
    }


def _options(role: str, placement: Placement, resources: Resources) -> Iterator[str]:
    """What `drift doctor` is to look at in there."""
    yield from ("--inside", role)
    for volume in placement.volumes:
        yield from ("--folder", volume.path)
    for path in _written(placement, resources):
        yield from ("--writable", path)


def _written(placement: Placement, resources: Resources) -> Iterator[str]:
    """Where the role's steps write, besides the folders that every pod of Kubeflow's has."""
    yield from placement.scratch.paths if placement.scratch else ()
    if placement.nodes > 1 and resources.shared:
        yield resources.shared.path


def _mounts(placement: Placement, resources: Resources) -> Iterator[tuple[Body, Body]]:
    """Each mount with its volume; a volume is named after its claim, as Kubeflow does."""
    for claim in placement.volumes:
        volume = {"name": claim.claim, "persistentVolumeClaim": {"claimName": claim.claim}}
        yield {"name": claim.claim, "mountPath": claim.path, "subPath": claim.sub_path}, volume
    if placement.nodes > 1 and (shared := resources.shared):
        volume = {"name": shared.claim, "persistentVolumeClaim": {"claimName": shared.claim}}
        yield {"name": shared.claim, "mountPath": shared.path}, volume
    if placement.shm:
        memory = {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": placement.shm}}
        yield {"name": "dshm", "mountPath": "/dev/shm"}, memory
    for path in placement.scratch.paths if placement.scratch else ():
        yield {"name": SCRATCH, "mountPath": path}, _scratch(placement)


def _scratch(placement: Placement) -> Body:
    assert placement.scratch is not None
    spec: Body = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": placement.scratch.size}},
    }
    if placement.scratch.storage_class:
        spec["storageClassName"] = placement.scratch.storage_class
    return {"name": SCRATCH, "ephemeral": {"volumeClaimTemplate": {"spec": spec}}}


def _size(placement: Placement) -> Body:
    limits = {"cpu": placement.cpu, "memory": placement.memory, placement.gpu_resource: placement.gpus or None}
    requests = {"cpu": placement.cpu_request, "memory": placement.memory_request}
    return {
        kind: {name: str(value) for name, value in amounts.items() if value}
        for kind, amounts in (("limits", limits), ("requests", requests))
    }


def _rights(placement: Placement) -> Body:
    own = {"runAsNonRoot": placement.run_as_non_root or None, "runAsUser": placement.run_as_user}
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        **{name: value for name, value in own.items() if value},
    }


def _affinity(placement: Placement) -> Body:
    terms = [
        (one.weight, {"matchExpressions": [need.model_dump(mode="json") for need in one.match]})
        for one in placement.node_affinity
    ]
    needed = [term for weight, term in terms if weight is None]
    preferred = [{"weight": weight, "preference": term} for weight, term in terms if weight is not None]
    return {
        **({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": needed}} if needed else {}),
        **({"preferredDuringSchedulingIgnoredDuringExecution": preferred} if preferred else {}),
    }


def _variables(placement: Placement) -> list[Body]:
    """From the config map of every step, from the role's secrets, and the role's own."""
    common = {
        name: {"configMapKeyRef": {"name": CONFIG_MAP, "key": key, "optional": True}}
        for key, name in FROM_CONFIG_MAP.items()
    }
    secret = {
        variable: {"secretKeyRef": {"name": secret.name, "key": key}}
        for secret in placement.secrets
        for key, variable in secret.env.items()
    }
    sources = [{"name": name, "valueFrom": source} for name, source in (common | secret).items()]
    return [*sources, *({"name": name, "value": value} for name, value in placement.env.items())]
