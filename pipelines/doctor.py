"""What this machine has for a run: versions, GPU, disk, Docker, and the servers that the environment names.

A server is needed if its variable is set. Docker, a GPU and VLMEvalKit are needed by some runs only: they are noted.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from drift import tracking
from drift.config import JudgeConfig
from drift.errors import ConfigError
from drift.evaluate.judged import find_python
from drift.findings import Finding, Noted, find, optional
from drift.sizing import existing

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
NEEDED = ("torch", "transformers", "mlflow", "kfp")
OPTIONAL = ("deepspeed",)
MINIMUM_FREE = 1e9
"""Bytes below `runs` that even the miniature's run should find."""


def examine(runs: Path) -> list[Finding]:
    """Every check, the needed ones first."""
    checks: dict[str, Callable[[], str | None]] = {
        "Python": _python,
        **{name: partial(_package, name) for name in NEEDED},
        **{name: partial(optional, partial(_package, name)) for name in OPTIONAL},
        "disk": partial(_disk, runs),
        "GPU": _gpu,
        "Docker": partial(optional, _docker),
        "VLMEvalKit": partial(optional, _vlmevalkit),
        "MLflow": _mlflow,
        "Kubeflow": _kubeflow,
    }
    return [find(name, look) for name, look in checks.items()]


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return project


def _python() -> str:
    wanted = _project()["requires-python"]
    if platform.python_version() not in SpecifierSet(wanted):
        raise ConfigError(f"Python {platform.python_version()} is not {wanted}; make .venv with `make run PYTHON=...`")
    return platform.python_version()


def _package(name: str) -> str:
    """Its version. Raises ConfigError if it is missing or outside pyproject.toml's range."""
    wanted, extra = _requirement(name)
    remedy = f"pip install -e '.{f'[{extra}]' if extra else ''}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(f"{name} is not installed; {remedy}") from None
    if not wanted.contains(version, prereleases=True):
        raise ConfigError(f"{name} {version} is not {wanted}; {remedy}")
    return version


def _requirement(name: str) -> tuple[SpecifierSet, str]:
    """The range of a package in pyproject.toml, and the extra that brings it."""
    project = _project()
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    for extra, lines in groups.items():
        for requirement in map(Requirement, lines):
            if requirement.name == name:
                return requirement.specifier, extra
    raise KeyError(name)


def _disk(runs: Path) -> str:
    place = existing(runs)
    free = shutil.disk_usage(place).free
    if free < MINIMUM_FREE:
        raise ConfigError(f"only {free / 1e9:.1f} GB free below {place}; free some, or set runs to another disk")
    return f"{free / 1e9:,.0f} GB free below {place}"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        raise Noted("none visible to torch; everything but the miniature needs one")
    found = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
    return ", ".join(f"{one.name} {one.total_memory / 1e9:.0f} GB" for one in found)


def _docker() -> str:
    from pipelines import containers

    with containers.engine() as client:
        containers.image_ids(client)
        return f"{client.version()['Version']}, with the images of the steps"


def _vlmevalkit() -> str:
    return find_python(JudgeConfig(base_url="", model=""))


def _mlflow() -> str:
    if not (uri := os.environ.get(tracking.URI)):
        raise Noted(f"{tracking.URI} is not set: a store in `runs` is used")
    tracking.check_server(uri)
    return tracking.redact(uri)


def _kubeflow() -> str:
    from pipelines.cluster import HOST, Target, connected

    if not (host := os.environ.get(HOST)):
        raise Noted(f"{HOST} is not set: needed for `drift submit` and `drift schedule` alone")
    with connected(Target(host)):
        return host
