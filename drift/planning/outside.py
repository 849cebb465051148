"""What a run takes from outside: models by path or from the hub, problems, and servers that must answer."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import urllib3

from drift.config.chain import Config
from drift.config.data import VllmTeacher
from drift.config.models import split_base, stated_base
from drift.config.plan import looks_local, merged_experts
from drift.config.servers import VllmConfig
from drift.ground.errors import ConfigError
from drift.ground.findings import Check, Noted
from drift.inference.served import find_vllm
from drift.weights.storage.adapters import open_model
from drift.weights.storage.hub import on_hub

ANSWER_SECONDS = 5.0


def models_of(config: Config) -> list[tuple[str, str]]:
    """Every checkpoint that a step will load, with its key."""
    named = config.models.without_start() if config.models.start_at_champion else config.models
    models = [(f"models.{role}", name) for role, name in named.model_dump().items() if name]
    for name, delta in config.deltas.items():
        own = {reference for expert, minus, _ in delta.pairs for reference in (expert, minus)} - {None, "vlm", "base"}
        models += [(f"deltas.{name}", reference) for reference in sorted(map(str, own))]
    models += merged_experts(config)
    teacher = config.generate.teacher
    return [*models, *([("generate.teacher.model", teacher.model)] if teacher.kind != "endpoint" else [])]


def engines_of(config: Config) -> list[Check]:
    """Whether vLLM is there, for each section whose step starts it."""
    sections: list[tuple[str, VllmConfig]] = []
    if isinstance(config.generate.teacher, VllmTeacher):
        sections.append(("generate.teacher", config.generate.teacher))
    if config.evaluate.inference == "vllm":
        sections.append(("evaluate.vllm", config.evaluate.vllm))
    return [(f"{where}.command", partial(find_vllm, section, where)) for where, section in sections]


def check_model(key: str, reference: str, *, allow_pickle: bool = False) -> None:
    """Raise ConfigError or CheckpointError unless the model can be had here; Noted if the hub does not answer."""
    adapter, base = split_base(reference)
    path = Path(adapter).expanduser()
    if own := base or stated_base(path):
        check_model(f"{key}: base", own, allow_pickle=allow_pickle)
    if path.exists():
        if not own or Path(own).expanduser().exists():
            open_model(reference, allow_pickle=allow_pickle)
    elif looks_local(adapter):
        raise ConfigError(f"{key}: '{adapter}' does not exist; give a path that does, or a hub id (owner/name)")
    else:
        on_hub(key, adapter, "model")


def check_answers(base_url: str) -> None:
    """Raise Noted where no server answers: it may be started later, or be reached from the cluster alone."""
    try:
        urllib3.request("GET", f"{base_url.rstrip('/')}/models", timeout=ANSWER_SECONDS, retries=False)
    except urllib3.exceptions.HTTPError as error:
        raise Noted(f"{base_url} does not answer from here ({type(error).__name__})") from None
