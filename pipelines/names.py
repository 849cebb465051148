"""What Kubernetes takes: names, labels, quantities, paths. A wrong one is found here, not by a pod that never starts.

The rules are Kubernetes' own (docs/concepts/overview/working-with-objects/names and labels); cpu and memory are
narrower, as Kubeflow's SDK reads them.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, Field

LABEL = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"

Cpu = Annotated[str, Field(pattern=r"^([0-9]*\.)?[0-9]+m?$")]
"""`4`, `0.5`, `500m`."""
Memory = Annotated[str, Field(pattern=r"^[0-9]+([EPTGMK]i?)?$")]
"""`512Gi`; a whole number."""
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?([EPTGMk]i?|m)?$")]
"""Of a volume: `64Gi`, `1.5Ti`."""
ClaimName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
"""No dot, and at most 63 letters: Kubeflow names the volume after the claim (backend/src/v2/driver/k8s.go)."""
ObjectName = Annotated[str, Field(pattern=rf"^{SUBDOMAIN}$", max_length=253)]
"""Of a Secret, a storage class, a runtime."""
SecretKey = Annotated[str, Field(pattern=r"^[-._A-Za-z0-9]+$", max_length=253)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Key = Annotated[str, Field(pattern=rf"^({SUBDOMAIN}/)?{LABEL}$", max_length=317)]
"""Of a label, an annotation, a taint or a resource: `kueue.x-k8s.io/queue-name`."""
LabelValue = Annotated[str, Field(pattern=rf"^({LABEL})?$")]
MountPath = Annotated[str, Field(pattern=r"^/[^:]*$")]

OURS = re.compile(
    r"^(DRIFT_(?!VLMEVALKIT|SPOOL)|KFP_)|^MLFLOW_(TRACKING_URI|TRACKING_AUTH|RUN_ID|EXPERIMENT_ID|WORKSPACE)$"
)
"""Variables that Kubeflow, its MLflow plugin and these pipelines give a pod themselves."""
SECRET = re.compile(r"(^|_)(API)?(TOKENS?|KEYS?|PASSWORD|PASSWD|PWD|PASSPHRASE|SECRETS?)(_|$)", re.IGNORECASE)
WITH_PASSWORD = re.compile(r"://[^/@\s]+:[^/@\s]+@")
UNITS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}


def free(variable: str) -> str:
    """A variable that a profile may give. Raises ValueError for one that a pod gets anyway."""
    if OURS.search(variable):
        raise ValueError(f"the variable {variable} is the pipeline's own, or Kubeflow's; take another name")
    return variable


def no_secret(variables: dict[str, str]) -> dict[str, str]:
    """Values that may stand in a file and in the compiled pipeline. Raises ValueError for what looks like a secret."""
    for name, value in variables.items():
        if SECRET.search(name) or WITH_PASSWORD.search(value):
            raise ValueError(
                f"{name} looks like a secret, and a compiled pipeline shows its values to everyone; "
                f"put it into a Secret of the namespace: secrets: [{{name: ..., env: {{key: {name}}}}}]"
            )
    return variables


OwnVariable = Annotated[Variable, AfterValidator(free)]
Values = Annotated[dict[OwnVariable, str], AfterValidator(no_secret)]


def amount(quantity: str) -> Decimal:
    """A quantity as a number: `1Ki` is 1024, `500m` is 0.5."""
    number, unit = re.fullmatch(r"([0-9.]+)(.*)", quantity).groups()  # type: ignore[union-attr]
    if unit == "m":
        return Decimal(number) / 1000
    base = 1024 if unit.endswith("i") else 1000
    return Decimal(number) * base ** UNITS[unit.removesuffix("i")]
