"""What a step's pod gets on a cluster: GPUs, memory, volumes, secrets, where it may run, how long and how often.

Read at compile time from a file (`configs/resources/`): most of it cannot be an argument of a Kubeflow pipeline. A
secret is named here and stays in the cluster; its value is in no file of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from kfp import dsl, kubernetes
from omegaconf import OmegaConf
from pydantic import Field, model_validator

from components._images import IMAGES, role
from drift.config.file import read_yaml
from drift.config.plan import MODULES
from drift.config.section import Section, suggest, validate
from pipelines.names import (
    ClaimName,
    Cpu,
    Key,
    LabelValue,
    Memory,
    MountPath,
    ObjectName,
    OwnVariable,
    Quantity,
    SecretKey,
    Values,
    amount,
)
from pipelines.nodes import several

TRAINED = "arm"
"""The one step that can run on several nodes."""
ARTIFACTS = ("/gcs", "/minio", "/s3")
"""Where Kubeflow keeps what a step reads and writes (backend/src/v2/compiler/argocompiler/container.go)."""
DAY = 86400
SCRATCH = "drift-scratch"
QUEUE, ENDLESS = 7 * DAY, 30 * DAY
"""Seconds that a profile's retries leave a step to wait for room, and to work where it has no timeout."""


class Toleration(Section):
    """A taint that the step's pod does not mind."""

    key: Key | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoExecute", "NoSchedule", "PreferNoSchedule"] | None = None

    @model_validator(mode="after")
    def _says_what(self) -> Self:
        if self.operator == "Exists" and self.value:
            raise ValueError("operator Exists takes no value; remove it")
        if self.operator == "Equal" and not self.key:
            raise ValueError("operator Equal needs a key; set one, or operator: Exists for every taint")
        return self


class Requirement(Section):
    """What a node's label must be."""

    key: Key
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = "In"
    values: tuple[LabelValue, ...] = ()

    @model_validator(mode="after")
    def _values_fit(self) -> Self:
        needed = {"Exists": 0, "DoesNotExist": 0, "Gt": 1, "Lt": 1}.get(self.operator)
        if needed is None and not self.values:
            raise ValueError(f"operator {self.operator} needs values; name some")
        if needed is not None and len(self.values) != needed:
            raise ValueError(f"operator {self.operator} takes {needed or 'no'} values, not {len(self.values)}")
        return self


class Affinity(Section):
    """Nodes that a step's pod may run on, or with a weight, those it prefers. Of several without, one must fit."""

    match: tuple[Requirement, ...] = Field(min_length=1)
    """All of these."""
    weight: int | None = Field(None, ge=1, le=100)


class Volume(Section):
    """A PersistentVolumeClaim of the namespace, and where the step sees it."""

    claim: ClaimName
    path: MountPath
    sub_path: str = Field("", pattern="^([^/].*)?$")


class Shared(Section):
    """A claim that pods on several nodes write at once (ReadWriteMany), and where they see it."""

    claim: ClaimName
    path: MountPath


class Scratch(Section):
    """A volume that is made for one pod and deleted with it, in place of the node's own disk."""

    size: Quantity
    storage_class: ObjectName | None = None
    """Of the cluster's default if not set."""
    paths: tuple[MountPath, ...] = Field(ARTIFACTS, min_length=1)
    """By default where Kubeflow keeps a step's artifacts. The steps' user must be able to write there."""


class Secret(Section):
    """Keys of a Secret of the namespace as environment variables of the step."""

    name: ObjectName
    env: dict[SecretKey, OwnVariable] = Field(min_length=1)
    """Variable by key of the Secret: `{token: HF_TOKEN}`."""


class Placement(Section):
    """What the pod of a step gets."""

    cpu: Cpu | None = None
    """The limit, and the request unless `cpu_request` says less."""
    memory: Memory | None = None
    """The limit, and the request unless `memory_request` says less: such a pod is the first to be evicted."""
    cpu_request: Cpu | None = None
    memory_request: Memory | None = None
    gpus: int = Field(0, ge=0)
    """Of one pod: with `nodes`, of each node."""
    nodes: int = Field(1, ge=1)
    """Machines of a training, the role `train` alone; more than one need `shared`."""
    gpu_resource: Key = "nvidia.com/gpu"
    shm: Quantity | None = None
    """Size of /dev/shm, in memory; ranks that share a machine need more than Docker's 64 MB."""
    volumes: tuple[Volume, ...] = ()
    scratch: Scratch | None = None
    secrets: tuple[Secret, ...] = ()
    env: Values = Field(default_factory=dict)
    """Values that may be read by anyone: `{NCCL_DEBUG: INFO}`. What must not, is a Secret."""
    tolerations: tuple[Toleration, ...] = ()
    node_selector: dict[Key, LabelValue] = Field(default_factory=dict)
    node_affinity: tuple[Affinity, ...] = ()
    labels: dict[Key, LabelValue] = Field(default_factory=dict)
    """Such as `kueue.x-k8s.io/queue-name` and `kueue.x-k8s.io/priority-class`."""
    annotations: dict[Key, str] = Field(default_factory=dict)
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    run_as_non_root: bool = True
    """The pod says so, which a namespace with Pod Security `restricted` asks for; our images' user is 10001."""
    run_as_user: int | None = Field(None, ge=1)
    timeout_seconds: int | None = Field(None, ge=1)
    """Of a pod, from its start."""
    retries: int = Field(0, ge=0)
    """How often a step whose pod is lost begins anew. A step that fails is not repeated by it."""
    retry_wait_seconds: int = Field(60, ge=0)

    @model_validator(mode="after")
    def _requests_fit(self) -> Self:
        for name, limit, request in (
            ("cpu", self.cpu, self.cpu_request),
            ("memory", self.memory, self.memory_request),
        ):
            if limit and request and amount(request) > amount(limit):
                raise ValueError(f"{name}_request: {request} is more than the limit {name}: {limit}; lower it")
        return self

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        variables = [*self.env, *(name for secret in self.secrets for name in secret.env.values())]
        paths = [*(volume.path for volume in self.volumes), *(self.scratch.paths if self.scratch else ())]
        for what, names in (("variable", variables), ("path", paths)):
            if twice := [name for place, name in enumerate(names) if name in names[:place]]:
                raise ValueError(f"the {what} {twice[0]} is given twice; remove one")
        return self


class Resources(Section):
    """A cluster: what each image's steps get, and what single steps get instead."""

    roles: dict[str, Placement] = Field(default_factory=dict)
    """`pipeline`, `train`, `evaluate`."""
    steps: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Keys that a single step has otherwise than its role: `generate: {gpus: 0}`."""
    pull_secrets: tuple[ObjectName, ...] = ()
    shared: Shared | None = None
    """Where the nodes of a training on several meet."""
    runtime: ObjectName = "drift-torch"
    """The namespace's TrainingRuntime that a training on several nodes runs by."""

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for what, names, known in (("roles", self.roles, IMAGES), ("steps", self.steps, MODULES)):
            for name in names:
                if name not in known:
                    raise ValueError(f"{what}.{name}: no such {what.removesuffix('s')}{suggest(name, known)}")
        for step in MODULES:
            self._may_have_nodes(step, self.of(step))
        return self

    def _may_have_nodes(self, step: str, placement: Placement) -> None:
        if placement.nodes == 1:
            return
        key = f"steps.{step}.nodes" if "nodes" in self.steps.get(step, {}) else f"roles.{role(step)}.nodes"
        if step != TRAINED:
            raise ValueError(f"{key}: only a training runs on several nodes; give it to roles.train")
        if not placement.gpus:
            raise ValueError(f"{key}: a training on {placement.nodes} nodes without a GPU; set gpus, of each node")
        if not self.shared:
            raise ValueError(f"{key}: {placement.nodes} nodes meet on a claim; set shared: {{claim: ..., path: ...}}")

    def of(self, step: str) -> Placement:
        """What a step gets: its role's, and its own in place of it."""
        common = self.roles.get(role(step), Placement()).model_dump(mode="json", exclude_unset=True)
        return validate(Placement, {**common, **self.steps.get(step, {})}, where=f"steps.{step}")


NOTHING = Resources()
"""Every step gets what the cluster gives by default."""


def read_resources(path: Path | None) -> Resources:
    """The file, checked; `NOTHING` without one. Raises ConfigError."""
    return validate(Resources, OmegaConf.to_container(read_yaml(path)), where=str(path)) if path else NOTHING


def without_gpus(resources: Resources, steps: Iterable[str]) -> Resources:
    """The same cluster, where these steps get no GPU."""
    none = {step: {**resources.steps.get(step, {}), "gpus": 0} for step in steps}
    return resources.model_copy(update={"steps": {**resources.steps, **none}})


def gpus_of(resources: Resources) -> dict[str, int]:
    """GPUs of training and evaluation, of all nodes, by step."""
    placements = {step: resources.of(step) for step in (TRAINED, "evaluate_arm", "answer_arm")}
    return {step: placement.gpus * placement.nodes for step, placement in placements.items()}


def place(task: dsl.PipelineTask, resources: Resources) -> dsl.PipelineTask:
    """Give a task's pod what its step is due."""
    step = task.name.replace("-", "_")
    placement = several(task, resources.of(step), resources)
    for apply in (_size, _storage, _variables, _scheduling, _security, _patience):
        apply(task, placement)
    if resources.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(resources.pull_secrets))
    return task


def _size(task: dsl.PipelineTask, placement: Placement) -> None:
    for value, request, set_request, set_limit in (
        (placement.cpu, placement.cpu_request, task.set_cpu_request, task.set_cpu_limit),
        (placement.memory, placement.memory_request, task.set_memory_request, task.set_memory_limit),
    ):
        if asked := request or value:
            set_request(asked)
        if value:
            set_limit(value)
    if placement.gpus:
        task.set_accelerator_type(placement.gpu_resource).set_accelerator_limit(placement.gpus)


def _storage(task: dsl.PipelineTask, placement: Placement) -> None:
    if placement.shm:
        kubernetes.empty_dir_mount(task, "dshm", "/dev/shm", medium="Memory", size_limit=placement.shm)
    for volume in placement.volumes:
        kubernetes.mount_pvc(task, volume.claim, volume.path, volume.sub_path)
    if scratch := placement.scratch:
        for path in scratch.paths:  # a mount of ours at a path takes the place of Kubeflow's own
            kubernetes.add_ephemeral_volume(task, SCRATCH, path, ["ReadWriteOnce"], scratch.size, scratch.storage_class)


def _variables(task: dsl.PipelineTask, placement: Placement) -> None:
    for secret in placement.secrets:
        kubernetes.use_secret_as_env(task, secret.name, dict(secret.env))
    for name, value in placement.env.items():
        task.set_env_variable(name, value)


def _scheduling(task: dsl.PipelineTask, placement: Placement) -> None:
    for taint in placement.tolerations:
        kubernetes.add_toleration(task, taint.key, taint.operator, taint.value, taint.effect)
    for affinity in placement.node_affinity:
        match = [one.model_dump(mode="json") for one in affinity.match]
        kubernetes.add_node_affinity(task, match, weight=affinity.weight)
    for add, entries in (
        (kubernetes.add_node_selector, placement.node_selector),
        (kubernetes.add_pod_label, placement.labels),
        (kubernetes.add_pod_annotation, placement.annotations),
    ):
        for key, value in entries.items():
            add(task, key, value)


def _security(task: dsl.PipelineTask, placement: Placement) -> None:
    """The rest that `restricted` asks for Kubeflow sets itself (argocompiler/security_context.go)."""
    if placement.run_as_non_root or placement.run_as_user:
        kubernetes.set_security_context(
            task, run_as_user=placement.run_as_user, run_as_non_root=placement.run_as_non_root or None
        )
    if placement.image_pull_policy:
        kubernetes.set_image_pull_policy(task, placement.image_pull_policy)


def _patience(task: dsl.PipelineTask, placement: Placement) -> None:
    if placement.timeout_seconds:
        kubernetes.set_timeout(task, placement.timeout_seconds)
    if placement.retries:
        wait = f"{placement.retry_wait_seconds}s"
        task.set_retry(placement.retries, wait, backoff_factor=1.0, backoff_max_duration=f"{window(placement)}s")


def window(placement: Placement) -> int:
    """Seconds from a step's first start in which it may be started again, as long as all its attempts can take.

    Argo counts them from the first attempt, its waiting for a node included, and ends a later attempt at that moment
    (workflow/controller/operator.go); Kubeflow's SDK says one hour unless told.
    """
    attempts = placement.retries + 1
    return ((placement.timeout_seconds or ENDLESS) + placement.retry_wait_seconds) * attempts + QUEUE
