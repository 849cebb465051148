"""What this machine, or the pod of a step, has for a run: versions, GPU, disk, VLMEvalKit, vLLM, MLflow and rights.

A GPU, VLMEvalKit and vLLM are needed by some runs only, and MLflow's server if its variable is set: else they are
noted.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from functools import partial
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from drift.config.chain import Config
from drift.config.servers import JudgeConfig, VllmConfig
from drift.evaluate.judged import find_python
from drift.ground.errors import ConfigError
from drift.ground.findings import Check, Finding, Noted, find, optional
from drift.inference.served import find_vllm
from drift.planning.sizing import free_below
from drift.tracking import store
from drift.tracking.models import rights

PROJECT = "drift-mllm"
NEEDED = ("torch", "torchvision", "transformers", "mlflow", "kfp")
OPTIONAL = ("deepspeed",)
MINIMUM_FREE = 1e9
"""Bytes below `runs` that even the miniature's run should find."""


def examine(config: Config) -> list[Finding]:
    """Every check, the needed ones first."""
    return [find(name, look) for name, look in checks(config)]


def checks(config: Config) -> list[Check]:
    """The checks by their names."""
    return [
        ("Python", _python),
        *((name, partial(_package, name)) for name in NEEDED),
        *((name, partial(optional, partial(_package, name))) for name in OPTIONAL),
        ("disk", partial(_disk, Path(config.runs))),
        ("GPU", _gpu),
        ("VLMEvalKit", partial(optional, _vlmevalkit)),
        ("vLLM", partial(optional, partial(find_vllm, VllmConfig(), "vllm"))),
        ("MLflow", _mlflow),
        ("promotion", partial(_promotion, config.register_.model)),
        ("MLflow artifacts", partial(_artifacts, config)),
        ("champion", partial(_champion, config.register_.model)),
    ]


def _python() -> str:
    wanted = importlib.metadata.metadata(PROJECT)["Requires-Python"]
    if platform.python_version() not in SpecifierSet(wanted):
        raise ConfigError(f"Python {platform.python_version()} is not {wanted}; make .venv with `make run PYTHON=...`")
    return platform.python_version()


def _package(name: str) -> str:
    """Its version. Raises ConfigError if it is missing or outside the range that drift was installed with."""
    wanted = _requirement(name)
    remedy = f"pip install '{name}{wanted.specifier}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(f"{name} is not installed; {remedy}") from None
    if not wanted.specifier.contains(version, prereleases=True):
        raise ConfigError(f"{name} {version} is not {wanted.specifier}; {remedy}")
    return version


def _requirement(name: str) -> Requirement:
    """What drift says it needs of a package, in whichever extra."""
    return next(one for one in map(Requirement, importlib.metadata.requires(PROJECT) or ()) if one.name == name)


def _disk(runs: Path) -> str:
    place, free = free_below(runs)
    if free < MINIMUM_FREE:
        raise ConfigError(f"only {free / 1e9:.1f} GB free below {place}; free some, or set runs to another disk")
    return f"{free / 1e9:,.0f} GB free below {place}"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        raise Noted("none visible to torch; everything but the miniature needs one")
    found = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
    return ", ".join(f"{one.name} {one.total_memory / 1e9:.0f} GB" for one in found)


def _vlmevalkit() -> str:
    return find_python(JudgeConfig(base_url="", model=""))


def _mlflow() -> str:
    uri = _server()
    store.check_server(uri)
    version, wanted = store.server_version(uri), _requirement("mlflow").specifier
    if version and not wanted.contains(version, prereleases=True):
        raise ConfigError(f"{store.redact(uri)} is MLflow {version}, not {wanted}; upgrade the server")
    return f"{store.redact(uri)} {version}".rstrip()


def _promotion(model: str) -> str:
    _server()
    return rights.check_rights(model)


def _artifacts(config: Config) -> str:
    _server()
    experiment = os.environ.get(store.EXPERIMENT) or config.tracking.experiment or config.name
    return rights.check_files(experiment)


def _champion(model: str) -> str:
    _server()
    return rights.check_champion(model)


def _server() -> str:
    store.adopt_address()
    if not (uri := os.environ.get(store.URI)):
        raise Noted(f"{store.URI} is not set: a store in `runs` is used")
    return uri
