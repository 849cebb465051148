"""The pipeline as one YAML file for a Kubeflow Pipelines cluster: same configuration, same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler

from components import component
from drift.config.chain import Config
from drift.config.plan import MODULES, plan
from drift.ground.artifacts import own_name, staged
from drift.ground.errors import PipelineError
from pipelines.check import Spec, check_spec
from pipelines.drift_sft import pipeline
from pipelines.placement import NOTHING, Resources, gpus_of

SUFFIXES = {".yaml", ".yml"}
ARGUMENT_BYTES = 128 * 1024 - 1
"""The longest argument of a program on Linux (MAX_ARG_STRLEN, less the byte that ends it). Kubeflow's driver gets the
whole root of the pipeline, with the values of all parameters, as one (argocompiler/dag.go, `--component`)."""


def compile_pipeline(config: Config, out: Path, resources: Resources = NOTHING, *, caching: bool = True) -> None:
    """Write the pipeline with the configuration as its default arguments to the file ``out``, and check it strictly.

    Without `caching` no step comes from Kubeflow's cache.

    The images are what DRIFT_IMAGE_PIPELINE, DRIFT_IMAGE_TRAIN and DRIFT_IMAGE_EVALUATE name; their digest stands
    for the version of the code. Raises PipelineError if the result would not run, its parameters are too long for a
    cluster, or ``out`` cannot be written.
    """
    if out.suffix not in SUFFIXES:
        raise PipelineError(f"{out}: the compiled pipeline is YAML; give a name that ends in .yaml")
    aside = out.with_name(own_name(out).name + out.suffix)
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
        planned = plan(with_ranks(config, resources), local=False)
        chain, arguments = pipeline(resources, caching=caching, shards=planned.shards), planned.arguments()
        compiler.Compiler().compile(chain, str(aside), pipeline_parameters=arguments)
        require_short(check_file(aside)["root"], arguments)
        aside.replace(out)
    except OSError as error:
        raise PipelineError(f"{out}: cannot be written ({error.strerror})") from error
    finally:
        aside.unlink(missing_ok=True)


def with_ranks(config: Config, resources: Resources) -> Config:
    """The configuration with the ranks that the profile's GPUs give a training, where it leaves them open.

    They cut its batches, so a training on other machines is another one; Kubeflow's cache sees parameters alone.
    """
    ranks = gpus_of(resources)["arm"]
    if not ranks or config.train.processes:
        return config
    return config.model_copy(update={"train": config.train.model_copy(update={"processes": ranks})})


def compile_components(folder: Path) -> list[Path]:
    """Write each step as a component of its own, for other teams' pipelines, into the new folder; the files.

    Raises DataError if the folder holds something already.
    """
    with staged(folder) as aside:
        for step in MODULES:
            compiler.Compiler().compile(component(step), str(aside / f"{step}.yaml"))
    return sorted(folder.iterdir())


def check_file(path: Path) -> Spec:
    """A compiled pipeline, checked strictly. Raises PipelineError."""
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    check_spec(documents[0], documents[1] if len(documents) > 1 else None)
    return documents[0]


def require_short(root: Spec, arguments: Mapping[str, Any]) -> None:
    """Raise PipelineError, naming the longest argument, if the pipeline's root is too long for a program's argument."""
    if (size := _size(root)) <= ARGUMENT_BYTES:
        return
    longest = max(arguments, key=lambda name: _size(arguments[name]))
    many = f" ({len(arguments[longest])} arms)" if longest == "arms" else ""
    raise PipelineError(
        f"{longest}{many}: {_size(arguments[longest]):,} of the {size:,} bytes that the pipeline's parameters take; a "
        f"cluster passes at most {ARGUMENT_BYTES:,} on: shorten it, or split the run in two"
    )


def _size(content: Any) -> int:
    """Bytes as Go writes JSON, with six for each of <, > and &."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return len(text.encode()) + 5 * sum(text.count(letter) for letter in "<>&")
