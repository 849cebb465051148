"""The step `arm` of a profile with several nodes, or with a claim that outlives its pod.

Its own pod then gets no GPU, no queue and no deadline: it creates one TrainJob and watches it. What the nodes get is
told it in variables, made here once, when the pipeline is compiled. Kubeflow's TaskConfig would not do: what a
component passes on by it no longer reaches its own pod, which one node's training needs, and labels, shared memory and
pull secrets are not in it (backend/src/v2/driver/driver.go, getTaskConfigOptions). Without the variables, as on this
machine, the step trains in place.
"""

from __future__ import annotations

from typing import Any

from kfp import dsl, kubernetes

from components._images import image
from drift.config.nodes import NODES, SHARED, Mount, Nodes, SecretKey
from drift.config.section import to_json

STEP, LAST = "arm", "finalize"
KUEUE = "kueue.x-k8s.io/"
WATCHES = {
    "cpu": "4",
    "cpu_request": "1",
    "memory": "16Gi",
    "memory_request": "4Gi",
    "gpus": 0,
    "shm": None,
    "tolerations": (),
    "node_selector": {},
    "node_affinity": (),
    "timeout_seconds": None,
}
"""Of the pod that watches: it hashes and copies what is trained on, merges, and compares weights, tensor by tensor."""
FIELDS = {"DRIFT_NAMESPACE": "metadata.namespace", "DRIFT_SERVICE_ACCOUNT": "spec.serviceAccountName"}


def several(task: dsl.PipelineTask, placement: Any, resources: Any) -> Any:
    """What the task's own pod gets of its placement; the task has the variables that `drift.training` reads.

    ``placement``, ``resources``: of `pipelines.placement`, which calls this. Without `shared` nothing changes.
    """
    if task.name == LAST and resources.of(STEP).nodes > 1:
        _told(task, resources)
    if resources.shared is None or task.name != STEP:
        return placement
    task.set_env_variable(SHARED, resources.shared.path)
    if all(volume.path != resources.shared.path for volume in placement.volumes):
        kubernetes.mount_pvc(task, resources.shared.claim, resources.shared.path)
    if placement.nodes == 1:
        return placement
    _told(task, resources)
    labels = {key: value for key, value in placement.labels.items() if not key.startswith(KUEUE)}
    return placement.model_copy(update={**WATCHES, "labels": labels})


def _told(task: dsl.PipelineTask, resources: Any) -> None:
    """Give a task what it needs to know of the nodes: to start them, or to end those that are left."""
    task.set_env_variable(NODES, to_json(nodes_of(resources.of(STEP), resources)))
    for variable, field in FIELDS.items():
        kubernetes.use_field_path_as_env(task, env_name=variable, field_path=field)


def nodes_of(placement: Any, resources: Any) -> Nodes:
    """The machines of the training that a placement describes."""
    queue = {key: value for key, value in placement.labels.items() if key.startswith(KUEUE)}
    labels = {key: value for key, value in placement.labels.items() if key not in queue}
    shared = Mount(claim=resources.shared.claim, path=resources.shared.path)
    volumes = [Mount(claim=one.claim, path=one.path, sub_path=one.sub_path) for one in placement.volumes]
    limits = {"cpu": placement.cpu, "memory": placement.memory, placement.gpu_resource: str(placement.gpus)}
    requests = {**limits, "cpu": placement.cpu_request or placement.cpu}
    requests["memory"] = placement.memory_request or placement.memory
    secrets = [(name, key, secret.name) for secret in placement.secrets for key, name in secret.env.items()]
    return Nodes(
        nodes=placement.nodes,
        gpus=placement.gpus,
        image=image(STEP),
        runtime=resources.runtime,
        mounts=(shared, *(volume for volume in volumes if volume.path != shared.path)),
        requests={name: value for name, value in requests.items() if value},
        limits={name: value for name, value in limits.items() if value},
        environment=dict(placement.env),
        secrets=tuple(SecretKey(variable=name, secret=secret, key=key) for name, key, secret in secrets),
        shm=placement.shm,
        tolerations=tuple(one.model_dump(mode="json", exclude_none=True) for one in placement.tolerations),
        node_selector=dict(placement.node_selector),
        affinity=_affinity(placement.node_affinity),
        labels={"sidecar.istio.io/inject": "false", **labels},
        queue=queue,
        annotations=dict(placement.annotations),
        pull_secrets=resources.pull_secrets,
        run_as_user=placement.run_as_user,
        timeout_seconds=placement.timeout_seconds,
    )


def _affinity(wanted: Any) -> dict[str, Any]:
    """As a pod's specification has it."""
    terms = [(one.weight, {"matchExpressions": [_expression(match) for match in one.match]}) for one in wanted]
    must = [term for weight, term in terms if weight is None]
    may = [{"weight": weight, "preference": term} for weight, term in terms if weight is not None]
    node: dict[str, Any] = {}
    if must:
        node["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": must}
    if may:
        node["preferredDuringSchedulingIgnoredDuringExecution"] = may
    return {"nodeAffinity": node} if node else {}


def _expression(match: Any) -> dict[str, Any]:
    expression: dict[str, Any] = {"key": match.key, "operator": match.operator}
    return {**expression, "values": list(match.values)} if match.values else expression
