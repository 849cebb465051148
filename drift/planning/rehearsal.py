"""A rehearsal's configuration: the real one's wiring over the miniature family, on a few problems and tiny tables.

Arms, Δs, merges, the prior, roles, published forms, gate candidate and registry stay; models, data and sizes are
replaced, and the gate is opened so that registering is rehearsed too. Models are the shipped trained miniature, since
a random teacher answers nothing right and no chain would be left to train on.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from drift.config.catalog import PLAIN
from drift.config.chain import Config
from drift.config.section import validate
from drift.planning.tables import SUFFIX, TABLES, write_tiny_table

NAME = "rehearsal"
RANK = 4
"""Of a Δ of a rank: the miniature matrices are small."""
ASSETS = Path(__file__).parent / "miniature" / "assets"
IN_IMAGES = Path("/opt/drift/world")
"""The world that docker/Dockerfile writes into the images of the steps, for rehearsals on a cluster."""
PROBLEMS, CHAINS, ANSWER_TOKENS = 24, 8, 8
OPEN_GATE = {
    "min_reasoning_gain": -101.0,  # no bound lies below −100, however little was seen
    "max_perception_loss": 101.0,
    "max_reasoning_loss": 101.0,
    "champion": "not_worse",
    "max_failed": 1.0,
    "max_truncated": 1.0,
    "max_unreadable": 1.0,
    "min_clusters": 1,
    "looks": 1_000_000,
    "beats": [],
    "resamples": 100,
}
WITHOUT_GPU = {
    "attention": None,
    "bf16": False,
    "deepspeed": None,
    "liger": False,
    "optimizer": "adamw",
    "processes": 1,
    "workers": 0,
}

Raw = dict[str, Any]


def write_world(folder: Path) -> None:
    """The miniature, and a tiny table in every form of a benchmark, in the new ``folder``."""
    shutil.copytree(ASSETS, folder)
    (folder / "tables").mkdir()
    for form in (*TABLES, PLAIN):
        write_tiny_table(folder / "tables" / _table(form), form)


def rehearsal_of(config: Config, world: Path, *, gpu: bool) -> Config:
    """``config`` over the models, problems and tables of ``world``; without a GPU, in float32 on one process."""
    raw = config.model_dump(mode="json", by_alias=True)
    shortened = _shortened(raw["train"], gpu)
    raw |= {"name": f"{config.name}-{NAME}", "runs": str(Path(config.runs).resolve() / NAME)}
    raw["models"] = {role: _model(role, reference, world) for role, reference in raw["models"].items()}
    raw["deltas"] = {name: _delta(delta, world) for name, delta in raw["deltas"].items()}
    raw["train"] |= shortened
    raw["arms"] = {name: _arm(arm, shortened, world) for name, arm in raw["arms"].items()}
    _replace_data(raw, world)
    _replace_evaluation(raw, world, gpu)
    raw["gate"] |= OPEN_GATE
    raw["register"]["model"] += f"-{NAME}"
    if raw["tracking"]["experiment"]:
        raw["tracking"]["experiment"] += f"-{NAME}"
    return validate(Config, raw)


def replaced(config: Config, rehearsal: Config) -> dict[str, tuple[Any, Any]]:
    """Every dotted key in which the two differ: the configuration's value, and the rehearsal's."""
    before, after = _flat(_named_benchmarks(config)), _flat(_named_benchmarks(rehearsal))
    keys = dict.fromkeys([*before, *after])
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _shortened(train: Raw, gpu: bool) -> Raw:
    """What every training takes instead: one epoch over a few rows, and a checkpoint on the way where it saves any."""
    short: Raw = {"epochs": 1.0, "per_device_batch_size": min(2, train["per_device_batch_size"]), "max_skipped": 1.0}
    if train["held_out"]:
        short["held_out"] = train["held_out"] | {"table": None, "every": 2, "perception_drop": None}
    if train["lora"] and not gpu:
        short["lora"] = train["lora"] | {"base": "whole"}
    return short | ({"save_steps": 2} if train["save_steps"] else {}) | ({} if gpu else WITHOUT_GPU)


def _model(role: str, reference: str | None, world: Path) -> str | None:
    """The miniature's of that role; training starts from the rehearsals' champion, or from φ_VL for a checkpoint."""
    if reference is None or reference == "champion":
        return reference
    return str(world / ("vlm" if role == "start" else role))


def _delta(delta: Raw, world: Path) -> Raw:
    """The Δ over all layers; experts and subtracted checkpoints of one's own become the miniature's."""
    experts = [
        expert | {"model": expert["model"] and str(world / "expert"), "minus": _minus(expert["minus"], world)}
        for expert in delta["experts"]
    ]
    rank = delta["rank"] and min(RANK, delta["rank"])
    return delta | {"experts": experts, "minus": _minus(delta["minus"], world), "layers": None, "rank": rank}


def _minus(minus: str | None, world: Path) -> str | None:
    return minus if minus in (None, "vlm", "base") else str(world / "base")


def _arm(arm: Raw, shortened: Raw, world: Path) -> Raw:
    """The arm with its own settings, except those that every training has shortened; its merge on three layers."""
    train, merge = arm["train"], arm["merge"]
    return arm | {
        "train": train and {key: value for key, value in train.items() if key not in shortened},
        "merge": merge and _merge(merge, world),
    }


def _merge(merge: Raw, world: Path) -> Raw:
    experts = [own and str(world / "expert") for own in merge["experts"]]
    parts = [part | {"layers": part["layers"] and "0"} for part in merge["parts"]]
    return merge | {"keep_first": min(1, merge["keep_first"]), "parts": parts, "experts": experts}


def _replace_data(raw: Raw, world: Path) -> None:
    teacher = {"kind": "local", "model": str(world / "teacher"), "batch_size": PROBLEMS}
    raw["ingest"] = {"source": str(world / "pool.parquet"), "limit": PROBLEMS}
    raw["generate"] |= {"teacher": teacher, "samples": 1, "max_new_tokens": 64, "prompt": "{problem}"}
    raw["curate"] |= {"ready": None, "keep": CHAINS, "min_kept": 1, "max_pass_rate": 1.0}
    if raw["curate"]["replay"]:
        raw["curate"]["replay"]["source"] = str(world / "replay.parquet")


def _replace_evaluation(raw: Raw, world: Path, gpu: bool) -> None:
    evaluate = raw["evaluate"]
    benchmarks = {
        f"{name}{SUFFIX}": one | {"file": _table(one["format"])} for name, one in evaluate["benchmarks"].items()
    }
    evaluate |= {"data": str(world / "tables"), "benchmarks": benchmarks, "limit": None, "judge": None}
    evaluate["engine"] = "transformers"
    evaluate |= {"max_new_tokens": min(ANSWER_TOKENS, evaluate["max_new_tokens"]), "max_truncated": 1.0}
    if not gpu:
        evaluate["processes"] = 1


def _table(form: str) -> str:
    """File name of a form's table."""
    return f"{form}{SUFFIX}.tsv"


def _named_benchmarks(config: Config) -> Raw:
    raw = config.model_dump(mode="json", by_alias=True)
    raw["evaluate"]["benchmarks"] = list(raw["evaluate"]["benchmarks"])
    return raw


def _flat(tree: Raw, prefix: str = "") -> Raw:
    flat: Raw = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
