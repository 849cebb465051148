"""Who and what made a run: user, host, command line, commit and whether it was clean, packages, image."""

from __future__ import annotations

import functools
import getpass
import importlib.metadata
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import yaml

from drift import __version__
from drift.ground.fingerprint import ROOT
from drift.tracking.store import redact

CONFIG_FILE = "config.yaml"
"""A run's configuration, in its folder and in MLflow."""

CODE_VERSION = "DRIFT_CODE_VERSION"
"""The commit, where no checkout tells it: in an image, and in the steps of a run."""
IMAGE = "DRIFT_IMAGE"
"""The image that a step was given; empty in a process of its own."""
GIT_SECONDS = 10


def origin(name: str = "") -> dict[str, str]:
    """Tags of a run in MLflow: its own names for user and source, ours for what it has no name for.

    `name`: what ran; the command line if empty.
    """
    return {
        "mlflow.user": _user(),
        "mlflow.source.name": name or shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),  # noqa: PTH119
        "mlflow.source.type": "LOCAL",
        "drift.version": __version__,
        "drift.python": platform.python_version(),
        "drift.host": socket.gethostname(),
        **({"drift.image": os.environ[IMAGE]} if os.environ.get(IMAGE) else {}),
        **commit(),
    }


@functools.cache
def commit() -> dict[str, str]:
    """The commit of this code, and `drift.git_dirty` for changes beside it. Empty if neither image nor git tells."""
    told = os.environ.get(CODE_VERSION, "unknown")
    if told and told != "unknown":
        return _tags(told.removesuffix("-dirty"), dirty=told.endswith("-dirty"))
    if not _git("ls-files", "--error-unmatch", "__init__.py"):  # this folder may only lie in somebody's checkout
        return {}
    head = _git("rev-parse", "HEAD")
    return _tags(head, dirty=bool(_git("status", "--porcelain"))) if head else {}


def code_version() -> str:
    """The commit in one word, `-dirty` behind it if it was; '' if it is not known."""
    tags = commit()
    dirty = "-dirty" if tags.get("drift.git_dirty") == "true" else ""
    return tags["mlflow.source.git.commit"] + dirty if tags else ""


def config_text(content: Mapping[str, Any]) -> str:
    """A whole configuration as its file has it, without the user and password of any address."""
    return redact(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True))


def packages() -> str:
    """What is installed here, a line `name==version` each, as pip would list it."""
    about = [one.metadata for one in importlib.metadata.distributions()]  # each is parsed whenever it is asked for
    found = {(one["Name"], one["Version"]) for one in about if "Name" in one}
    return "".join(f"{name}=={version}\n" for name, version in sorted(found, key=lambda one: one[0].lower()))


def _tags(head: str, *, dirty: bool) -> dict[str, str]:
    return {"mlflow.source.git.commit": head, "drift.git_dirty": "true" if dirty else "false"}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, no checkout, or one of somebody else's
        return ""
    return told.stdout.strip()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return str(os.getuid())
