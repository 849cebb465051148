"""The configuration that `drift init` writes, from the headers of two checkpoints and the first rows of the data."""

from __future__ import annotations

import math
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import OmegaConf
from pydantic import Field

from drift.config.catalog import KNOWN, SUITES
from drift.config.chain import Config
from drift.config.data import CurateConfig
from drift.config.models import DeltaConfig, ModelsConfig, split_base
from drift.config.section import Section, validate
from drift.ground.errors import CheckpointError, ConfigError
from drift.ground.findings import Noted
from drift.planning.beginning.examples import First, here, shipped
from drift.planning.beginning.rows import Rows, look
from drift.planning.outside import check_model
from drift.planning.sizing import Weights, count, headers, per_rank
from drift.weights.pairing import plan
from drift.weights.storage.hub import outline

TEMPLATE = "first.yaml.jinja"
PUBLISHED = "data/LMUData"
"""Where the published benchmarks' tables are looked for, as the examples have it."""
ONE_GPU_BYTES = 64e9
"""Weights, gradients and optimizer that leave room for activations on a GPU of 80 GB."""
SERVED_TEACHER = "steps:\n  generate: {gpus: 0} # the teacher is a server\n"
"""As the shipped profiles have it."""


class Asked(Section):
    """What a person says: the models, the problems, the place; and, where the defaults do not fit, the rest."""

    vlm: str
    expert: str
    data: str
    where: Literal["machine", "gpu", "cluster"]
    columns: dict[str, str] = Field(default_factory=dict)
    """Keys of `ingest` and the columns that somebody named."""
    teacher: str | None = None
    """A checkpoint; with `url` the name of what a server serves. None: the VLM teaches itself."""
    url: str | None = None
    benchmarks: str | None = None
    """Folder of TSV tables; None: the published ones in `PUBLISHED`."""
    perception: tuple[str, ...] = ()
    """Those of its tables that ask about perception."""


def first(asked: Asked, out: Path) -> First:
    """The configuration ``out`` and what belongs to it; writes nothing.

    Raises CheckpointError for models that are not there or do not fit together, DataError for rows that cannot be
    used, ConfigError for the rest.
    """
    notes, weights = _models(ModelsConfig(vlm=asked.vlm, expert=asked.expert))
    rows = look(asked.data, asked.columns)
    sharded = asked.where == "cluster" and weights is not None and per_rank(weights, 0, 1) > ONE_GPU_BYTES
    shards = {out.with_name("zero2.json"): shipped("deepspeed/zero2.json")} if sharded else {}
    text = _render(asked, out, rows, weights, next(iter(shards), None))
    validate(Config, OmegaConf.to_container(OmegaConf.create(text), resolve=True))
    profile = _profile(asked, out, weights) if asked.where == "cluster" else {}
    notes = [*notes, f"{asked.data}: {rows.said}"]
    return First({out: text, **shards, **profile}, notes, _commands(out, next(iter(profile), None)))


def _models(models: ModelsConfig) -> tuple[list[str], Weights | None]:
    """What was seen of the checkpoints, and their sizes: from headers, of the hub's too. Nothing else is downloaded."""
    notes = []
    for key, reference in (("models.vlm", models.vlm), ("models.expert", models.expert)):
        try:
            check_model(key, reference)
        except Noted as noted:
            notes.append(str(noted))
    with tempfile.TemporaryDirectory() as folder:
        try:
            here = [_here(one, Path(folder)) for one in (models.vlm, models.expert)]
            weights = _sizes(ModelsConfig(vlm=here[0], expert=here[1]))
        except Noted as noted:
            return [*notes, f"{noted}; whether the models fit together is not known yet"], None
        except CheckpointError as error:  # says where the outline lay
            raise CheckpointError(str(error).replace(f"{folder}/", "")) from error
    fit = "models: they fit"
    return [*notes, f"{fit}; {_billions(weights.trained)} of {_billions(weights.total)} weights train"], weights


def _here(reference: str, folder: Path) -> str:
    """A model that lies here, or what its headers on the hub say."""
    adapter, base = split_base(reference)
    if Path(adapter).expanduser().is_dir():
        return reference
    if base:
        raise Noted(f"'{reference}': an adapter on the hub")
    return str(outline(reference, folder))


def _sizes(models: ModelsConfig) -> Weights:
    """Raises CheckpointError if the models do not fit together."""
    plan(DeltaConfig(), expert=models.expert, vlm=models.vlm, base=None)
    opened = headers(models)
    if opened is None:
        raise Noted("how large the models are cannot be read")
    return count(*opened, freeze_vision=True)


def _billions(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e7 else f"{number:,}"


def _render(asked: Asked, out: Path, rows: Rows, weights: Weights | None, deepspeed: Path | None) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # not HTML: nothing is escaped, each value is written as YAML
    environment.filters["yaml"] = _as_yaml
    keep = CurateConfig().keep or 0
    content = {
        "asked": asked,
        "file": out,
        "name": _name(out.stem),
        "rows": rows,
        "keep": min(rows.count or keep, keep),
        "memory": f"{per_rank(weights, 0, 1) / 1e9:.1f}" if weights else None,
        "deepspeed": None if deepspeed is None else str(deepspeed),
        "data": asked.benchmarks or PUBLISHED,
        "benchmarks": _benchmarks(asked),
        "published": asked.benchmarks is None,
    }
    return environment.get_template(TEMPLATE).render(content) + "\n"


def _as_yaml(value: Any) -> str:
    """A value in one line of YAML."""
    return yaml.safe_dump([value], default_flow_style=True, width=math.inf, allow_unicode=True).strip()[1:-1]


def _name(stem: str) -> str:
    """A file's name as one of a run."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).lstrip("_.-") or "first"


def _benchmarks(asked: Asked) -> dict[str, dict[str, str]]:
    """Name and entry of each table. Raises ConfigError for a folder without one, or a role that none has."""
    if asked.benchmarks is None:
        return {name: {} for suite in SUITES.values() for name in suite}
    names = sorted(path.stem for path in Path(asked.benchmarks).glob("*.tsv"))
    unknown = sorted({*asked.perception} - {*names})
    if names and unknown:
        raise ConfigError(f"--perception: '{unknown[0]}' is no table of {asked.benchmarks}; it has {', '.join(names)}")
    roles = {name: _role(name, asked.perception) for name in names}
    for role, remedy in (("reasoning", "add one"), ("perception", "name one of them with --perception NAME")):
        if role not in roles.values():
            there = ", ".join(names) or "no .tsv file"
            raise ConfigError(f"--benchmarks: {asked.benchmarks} has no table of {role} ({there}); {remedy}")
    return {name: {} if name in KNOWN else {"role": role} for name, role in roles.items()}


def _role(name: str, perception: tuple[str, ...]) -> str:
    return KNOWN[name].role if name in KNOWN else "perception" if name in perception else "reasoning"


def _profile(asked: Asked, out: Path, weights: Weights | None) -> dict[Path, str]:
    """What the pods get: one GPU where a training fits it, else a machine of several; a served teacher's step none."""
    small = weights is not None and per_rank(weights, 0, 1) <= ONE_GPU_BYTES
    text = shipped(f"resources/{'one_gpu' if small else 'one_node'}.yaml")
    return {out.with_name(f"{out.stem}.pods.yaml"): text if asked.url else text.replace(SERVED_TEACHER, "")}


def _commands(out: Path, profile: Path | None) -> list[str]:
    if profile is None:
        return here(out)
    files = shlex.join(["-c", str(out), "--resources", str(profile)])
    return [f"drift {command} {files}" for command in ("plan", "rehearse --only-checks", "doctor", "submit")]
