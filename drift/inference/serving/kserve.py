"""An InferenceService of KServe for a model: its Hugging Face runtime with vLLM as the backend.

Read in KServe's source, commit aaac4e2 (August 2026); `tests/unit/inference/test_serving.py` holds the fields:

    pkg/apis/serving/v1beta1/predictor.go        PredictorSpec, PredictorExtensionSpec: storageUri and a container
    pkg/apis/serving/v1beta1/predictor_model.go  ModelSpec: modelFormat
    pkg/apis/serving/v1beta1/component.go        ComponentExtensionSpec: minReplicas, maxReplicas
    pkg/apis/serving/v1beta1/inference_service_validation.go      what a name may be
    config/storagecontainers/default.yaml        the addresses that its storage initializer fetches
    python/huggingfaceserver/huggingfaceserver/__main__.py        arguments of the runtime, vLLM's among them
    python/huggingfaceserver/huggingfaceserver/vllm/vllm_model.py a pod's GPUs are its tensor parallelism
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from drift.config.servers import VllmConfig
from drift.ground.errors import ConfigError
from drift.inference.serving.command import Wanted

FETCHED = re.compile(r"(gs|s3|hdfs|webhdfs|hf|modelscope|pvc|oci|https?)://.+")
"""Addresses that KServe brings into a pod."""
LONGEST_NAME = 63
_NO_NAME = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class Pod:
    """What a pod gets besides GPUs, and who it is."""

    cpu: str = "4"
    memory: str = "32Gi"
    service_account: str | None = None
    """Whose secrets let KServe read the bucket."""


def inference_service(wanted: Wanted, storage_uri: str | None, pod: Pod) -> str:
    """The manifest, as YAML; no key and no password is in it. ``storage_uri`` is where KServe finds the files, where
    that is not where MLflow keeps them.

    Raises ConfigError if KServe cannot fetch them from there.
    """
    place = _fetched(wanted, storage_uri)
    body = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": _name(wanted.name), **_origin(wanted)},
        "spec": {"predictor": _predictor(wanted, place, pod)},
    }
    return yaml.safe_dump(body, sort_keys=False, width=10**6)


def _predictor(wanted: Wanted, place: str, pod: Pod) -> dict[str, Any]:
    copies = wanted.config.data_parallel
    resources = {"cpu": pod.cpu, "memory": pod.memory, "nvidia.com/gpu": str(wanted.config.tensor_parallel)}
    return {
        **({"serviceAccountName": pod.service_account} if pod.service_account else {}),
        **({"minReplicas": copies, "maxReplicas": copies} if copies else {}),
        "model": {
            "modelFormat": {"name": "huggingface"},
            "args": _arguments(wanted.name.rpartition("/")[2], wanted.config, wanted.dtype),
            "storageUri": place,
            "resources": {"requests": resources, "limits": dict(resources)},
        },
    }


def _arguments(name: str, config: VllmConfig, dtype: str) -> list[str]:
    """Without the backend KServe answers by transformers where vLLM does not know an architecture; that has no images.

    `--model_name`, `--backend`, `--max_model_len` and `--trust_remote_code` are the runtime's own.
    """
    limits = {"image": config.images_per_prompt, "video": 0}
    given = {
        "--model_name": name,
        "--backend": "vllm",
        "--dtype": dtype,
        "--generation-config": "vllm",
        "--max_model_len": config.max_model_len,
        "--gpu-memory-utilization": config.gpu_memory_utilization,
        "--max-num-seqs": config.max_num_seqs,
        "--limit-mm-per-prompt": json.dumps(limits) if config.images_per_prompt else None,
    }
    switches = ["--trust_remote_code"] if config.trust_remote_code else []
    return [*(f"{option}={value}" for option, value in given.items() if value is not None), *switches, *config.args]


def _fetched(wanted: Wanted, storage_uri: str | None) -> str:
    """The address of the files. Raises ConfigError for one that KServe does not fetch."""
    place = storage_uri or _kept(wanted)
    if FETCHED.fullmatch(place):
        return place
    kept = f"--storage-uri: {place}" if storage_uri else f"{wanted.model}: its files are at {place}, which"
    remedy = f"`drift models download {wanted.name} VERSION` and " if wanted.found else ""
    raise ConfigError(
        f"{kept} KServe does not fetch from; {remedy}copy them to a bucket or a claim, and name it with --storage-uri "
        "(s3://…, gs://…, pvc://CLAIM/PATH, hf://OWNER/NAME)"
    )


def _kept(wanted: Wanted) -> str:
    """Where the files are now: MLflow's place of a version, a directory, or the hub."""
    if wanted.found:
        return wanted.found.location
    if Path(wanted.model).expanduser().exists() or "/" not in wanted.model.strip("/"):
        return wanted.model
    repository, _, revision = wanted.model.partition("@")
    return f"hf://{repository}:{revision}" if revision else f"hf://{repository}"


def _origin(wanted: Wanted) -> dict[str, Any]:
    """Which version of the registry it is, for whoever finds it on the cluster."""
    if wanted.found is None:
        return {}
    said = {"drift.version": wanted.found.address, "drift.contents": wanted.found.champion.fingerprint}
    return {"annotations": {key: value for key, value in said.items() if value}}


def _name(model: str) -> str:
    """As KServe wants one: lower case letters, digits and `-`, a letter first."""
    text = _NO_NAME.sub("-", model.rpartition("/")[2].lower()).strip("-")
    return (text if text[:1].isalpha() else f"model-{text}".rstrip("-"))[:LONGEST_NAME].rstrip("-")
