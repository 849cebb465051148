"""Training on several nodes: what their pods get, told to the pod that starts them in one variable.

Written when a pipeline is compiled, from the resources profile; read by `drift.training.nodes.trainjob`.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from drift.config.section import Count, Section
from drift.ground.errors import ConfigError

NODES = "DRIFT_NODES"
"""Variable: `Nodes` as JSON."""
SHARED = "DRIFT_SHARED"
"""Variable: where a pod sees the claim that trainings outlive it on."""


class Mount(Section):
    """A claim, and where each node sees it."""

    claim: str
    path: str
    sub_path: str = ""


class SecretKey(Section):
    """A variable of each node with the value of a secret's key."""

    variable: str
    secret: str
    key: str


class Nodes(Section):
    """The machines of one training, all alike."""

    nodes: int = Field(ge=2)
    """Kubeflow Trainer takes 0, runs nothing and calls it complete."""
    gpus: Count
    """Of each node; as many ranks."""
    image: str
    runtime: str
    """The namespace's TrainingRuntime."""
    mounts: tuple[Mount, ...] = Field(min_length=1)
    """The shared claim first."""
    requests: dict[str, str] = Field(default_factory=dict)
    limits: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    secrets: tuple[SecretKey, ...] = ()
    shm: str | None = None
    tolerations: tuple[dict[str, Any], ...] = ()
    node_selector: dict[str, str] = Field(default_factory=dict)
    affinity: dict[str, Any] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    """Of each node's pod."""
    queue: dict[str, str] = Field(default_factory=dict)
    """Kueue's labels, which the TrainJob has, so that its nodes are admitted together."""
    annotations: dict[str, str] = Field(default_factory=dict)
    pull_secrets: tuple[str, ...] = ()
    run_as_user: Count | None = None
    timeout_seconds: Count | None = None
    """Of the training, without what it waits for quota."""

    @model_validator(mode="after")
    def _no_name_of_torch(self) -> Self:
        names = [*self.environment, *(secret.variable for secret in self.secrets)]
        if reserved := [name for name in names if name.startswith("PET_")]:
            raise ValueError(f"environment: {reserved[0]} is Trainer's own; leave it out")
        return self

    def ranks(self, asked: int | None) -> int:
        """Ranks in all: one per GPU. Raises ConfigError if `train.processes` asks for another number."""
        ranks = self.nodes * self.gpus
        if asked not in (None, ranks):
            raise ConfigError(f"train.processes is {asked}, but {self.nodes} nodes of {self.gpus} GPUs have {ranks}")
        return ranks
