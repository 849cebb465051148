"""The TrainJob of Kubeflow Trainer that a training on several nodes is: its name and its specification."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from drift.config.nodes import Nodes
from drift.training.nodes.node import TERMINATION

Body = dict[str, Any]

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
RUN = "drift.io/run"
"""Label: the pipeline run's id."""
SPEC = "drift.io/spec"
"""Annotation: SHA-256 of the specification, so that a new pod knows whether a TrainJob is the one it would create."""
CONTAINER = "node"
"""The trainer's container and its job, as Trainer's runtimes name both."""
SHORT = 8
LONGEST = 63 - len("-node-0-0-000-00000")
"""A TrainJob's name is the beginning of its pods' names, which are labels of the DNS."""


def job_name(run: str, arm: str, sha256: str) -> str:
    """`drift-<run>-<arm>-<sha256>`, as a label of the DNS; the same training of the same run has the same name."""
    head, tail = f"drift-{run[:SHORT]}-", f"-{sha256[:SHORT]}"
    name = f"{head}{arm[: LONGEST - len(head) - len(tail)]}{tail}".lower()
    return re.sub(r"[^a-z0-9]+", "-", name)


def manifest(nodes: Nodes, name: str, job: Path, *, run: str) -> Body:
    """The TrainJob, whole, owned by this pod where it knows itself.

    What Trainer lets nobody patch (restarts, restart policy) is in its runtime, configs/kubeflow/runtime.yaml. The
    variables PET_* are Trainer's own.
    """
    trainer = {
        "image": nodes.image,
        "command": ["python3", "-m", "drift.training.nodes.node", "--job", str(job)],
        "numNodes": nodes.nodes,
        "numProcPerNode": nodes.gpus,
        "resourcesPerNode": _filled(requests=nodes.requests, limits=nodes.limits),
        "env": _environment(nodes),
    }
    spec = {
        "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": nodes.runtime},
        "trainer": trainer,
        "runtimePatches": [_patch(nodes)],
        **_filled(activeDeadlineSeconds=nodes.timeout_seconds),
    }
    labels = {RUN: label(run), **nodes.queue}
    annotations = {SPEC: hashlib.sha256(json.dumps([spec, labels], sort_keys=True).encode()).hexdigest()}
    metadata = {"name": name, "labels": labels, "annotations": annotations, **_filled(ownerReferences=owners())}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "TrainJob", "metadata": metadata, "spec": spec}


def owners() -> list[Body]:
    """This pod, by the variables that Kubeflow gives it: whoever deletes it deletes what it owns."""
    name, uid = (os.environ.get(f"KFP_POD_{what}") for what in ("NAME", "UID"))
    return [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}] if name and uid else []


def _patch(nodes: Nodes) -> Body:
    """What each node's pod gets beside its container."""
    volumes, mounts = _volumes(nodes)
    pod = _filled(
        serviceAccountName=os.environ.get("DRIFT_SERVICE_ACCOUNT"),
        securityContext=_filled(runAsUser=nodes.run_as_user),
        imagePullSecrets=[{"name": name} for name in nodes.pull_secrets],
        tolerations=list(nodes.tolerations),
        nodeSelector=nodes.node_selector,
        affinity=nodes.affinity,
        volumes=volumes,
        containers=[{"name": CONTAINER, "volumeMounts": mounts}],
    )
    template = {**_filled(metadata=_filled(labels=nodes.labels, annotations=nodes.annotations)), "spec": pod}
    job = {"name": CONTAINER, "template": {"spec": {"template": template}}}
    return {"manager": "drift.io/arm", "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}}}


def _volumes(nodes: Nodes) -> tuple[list[Body], list[Body]]:
    """A volume a mount, even of one claim, since a patch knows a mount by its volume; and memory for a node's ranks."""
    volumes: list[Body] = []
    mounts: list[Body] = []
    for place, mount in enumerate(nodes.mounts):
        name = f"claim-{place}"
        volumes.append({"name": name, "persistentVolumeClaim": {"claimName": mount.claim}})
        mounts.append({"name": name, "mountPath": mount.path, **_filled(subPath=mount.sub_path)})
    if nodes.shm:
        volumes.append({"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": nodes.shm}})
        mounts.append({"name": "dshm", "mountPath": "/dev/shm"})
    return volumes, mounts


def _environment(nodes: Nodes) -> list[Body]:
    plain = {TERMINATION: "/dev/termination-log", **nodes.environment}
    secret = {one.variable: {"secretKeyRef": {"name": one.secret, "key": one.key}} for one in nodes.secrets}
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        *({"name": name, "valueFrom": source} for name, source in secret.items()),
    ]


def _filled(**fields: Any) -> Body:
    """The fields that are set."""
    return {name: value for name, value in fields.items() if value}


def label(text: str) -> str:
    """A text as the value of a label."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:63].strip("-_.")
