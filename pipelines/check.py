"""What a compiled pipeline must satisfy: Kubeflow's schema, whole references, and nothing a local run does silently.

`require_honest` closes three traps of Kubeflow's local runner, which reports success in all: a condition on a named
output is taken for false, and another task's parameter inside a loop is replaced by the loop's item, as is the item of
a loop around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from drift.ground.errors import PipelineError

Spec = Mapping[str, Any]

ITEM = "-loop-item"
"""The end of an item's name, of a loop over a parameter."""

_IN_CONDITION = re.compile(r"inputs\.parameter_values\['([^']+)'\]")


def check_spec(spec: Spec, platform: Spec | None) -> None:
    """Everything of this module. Raises PipelineError."""
    require_valid(spec, platform)
    require_honest(spec)


def require_honest(spec: Spec) -> None:
    """Raise PipelineError, naming the task, where Kubeflow's local runner would be silently wrong."""
    for dag_name, dag in dags(spec):
        for name, task in dag["tasks"].items():
            _require_resolvable_condition(f"{dag_name}/{name}", task)
            _require_own_parameters(f"{dag_name}/{name}", task)


def _require_resolvable_condition(where: str, task: Spec) -> None:
    condition = task.get("triggerPolicy", {}).get("condition")
    if condition is None:
        return
    named = _IN_CONDITION.findall(condition)
    wrong = [name for name in named if not name.endswith("-Output")]
    if wrong or not named:
        raise PipelineError(
            f"{where}: its condition reads {', '.join(wrong) or condition}; only a component's single unnamed return "
            "value (Output) is resolved in a local run, any other condition would silently be false"
        )


def _require_own_parameters(where: str, task: Spec) -> None:
    iterator = task.get("parameterIterator") or task.get("artifactIterator")
    if iterator is None:
        return
    items = iterator["items"].get("inputParameter")
    for name, source in task.get("inputs", {}).get("parameters", {}).items():
        if "taskOutputParameter" in source and name != items:
            producer = source["taskOutputParameter"]["producerTask"]
            raise PipelineError(
                f"{where}: takes the parameter {name} of task {producer} into a loop; a local run would silently "
                "replace it by the loop's item. Pass an artifact, or put the value into the item"
            )
        if name != items and source.get("componentInputParameter", "").endswith(ITEM):
            raise PipelineError(
                f"{where}: takes the item {name} of the loop around it into a loop; a local run would silently replace "
                "it by the inner loop's item. Pass an artifact"
            )


def require_valid(spec: Spec, platform: Spec | None) -> None:
    """Raise PipelineError for a field Kubeflow does not know or a reference to nothing.

    The executors are free-form in the outer schema, so each is parsed by itself: a misspelt field is found only so.
    """
    _parse("pipeline", spec, pipeline_spec_pb2.PipelineSpec())
    executors = spec["deploymentSpec"]["executors"]
    for name, executor in executors.items():
        _parse(name, executor, pipeline_spec_pb2.PipelineDeploymentConfig.ExecutorSpec())
    for name, component in spec["components"].items():
        if "executorLabel" in component and component["executorLabel"] not in executors:
            raise PipelineError(f"{name}: no executor {component['executorLabel']}")
    for name, dag in dags(spec):
        _require_references(name, dag, spec["components"])
        _require_importable(name, dag, spec)
    if platform is not None:
        _parse("platform", platform, pipeline_spec_pb2.PlatformSpec())
        for name, config in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].items():
            if name not in executors:
                raise PipelineError(f"platform: no executor {name}")
            _parse(name, config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())


def dags(spec: Spec) -> Iterator[tuple[str, Spec]]:
    """Every graph of the pipeline with its name, the root first."""
    yield "root", spec["root"]["dag"]
    for name, component in spec["components"].items():
        if "dag" in component:
            yield name, component["dag"]


def _require_references(name: str, dag: Spec, components: Spec) -> None:
    tasks = dag["tasks"]
    for task_name, task in tasks.items():
        if task["componentRef"]["name"] not in components:
            raise PipelineError(f"{name}/{task_name}: no component {task['componentRef']['name']}")
    for task_name, task in tasks.items():
        where = f"{name}/{task_name}"
        producers = {source["producerTask"] for source in _sources(task) if "producerTask" in source}
        for missing in sorted((producers | set(task.get("dependentTasks", ()))) - set(tasks)):
            raise PipelineError(f"{where}: no task {missing} in this graph")
        for source in _sources(task):
            _require_output(where, source, tasks, components)


def _require_importable(name: str, dag: Spec, spec: Spec) -> None:
    """A cluster's importer looks for its address among the inputs of the graph it stands in, and nowhere else.

    The local runner imports whatever it is given, an address too that comes from another task of the graph.
    """
    for task_name, task in dag["tasks"].items():
        label = spec["components"][task["componentRef"]["name"]].get("executorLabel")
        address = spec["deploymentSpec"]["executors"].get(label, {}).get("importer", {}).get("artifactUri", {})
        source = task.get("inputs", {}).get("parameters", {}).get(address.get("runtimeParameter"), {})
        if "runtimeParameter" in address and "componentInputParameter" not in source:
            raise PipelineError(
                f"{name}/{task_name}: imports an address from a task beside it; on a cluster it finds only an input of "
                "the graph it stands in: put the importer inside a condition on that address"
            )


def _require_output(where: str, source: Spec, tasks: Spec, components: Spec) -> None:
    kind = "artifacts" if "outputArtifactKey" in source else "parameters"
    key = source.get("outputArtifactKey") or source.get("outputParameterKey")
    if key is None:
        return
    producer = tasks[source["producerTask"]]["componentRef"]["name"]
    if key not in components[producer].get("outputDefinitions", {}).get(kind, {}):
        raise PipelineError(f"{where}: {producer} has no output {key} among its {kind}")


def _sources(task: Spec) -> Iterator[Spec]:
    """Where each input of a task comes from, the innermost mapping."""
    for kind in task.get("inputs", {}).values():
        for source in kind.values():
            yield from (inner for inner in source.values() if isinstance(inner, Mapping))


def _parse(what: str, content: Spec, message: Any) -> None:
    try:
        json_format.ParseDict(dict(content), message)
    except json_format.ParseError as error:
        raise PipelineError(f"{what}: not valid for Kubeflow Pipelines ({' '.join(str(error).split())})") from error
