"""The pod that Kubeflow Pipelines 2.17.0 and Argo 4.0.5 make of a step of our compiled pipeline.

Each part is put together as their source does it, by file and line of those releases:

    argocompiler/container.go:455-595         the template of every executor
    argocompiler/security_context.go:92-196   its security, which leaves runAsNonRoot out
    driver/driver.go:290-298, 468             variables of the container, of plugins, of a proxy: in this order
    driver/k8s.go:131-800                     what the platform's specification adds
    workflow-controller-configmap-patch.yaml:39-49    the security of Argo's own containers
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

Body = dict[str, Any]
DEFAULT = {"type": "RuntimeDefault"}
NO_RIGHTS = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "seccompProfile": DEFAULT}
SYSTEM = {**NO_RIGHTS, "runAsNonRoot": True}
FOLDERS = {
    "kfp-launcher": "/kfp-launcher",
    "gcs-scratch": "/gcs",
    "s3-scratch": "/s3",
    "minio-scratch": "/minio",
    "dot-local-scratch": "/.local",
    "dot-cache-scratch": "/.cache",
    "dot-config-scratch": "/.config",
}


def executor_pods(compiled: Path, injected: Mapping[str, Body] | None = None) -> dict[str, Body]:
    """The specification of each step's pod, by step; ``injected`` are variables of a plugin."""
    spec, platform = yaml.safe_load_all(compiled.read_text(encoding="utf-8"))
    executors = spec["deploymentSpec"]["executors"]
    of_platform = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    retried = set(_retried(spec))
    return {
        name.removeprefix("exec-"): _pod(one["container"], of_platform[name], injected or {}, name in retried)
        for name, one in executors.items()
        if "container" in one
    }


def _retried(spec: Body) -> list[str]:
    dags = [one["dag"] for one in (spec["root"], *spec["components"].values()) if "dag" in one]
    tasks = [task for dag in dags for task in dag["tasks"].values() if "retryPolicy" in task]
    return [spec["components"][task["componentRef"]["name"]].get("executorLabel", "") for task in tasks]


def _pod(container: Body, platform: Body, injected: Mapping[str, Body], retried: bool) -> Body:
    volumes, mounts = _volumes(platform)
    main = {
        "name": "main",
        "image": container["image"],
        "env": _variables(container, platform, injected, retried),
        "volumeMounts": mounts,
        "securityContext": {**NO_RIGHTS, **platform.get("securityContext", {})},
        "imagePullPolicy": platform.get("imagePullPolicy", "IfNotPresent"),
    }
    own = [{"name": name, "securityContext": SYSTEM} for name in ("init", "kfp-launcher")]
    return {
        "securityContext": {"seccompProfile": DEFAULT},
        "initContainers": own,
        "containers": [{"name": "wait", "securityContext": SYSTEM}, main],
        "volumes": volumes,
        "tolerations": platform.get("tolerations", []),
        "nodeSelector": platform.get("nodeSelector", {}).get("labels", {}),
    }


def _variables(container: Body, platform: Body, injected: Mapping[str, Body], retried: bool) -> list[Body]:
    kubeflow = ["KFP_POD_NAME", "KFP_POD_UID", *(["KFP_RETRY_INDEX"] if retried else [])]
    return [
        *({"name": name} for name in kubeflow),
        *container.get("env", []),
        *({"name": name, **source} for name, source in injected.items()),
        *({"name": one["envVar"], "valueFrom": {}} for kind in ("secretAsEnv", "configMapAsEnv")
          for source in platform.get(kind, []) for one in source["keyToEnv"]),
        *({"name": one["name"], "valueFrom": {}} for one in platform.get("fieldPathAsEnv", [])),
    ]  # fmt: skip


def _volumes(platform: Body) -> tuple[list[Body], list[Body]]:
    """Volumes merge by name, and mounts by path: what Kubernetes says of a strategic merge."""
    volumes = {name: {"emptyDir": {}} for name in FOLDERS}
    mounts = {path: name for name, path in FOLDERS.items()}
    for claim in platform.get("pvcMount", []):
        volumes[claim["constant"]] = {"persistentVolumeClaim": {"claimName": claim["constant"]}}
        mounts[claim["mountPath"]] = claim["constant"]
    for made in platform.get("genericEphemeralVolume", []):
        volumes[made["volumeName"]] = {"ephemeral": {"size": made["size"]}}
        mounts[made["mountPath"]] = made["volumeName"]
    for made in platform.get("emptyDirMounts", []):
        volumes[made["volumeName"]] = {"emptyDir": {"medium": made.get("medium", "")}}
        mounts[made["mountPath"]] = made["volumeName"]
    return (
        [{"name": name, **source} for name, source in volumes.items()],
        [{"name": name, "mountPath": path} for path, name in mounts.items()],
    )
