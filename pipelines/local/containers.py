"""Steps in containers on this machine: Kubeflow's Docker runner with its race closed.

Kubeflow lets Docker remove a container that has ended, and takes one that is gone before it asked for success. Here a
container is removed after its exit code was read. It has a read-only file system, no rights, the caller's user, and the
folders that a step needs; its standard input is the lifeline: it closes when the runner dies.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import requests
from docker.models.containers import Container
from docker.types import DeviceRequest, Mount

import docker
from components._images import IMAGES, image
from drift.config.chain import Config
from drift.config.plan import MODULES
from drift.config.section import to_json
from drift.ground.errors import ServiceError
from drift.tracking import limits
from drift.tracking.steps import LIFELINE
from pipelines.local.work import GPU

LABEL = "drift.run"
PASSED = re.compile(
    r"(HF_(TOKEN|HUB_OFFLINE)|OMP_NUM_THREADS|(AWS|MLFLOW)_\w+|(SSL_CERT_FILE|REQUESTS_CA_BUNDLE)|(HTTPS?|NO)_PROXY"
    rf"|{limits.OURS})$",
    re.IGNORECASE,
)
"""Variables of this process that every step gets: what MLflow, S3 and the hub are reached with, and which of MLflow's
the user has not set. Those that the configuration names for keys come on top."""
OTHERS = re.compile(r"MLFLOW_(RUN_ID|EXPERIMENT_(ID|NAME)|TRACKING_URI)$")
"""Which run a step logs into is ours to say."""
FILES = re.compile(r".*(_FILE|_PATH|_BUNDLE)$")
"""Variables whose value is a file, such as a certificate, which the step must be able to read."""


READS = "import sys; from drift import config, validation; validation.from_json(config.Config, sys.argv[1])"
"""Run in an image: fails unless its drift reads the configuration of the first argument."""


class ContainerWork:
    """One container at work, as a chain sees it: started, signalled, waited for."""

    def __init__(self, container: Container, log: BinaryIO) -> None:
        self._container, self._log = container, log
        self._stdin = container.attach_socket(params={"stdin": 1, "stream": 1})
        container.start()

    def wait(self) -> int:
        """Its exit code, once its output is in the log; minus the signal that ended it. Removes it."""
        try:
            for piece in self._container.logs(stream=True, follow=True):
                self._log.write(piece)
            code = int(self._container.wait()["StatusCode"])
            return 128 - code if code > 128 else code
        finally:
            self._stdin._sock.close()  # closing the stream leaves its socket open
            self._stdin.close()
            self._container.remove(force=True)

    def send(self, number: int) -> None:
        """Signal every process in it; none if it has ended."""
        with contextlib.suppress(docker.errors.APIError):
            self._container.kill(signal=number)


def settings(
    run_id: str, writable: Iterable[Path], environment: Mapping[str, str], keys: Iterable[str]
) -> dict[str, Any]:
    """What every container of a run gets: the working folder to read, `writable` folders, and the environment.

    `keys`: names of variables of this process that hold keys of servers.

    The network is this machine's own: servers on loopback, such as MLflow or a teacher, answer as they do outside.
    """
    here = Path.cwd()
    cache = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    readable = [here, *([cache] if cache.is_dir() else [])]
    passed = passed_variables(os.environ, keys)
    certificates = {Path(value) for name, value in passed.items() if FILES.match(name) and Path(value).is_file()}
    readable += [path for path in sorted(certificates) if not path.is_relative_to(here)]
    return {
        "user": f"{os.getuid()}:{os.getgid()}",
        "working_dir": str(here),
        "mounts": [_mount(path, read_only=True) for path in readable] + [_mount(path) for path in writable],
        "environment": {**passed, "HF_HOME": str(cache), **environment, LIFELINE: "0"},
        "network_mode": "host",
        "read_only": True,
        "tmpfs": {"/tmp": "mode=1777,exec"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "shm_size": "8g",
        "stdin_open": True,
        "labels": {LABEL: run_id},
    }


def passed_variables(environment: Mapping[str, str], keys: Iterable[str]) -> dict[str, str]:
    """The variables that every step gets from ``environment``; ``keys``: names of some more."""
    named = {name for name in environment if PASSED.match(name) and not OTHERS.match(name)}
    return {name: environment[name] for name in sorted(named | set(keys)) if name in environment}


@contextlib.contextmanager
def engine() -> Iterator[docker.DockerClient]:
    """Docker on this machine. Raises ServiceError if it does not answer."""
    try:
        client = docker.from_env()
        client.ping()
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise ServiceError(
            f"Docker does not answer ({_cause(error)}); start it, or leave out --runner docker"
        ) from None
    with contextlib.closing(client):
        yield client


def image_ids(client: docker.DockerClient) -> dict[str, str]:
    """The digest of the image of each step. Raises ServiceError, naming it, if one is not on this machine."""
    return {step: _image_id(client, image(step)) for step in MODULES}


def check_images(client: docker.DockerClient, config: Config) -> None:
    """Raise ServiceError if the drift in one of the images does not read the configuration, or there is none.

    Each is started once, without a network: an image of an earlier commit would fail at its first step.
    """
    for name in sorted(set(IMAGES.values())):
        command = ["python3", "-c", READS, to_json(config)]
        try:
            client.containers.run(name, command, remove=True, network_mode="none")
        except docker.errors.ContainerError as error:
            said = (error.stderr.decode(errors="replace").strip().splitlines() or [""])[-1]
            raise ServiceError(
                f"image {name}: its drift does not read this configuration ({said:.200}); `make images` builds it anew"
            ) from None
        except docker.errors.DockerException as error:
            raise ServiceError(f"image {name}: does not start ({_cause(error)}); `make images` builds it") from None


def clear(client: docker.DockerClient, run_id: str) -> None:
    """Remove what an earlier attempt at the run may have left at work."""
    for left in client.containers.list(all=True, filters={"label": f"{LABEL}={run_id}"}):
        left.remove(force=True)


def _image_id(client: docker.DockerClient, name: str) -> str:
    try:
        return str(client.images.get(name).id)
    except docker.errors.ImageNotFound:
        role = next(role for role, known in IMAGES.items() if known == name)
        raise ServiceError(
            f"image {name}: not on this machine; `make images` builds it, DRIFT_IMAGE_{role.upper()} names another"
        ) from None


def create(client: docker.DockerClient, name: str, command: list[str], volumes: Any, arguments: dict[str, Any]) -> Any:
    """The container of one step, in the image `name`, not yet started; one that holds a model may use the GPUs."""
    heavy = name in (IMAGES["train"], IMAGES["evaluate"]) and GPU.exists()
    gpus = [DeviceRequest(count=-1, capabilities=[["gpu"]])] if heavy else None
    return client.containers.create(name, command, volumes=volumes, device_requests=gpus, **arguments)


def _mount(path: Path, *, read_only: bool = False) -> Mount:
    return Mount(target=str(path), source=str(path), type="bind", read_only=read_only)


def _cause(error: BaseException) -> str:
    return " ".join(str(error.__cause__ or error).split())[:120]
