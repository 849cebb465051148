"""The pipeline as one YAML file for a Kubeflow Pipelines cluster: same configuration, same bytes."""

from __future__ import annotations

from pathlib import Path

import yaml
from kfp import compiler

from components import component
from drift.config.chain import Config
from drift.config.plan import MODULES, plan
from drift.ground.artifacts import staged
from drift.ground.errors import PipelineError
from pipelines.check import check_spec
from pipelines.drift_sft import pipeline
from pipelines.placement import NOTHING, Resources

SUFFIXES = {".yaml", ".yml"}


def compile_pipeline(config: Config, out: Path, resources: Resources = NOTHING, *, caching: bool = True) -> None:
    """Write the pipeline with the configuration as its default arguments to the file ``out``, and check it strictly.

    Without `caching` no step comes from Kubeflow's cache.

    The images are what DRIFT_IMAGE_PIPELINE, DRIFT_IMAGE_TRAIN and DRIFT_IMAGE_EVALUATE name; their digest stands
    for the version of the code. Raises PipelineError if the result would not run, or ``out`` cannot be written.
    """
    if out.suffix not in SUFFIXES:
        raise PipelineError(f"{out}: the compiled pipeline is YAML; give a name that ends in .yaml")
    aside = out.with_name(f".{out.stem}.partial{out.suffix}")
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
        arguments = plan(config, local=False).arguments()
        compiler.Compiler().compile(pipeline(resources, caching=caching), str(aside), pipeline_parameters=arguments)
        check_file(aside)
        aside.replace(out)
    except OSError as error:
        raise PipelineError(f"{out}: cannot be written ({error.strerror})") from error
    finally:
        aside.unlink(missing_ok=True)


def compile_components(folder: Path) -> list[Path]:
    """Write each step as a component of its own, for other teams' pipelines, into the new folder; the files.

    Raises DataError if the folder holds something already.
    """
    with staged(folder) as aside:
        for step in MODULES:
            compiler.Compiler().compile(component(step), str(aside / f"{step}.yaml"))
    return sorted(folder.iterdir())


def check_file(path: Path) -> None:
    """Check a compiled pipeline strictly. Raises PipelineError."""
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    check_spec(documents[0], documents[1] if len(documents) > 1 else None)
