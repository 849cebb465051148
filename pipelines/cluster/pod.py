"""A pod for a moment, in a role's image and with what its steps get: what `drift doctor` finds in there."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from components._images import IMAGES
from drift.config.chain import Config
from drift.config.section import to_json
from drift.ground.errors import ConfigError
from drift.ground.findings import Finding, find
from pipelines.cluster.namespace import api, ask
from pipelines.placement import Placement, Resources
from pipelines.tracked import CONFIG_MAP, FROM_CONFIG_MAP

PATIENCE = 300.0
"""Seconds until a pod must have ended: an image of some gigabytes may have to come first."""
HOPELESS = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
}
COMMAND = 'file=$(mktemp) && printf %s "$DRIFT_CONFIG" > "$file" && exec drift doctor --json -c "$file"'


def examine_in_pod(
    role: str, config: Config, resources: Resources, namespace: str, service_account: str | None
) -> list[Finding]:
    """What `drift doctor` finds in a pod of the role, each check named after it; one finding if the pod fails.

    The pod is deleted again. What the cluster refuses, such as the right to make pods, is a note.
    """
    found: list[Finding] = []

    def look() -> str:
        found.extend(_ran(role, pod_of(role, config, resources, service_account), namespace))
        return IMAGES[role]

    pod, gpus = find(f"{role} pod", look), resources.roles.get(role, Placement()).gpus
    return [pod, *(_seen_in(role, gpus, one) for one in found)]


def _seen_in(role: str, gpus: int, found: Finding) -> Finding:
    """The finding, named after the role; GPUs that the profile gives and torch does not see are a problem."""
    missing = found.check == "GPU" and found.state == "note" and gpus > 0
    return Finding(f"{role} pod: {found.check}", "problem" if missing else found.state, found.detail)


def pod_of(role: str, config: Config, resources: Resources, service_account: str | None) -> dict[str, Any]:
    """The pod, as Kubernetes' API has it."""
    placement = resources.roles.get(role, Placement())
    labels = {"app.kubernetes.io/name": "drift-doctor", **placement.labels}
    return {
        "metadata": {
            "name": f"drift-doctor-{uuid.uuid4().hex[:8]}", "labels": labels, "annotations": placement.annotations,
        },
        "spec": {
            "restartPolicy": "Never",
            "containers": [_container(role, config, placement)],
            "volumes": [
                {"name": f"claim-{place}", "persistentVolumeClaim": {"claimName": volume.claim}}
                for place, volume in enumerate(placement.volumes)
            ],
            "tolerations": [taint.model_dump(exclude_none=True) for taint in placement.tolerations],
            "nodeSelector": placement.node_selector,
            "imagePullSecrets": [{"name": name} for name in resources.pull_secrets],
            **({"serviceAccountName": service_account} if service_account else {}),
        },
    }  # fmt: skip


def _container(role: str, config: Config, placement: Placement) -> dict[str, Any]:
    limits = {"cpu": placement.cpu, "memory": placement.memory, placement.gpu_resource: placement.gpus or None}
    return {
        "name": "main",
        "image": IMAGES[role],
        "command": ["sh", "-c", COMMAND],
        "env": [{"name": "DRIFT_CONFIG", "value": to_json(config)}, *_variables(placement)],
        "resources": {"limits": {name: str(value) for name, value in limits.items() if value}},
        "volumeMounts": [
            {"name": f"claim-{place}", "mountPath": volume.path, "subPath": volume.sub_path}
            for place, volume in enumerate(placement.volumes)
        ],
        "securityContext": {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}},
    }


def _variables(placement: Placement) -> list[dict[str, Any]]:
    """From the config map of every step, and from the role's secrets."""
    common = {
        name: {"configMapKeyRef": {"name": CONFIG_MAP, "key": key, "optional": True}}
        for key, name in FROM_CONFIG_MAP.items()
    }
    own = {
        variable: {"secretKeyRef": {"name": secret.name, "key": key}}
        for secret in placement.secrets
        for key, variable in secret.env.items()
    }
    return [{"name": name, "valueFrom": source} for name, source in (common | own).items()]


def _ran(role: str, pod: dict[str, Any], namespace: str) -> list[Finding]:
    """The findings in the log of the pod, which is made and deleted here."""
    core, name = api(), pod["metadata"]["name"]
    if ask(core.create_namespaced_pod, namespace, pod) is None:
        raise ConfigError(f"the cluster has no namespace '{namespace}'; name the steps' own with --namespace")
    try:
        _wait(lambda: ask(core.read_namespaced_pod_status, name, namespace), role)
        log = ask(core.read_namespaced_pod_log, name, namespace, container="main", _preload_content=False)
        return _findings(role, log.data.decode(errors="replace"))
    finally:
        ask(core.delete_namespaced_pod, name, namespace)


def _wait(look: Callable[[], Any], role: str) -> None:
    """Until its container has ended; a sidecar may go on. Raises ConfigError if it cannot start, or takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not _ended(status := _status(look())):
        reason = _reason(status)
        if reason.partition(":")[0] in HOPELESS:
            raise ConfigError(f"the pod does not start ({reason}); correct DRIFT_IMAGE_{role.upper()} or the profile")
        if time.monotonic() > deadline:
            raise ConfigError(f"not ended after {PATIENCE:.0f} s ({reason or status.phase}); is there room for it?")
        time.sleep(1)


def _status(pod: Any) -> Any:
    if pod is None:
        raise ConfigError("the pod is gone before it ended; see the events of the namespace")
    return pod.status


def _main(status: Any) -> Any:
    return next((one.state for one in status.container_statuses or () if one.name == "main"), None)


def _ended(status: Any) -> bool:
    return bool((state := _main(status)) and state.terminated)


def _reason(status: Any) -> str:
    """Why it has not begun: of its container, or of the scheduler; '' if it is at work."""
    if (state := _main(status)) and state.waiting:
        return f"{state.waiting.reason}: {state.waiting.message or ''}"
    return next((f"{one.reason}: {one.message}" for one in status.conditions or () if one.status == "False"), "")


def _findings(role: str, log: str) -> list[Finding]:
    start = log.find('{\n  "findings"')
    if start < 0:
        said = (log.strip().splitlines() or ["nothing"])[-1]
        raise ConfigError(f"its image {IMAGES[role]} says '{said:.200}', and not what it has; build it anew")
    found, _ = json.JSONDecoder().raw_decode(log, start)
    return [Finding(**one) for one in found["findings"]]
