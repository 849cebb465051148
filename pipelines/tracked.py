"""What every task of a pipeline gets on a cluster so that its MLflow run is found; without effect here."""

from kfp import dsl, kubernetes

RUN_LABEL = "metadata.labels['pipeline/runid']"
CONFIG_MAP = "drift-mlflow"
FROM_CONFIG_MAP = {
    "MLFLOW_TRACKING_URI": "DRIFT_MLFLOW_TRACKING_URI",
    "DRIFT_EXPERIMENT": "DRIFT_EXPERIMENT",
    "DRIFT_PATIENCE_SECONDS": "DRIFT_PATIENCE_SECONDS",
    "DRIFT_UPLOAD": "DRIFT_UPLOAD",
    "DRIFT_KFP_UI": "DRIFT_KFP_UI",
}
"""Key of the ConfigMap, which may be absent: variable of the pod. None is called MLFLOW_…, since Kubeflow's own plugin
may set those, and a cluster refuses a pod whose variable comes from two places. The step takes ours where it has no
other."""


def _require_container(task: dsl.PipelineTask) -> None:
    """In place of kfp's own, which asks for the source of all callers to name one of them: a tenth of a second, for
    each setting of each task."""
    if task.container_spec is None:
        raise ValueError("only a step with a container of its own can be given this")


dsl.PipelineTask._ensure_container_spec_exists = _require_container


def tracked(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """The pipeline run's id from the pod's label, MLflow's address and a step's patience from a ConfigMap.

    Neither is an argument of the task: a run id among the arguments would miss the cache every time, and an
    address there could send a pod's token to anyone.
    """
    kubernetes.use_field_path_as_env(task, env_name="DRIFT_RUN_ID", field_path=RUN_LABEL)
    task.set_env_variable("DRIFT_IMAGE", task.container_spec.image)
    kubernetes.use_config_map_as_env(task, CONFIG_MAP, dict(FROM_CONFIG_MAP), optional=True)
    return task
