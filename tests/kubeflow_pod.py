"""What Kubeflow's launcher does around a step of ours, with a real bucket, kfp's own executor and the real door.

As backend/src/v2/component/launcher_v2.go of kubeflow/pipelines 2.17.0 has it: input artifacts come from the bucket to
the local path of their address (LocalPathForURI, line 1239; downloadArtifacts, 927; DownloadBlob in objectstore/
object_store.go), the executor runs the function, and what it wrote goes to the bucket at the addresses of its outputs
(uploadOutputArtifacts, 778), which lie below the run's root. The key to the bucket is the launcher's alone. An importer
makes an address an artifact without looking (importer_launcher.go, ImportSpecToMLMDArtifact).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp.dsl import base_component
from kfp.dsl.executor import Executor
from kfp.dsl.types import artifact_types

from components import component
from tests.forked import begin
from tests.s3_server import Bucket

SCHEME = "minio://"


@dataclass(frozen=True)
class Finished:
    """A step that has ended: its parameters, and the addresses of its artifacts."""

    parameters: dict[str, Any]
    artifacts: dict[str, str]


@dataclass(frozen=True)
class Pods:
    """Runs doors, each with an empty disk. `mount` stands for `/minio`, where a pod has its emptyDir."""

    bucket: Bucket
    mount: Path

    def address(self, *parts: str) -> str:
        """An address below the default root of an installation."""
        return "/".join((f"{SCHEME}{self.bucket.name}/v2/artifacts/drift-sft", *parts))

    def put(self, folder: Path, address: str) -> str:
        """Upload a folder as an output artifact; its address."""
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.bucket.client.upload_file(
                str(file), self.bucket.name, f"{self._key(address)}/{file.relative_to(folder)}"
            )
        return address

    def run(
        self,
        door: base_component.BaseComponent,
        run: str,
        parameters: Mapping[str, str],
        artifacts: Mapping[str, str | list[str]] | None = None,
    ) -> Finished:
        """One step of a run: addresses of its input artifacts in, of its outputs out."""
        shutil.rmtree(self.mount, ignore_errors=True)
        given = {name: [one] if isinstance(one, str) else one for name, one in (artifacts or {}).items()}
        for address in (address for some in given.values() for address in some):
            self.fetched(address)
        outputs = door.component_spec.outputs or {}
        root = self.mount / "task"
        root.mkdir(parents=True)
        kinds = {name: spec.type for name, spec in outputs.items()}
        made = {name: self.address(run, door.name, name) for name, kind in kinds.items() if kind.startswith("system.")}
        written = root / "executor_output.json"
        executor_input = {
            "inputs": {
                "parameterValues": dict(parameters),
                "artifacts": {name: _artifacts(some) for name, some in given.items()},
            },
            "outputs": {
                "parameters": {name: {"outputFile": str(root / name)} for name in kinds if name not in made},
                "artifacts": {name: _artifacts([address]) for name, address in made.items()},
                "outputFile": str(written),
            },
        }
        self._execute(door, executor_input, run)
        for address in made.values():
            path = self._path(address)
            if path.is_dir():
                self.put(path, address)
            elif path.exists():
                self.bucket.client.upload_file(str(path), self.bucket.name, self._key(address))
        said = json.loads(written.read_text()) if written.is_file() else {}
        return Finished(said.get("parameterValues", {}), made)

    def _execute(self, door: base_component.BaseComponent, executor_input: dict[str, Any], run: str) -> None:
        """A process of its own, as a pod is: nothing of an earlier step is left in it."""
        log = self.mount / "log.txt"
        process = begin(
            _step, door.python_func.__name__, executor_input, self.mount, out=log, err=log, DRIFT_RUN_ID=run
        )
        process.join()
        assert process.exitcode == 0, log.read_text()

    def fetched(self, address: str) -> Path:
        """An artifact downloaded, at the local path of its address; nothing lies there if it is gone."""
        key = self._key(address)
        for found in self.bucket.keys(key):
            if found == key or found.startswith(f"{key}/"):
                path = self._path(f"{SCHEME}{self.bucket.name}/{found}")
                path.parent.mkdir(parents=True, exist_ok=True)
                self.bucket.client.download_file(self.bucket.name, found, str(path))
        return self._path(address)

    def _key(self, address: str) -> str:
        return address.removeprefix(f"{SCHEME}{self.bucket.name}/")

    def _path(self, address: str) -> Path:
        return self.mount / address.removeprefix(SCHEME)


def _step(step: str, executor_input: dict[str, Any], mount: Path) -> None:
    artifact_types._MINIO_LOCAL_MOUNT_PREFIX = f"{mount}/"
    Executor(executor_input, component(step)).execute()


def _artifacts(addresses: list[str]) -> dict[str, Any]:
    return {"artifacts": [{"name": str(place), "uri": address} for place, address in enumerate(addresses)]}
