"""The page of a pipeline run in MLflow: what its parent says of it, in Markdown, beside its files and numbers.

Steps tell parts of it in any order, on a cluster from many pods. Each part is a tag of the parent; the description,
which MLflow's page shows on top, is all parts in a fixed order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

from drift.tracking.runs.fields import TAG_CHARACTERS

if TYPE_CHECKING:
    from mlflow import MlflowClient

STEPS = ("gate", "report", "register")
"""Whose files are on the page too: they are about the whole run."""
DESCRIPTION = "mlflow.note.content"
PART = "drift.page."
ORDER = ("failure", "verdict", "results")
FOLDER = "drift.folder"
"""Where the run's folder is, on the machine that `drift.host` names."""


def tell(client: MlflowClient, parent: str, parts: Mapping[str, str]) -> None:
    """Set parts of the page, or take away those that are empty, and write the description anew."""
    for name, text in parts.items():
        client.set_tag(parent, PART + name, text[:TAG_CHARACTERS])
    run = client.get_run(parent)
    known = {name: run.data.tags.get(PART + name, "") for name in ORDER}
    ends = [_links(run.info.experiment_id, parent, run.data.tags), _folder(run.data.tags)]
    content = "\n\n".join(filter(None, [*known.values(), *ends]))
    client.set_tag(parent, DESCRIPTION, _cut(content))


def failure(step: str, error: str) -> dict[str, str]:
    """The part that a failed step tells."""
    return {"failure": f"**{step} failed:** {error}"}


def is_failure_of(step: str, tags: Mapping[str, str]) -> bool:
    """Whether the page, by the parent's tags, tells of a failure of this step."""
    return tags.get(f"{PART}failure", "").startswith(f"**{step} failed:**")


def configuration(step: str, arm: str, params: Mapping[str, str]) -> dict[str, str]:
    """A step's parameters as the whole run's: `arm.train.seed` of the arm `sft` is `arms.sft.train.seed`.

    On a cluster nobody has the whole configuration; the steps' sections make it up.
    """
    if step == "inputs":
        return {}  # says again what the others are given
    return {_under(name, arm) if step == "arm" else name: value for name, value in params.items()}


def _under(name: str, arm: str) -> str:
    return f"arms.{arm}.{name.partition('.')[2]}"


def _links(experiment: str, parent: str, tags: Mapping[str, str]) -> str:
    """Relative to MLflow's own page, whose address differs by who looks at it."""
    children = quote(f"tags.`mlflow.parentRunId` = '{parent}'")
    run = f"#/experiments/{experiment}/runs/{parent}"
    links = {
        "report": f"{run}/artifacts/report.html",
        "gate": f"{run}/artifacts/gate.md",
        "steps": f"#/experiments/{experiment}/runs?searchFilter={children}",
        **_registered(tags.get("drift.registered", "")),
        **({"Kubeflow": tags["kfp.pipeline_run_url"]} if "kfp.pipeline_run_url" in tags else {}),
    }
    if "drift.gate" not in tags:
        links.pop("report")
        links.pop("gate")
    return " · ".join(f"[{name}]({address})" for name, address in links.items())


def _folder(tags: Mapping[str, str]) -> str:
    """The way back to the machine that worked."""
    return f"`{tags[FOLDER]}` on {tags.get('drift.host', 'its machine')}" if FOLDER in tags else ""


def _registered(uri: str) -> dict[str, str]:
    """The version that the run gave, from its address `models:/NAME/VERSION`."""
    model, _, version = uri.removeprefix("models:/").rpartition("/")
    return {f"{model} version {version}": f"#/models/{quote(model)}/versions/{version}"} if model else {}


def _cut(text: str) -> str:
    """At a line's end, so that no table or link is torn."""
    if len(text) <= TAG_CHARACTERS:
        return text
    return text[: TAG_CHARACTERS - 20].rpartition("\n")[0] + "\n\n… (see gate.md)"
