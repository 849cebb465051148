"""What a step's pod gets on a cluster: GPUs, memory, volumes, secrets, where it may run, how long and how often.

Read at compile time from a file (`configs/resources/`): most of it cannot be an argument of a Kubeflow pipeline. A
secret is named here and stays in the cluster; its value is in no file of ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from kfp import dsl, kubernetes
from omegaconf import OmegaConf
from pydantic import Field, model_validator

from components._images import IMAGES, role
from drift.config.file import read_yaml
from drift.config.plan import MODULES
from drift.config.section import Section, suggest, validate

Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?([EPTGMk]i?|m)?$")]
"""As Kubernetes writes it: `500m`, `4`, `64Gi`."""
ClaimName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
"""Kubeflow mounts a claim as a volume of its name, and a volume's name has no dot (backend/src/v2/driver/k8s.go)."""
TRAINED = "arm"
"""The one step that can run on several nodes."""


class Toleration(Section):
    """A taint that the step's pod does not mind."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoExecute", "NoSchedule", "PreferNoSchedule"] | None = None


class Volume(Section):
    """A PersistentVolumeClaim of the namespace, and where the step sees it."""

    claim: ClaimName
    path: str = Field(pattern="^/")
    sub_path: str = ""


class Shared(Section):
    """A claim that pods on several nodes write at once (ReadWriteMany), and where they see it."""

    claim: ClaimName
    path: str = Field(pattern="^/")


class Secret(Section):
    """Keys of a Secret of the namespace as environment variables of the step."""

    name: str
    env: dict[str, str] = Field(min_length=1)
    """Variable by key of the Secret: `{token: HF_TOKEN}`."""


class Placement(Section):
    """What the pod of a step gets. Limits are requests too: a training step that is evicted begins anew."""

    cpu: Quantity | None = None
    memory: Quantity | None = None
    gpus: int = Field(0, ge=0)
    """Of one pod: with `nodes`, of each node."""
    nodes: int = Field(1, ge=1)
    """Machines of a training, the role `train` alone; more than one need `shared`."""
    gpu_resource: str = "nvidia.com/gpu"
    shm: Quantity | None = None
    """Size of /dev/shm, in memory; ranks that share a machine need more than Docker's 64 MB."""
    volumes: tuple[Volume, ...] = ()
    secrets: tuple[Secret, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    node_selector: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    """Such as `kueue.x-k8s.io/queue-name`, or `sidecar.istio.io/inject: "false"`."""
    annotations: dict[str, str] = Field(default_factory=dict)
    timeout_seconds: int | None = Field(None, ge=1)
    retries: int = Field(0, ge=0)
    retry_wait_seconds: int = Field(60, ge=0)


class Resources(Section):
    """A cluster: what each image's steps get, and what single steps get instead."""

    roles: dict[str, Placement] = Field(default_factory=dict)
    """`pipeline`, `train`, `evaluate`."""
    steps: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Keys that a single step has otherwise than its role: `generate: {gpus: 0}`."""
    pull_secrets: tuple[str, ...] = ()
    shared: Shared | None = None
    """Where the nodes of a training on several meet."""
    runtime: str = Field("drift-torch", pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")
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


def gpus_of(resources: Resources) -> dict[str, int]:
    """GPUs of the pods of training and evaluation, by step."""
    return {step: resources.of(step).gpus for step in ("arm", "evaluate_arm")}


def place(task: dsl.PipelineTask, resources: Resources) -> dsl.PipelineTask:
    """Give a task's pod what its step is due."""
    step = task.name.replace("-", "_")
    placement = resources.of(step)
    for apply in (_size, _storage, _scheduling, _patience):
        apply(task, placement)
    if resources.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(resources.pull_secrets))
    return task


def _size(task: dsl.PipelineTask, placement: Placement) -> None:
    if placement.cpu:
        task.set_cpu_request(placement.cpu).set_cpu_limit(placement.cpu)
    if placement.memory:
        task.set_memory_request(placement.memory).set_memory_limit(placement.memory)
    if placement.gpus:
        task.set_accelerator_type(placement.gpu_resource).set_accelerator_limit(placement.gpus)


def _storage(task: dsl.PipelineTask, placement: Placement) -> None:
    if placement.shm:
        kubernetes.empty_dir_mount(task, "dshm", "/dev/shm", medium="Memory", size_limit=placement.shm)
    for volume in placement.volumes:
        kubernetes.mount_pvc(task, volume.claim, volume.path, volume.sub_path)
    for secret in placement.secrets:
        kubernetes.use_secret_as_env(task, secret.name, dict(secret.env))


def _scheduling(task: dsl.PipelineTask, placement: Placement) -> None:
    for taint in placement.tolerations:
        kubernetes.add_toleration(task, taint.key, taint.operator, taint.value, taint.effect)
    for add, entries in (
        (kubernetes.add_node_selector, placement.node_selector),
        (kubernetes.add_pod_label, placement.labels),
        (kubernetes.add_pod_annotation, placement.annotations),
    ):
        for key, value in entries.items():
            add(task, key, value)


def _patience(task: dsl.PipelineTask, placement: Placement) -> None:
    if placement.timeout_seconds:
        kubernetes.set_timeout(task, placement.timeout_seconds)
    if placement.retries:
        task.set_retry(placement.retries, f"{placement.retry_wait_seconds}s")
