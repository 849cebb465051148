"""From a configuration to the parameters of a pipeline run: one JSON string per step and arm.

A string holds all a step's result depends on besides its input artifacts: its section, the fingerprint of its
code, and the contents of the local files it reads. Kubeflow caches on it, so a step reruns when one of the three
changes and only then. On a cluster the image's digest stands for the code, and the last two are left empty.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.config.chain import Config
from drift.config.data import CurateConfig, IngestConfig, LengthConfig, ReplayConfig, matches
from drift.config.evaluate import EvaluateConfig
from drift.config.gate import GateConfig
from drift.config.models import DeltaConfig, MergeConfig, ModelsConfig, split_base, stated_base
from drift.config.places import ASKS_FOR, CHAIN, ONE, Places, Shards
from drift.config.section import Name, Section
from drift.config.train import TrainConfig
from drift.config.zero import check_deepspeed
from drift.ground.artifacts import content_sha256
from drift.ground.errors import ConfigError
from drift.ground.fingerprint import code_fingerprint

Inputs = dict[str, str]

MODULES = {
    "inputs": "drift.planning.inputs",
    "ingest": "drift.data.problems.ingestion",
    "generate": "drift.data.chains.distillation",
    "curate": "drift.data.selection.curation",
    "deltas": "drift.weights.delta.deltas",
    "answer_vlm": "drift.evaluate.shards",
    "evaluate_vlm": "drift.evaluate.evaluation",
    "champion": "drift.gate.champion",
    "start": "drift.training.start",
    "evaluate_champion": "drift.gate.champion",
    "arm": "drift.training.arm",
    "answer_arm": "drift.evaluate.shards",
    "evaluate_arm": "drift.evaluate.evaluation",
    "gate": "drift.gate.decision",
    "register": "drift.tracking.models.registration",
    "report": "drift.gate.report.page",
}
"""The library module behind each step, in the order of the chain."""


class DeltasStep(Section):
    """All named priors Δ, computed in one step."""

    models: ModelsConfig
    deltas: dict[Name, DeltaConfig]


class InputsStep(Section):
    """What may change under its name. `hashed`: the parameters of the other steps say what it is now."""

    ingest: IngestConfig
    replay: ReplayConfig | None
    against: tuple[str, ...] = ()
    """Tables whose questions are left out of the training set."""
    deltas: DeltasStep
    start: str | None
    experts: tuple[str, ...] = ()
    """Those that merges have besides `models.expert`."""
    hashed: bool


class ArmStep(Section):
    """All that one arm needs, resolved: nothing is looked up in the configuration any more."""

    name: Name
    models: ModelsConfig
    merge: MergeConfig | None
    train: TrainConfig | None
    delta: Name | None


class BaselineStep(Section):
    """The protocol, and the unmodified VLM that every arm is compared with."""

    evaluate: EvaluateConfig
    vlm: str


class ChampionStep(Section):
    """Whose champion to ask the registry for, and whether training starts from it."""

    model: Name
    starts: bool


class GateStep(GateConfig):
    """The gate's rules, and under which name of a registered model its looks are counted."""

    model: Name


class StartStep(Section):
    """Nothing but the answer of the step `champion` says what training starts from."""


class ReportStep(Section):
    """What the report says about the run besides its results, and where its winner is registered."""

    name: Name
    model: Name | None = None


@dataclass(frozen=True)
class Plan:
    """`steps`: parameter by step name; `arms`: parameter by arm name, in the configuration's order."""

    steps: Mapping[str, str]
    arms: Mapping[str, str]
    shards: Shards = ONE

    @property
    def places(self) -> Places:
        """The tasks of every step."""
        return Places(tuple(self.arms), self.shards)

    def arguments(self) -> dict[str, str | list[str]]:
        """The arguments of the pipeline function."""
        return {**self.steps, "arms": list(self.arms.values())}

    def sha256(self) -> str:
        """Identifies a run: the same steps with the same parameters."""
        return hashlib.sha256(json.dumps(self.arguments(), sort_keys=True).encode()).hexdigest()

    def tasks(self, *, registers: bool) -> list[tuple[str, str]]:
        """(step, place) of every task that must run or come from the cache; its place is "" outside loops."""
        steps = [step for step in MODULES if registers or step != "register"]
        return [(step, place) for step in steps for place in self.places.every(step)]

    def parameter(self, step: str, place: str) -> str:
        """The parameter the task of `step` and `place` must have been given."""
        return self.arms[place] if step == "arm" else self.steps[ASKS_FOR.get(step, step)]


def plan(config: Config, *, local: bool = True, store: str = "", codes: Mapping[str, str] | None = None) -> Plan:
    """The parameters of a run of `config`.

    `local`: hash code and local inputs; on a cluster, where the images are the code, False. `codes`: what stands for
    the code of each step in place of its hash. `store` identifies the MLflow store, so that a model registered in one
    is not taken for registered in another. Raises ConfigError for a local file or folder that the configuration names
    and that does not exist.
    """

    def parameter(step: str, section: Section, read: Callable[[], Inputs], **more: Any) -> str:
        inputs = read() if local else {}
        behind = askers.get(step, step)
        code = "" if not local else codes[behind] if codes else code_fingerprint(MODULES[behind])
        return _json({"config": _content(section), "code": code, "inputs": inputs, **more})

    shards = Shards(config.generate.shards, config.evaluate.shards)
    askers = {step: asker for asker, step in ASKS_FOR.items()} if shards.evaluate > 1 else {}
    models = config.models
    baseline = BaselineStep(evaluate=config.evaluate, vlm=models.vlm)
    unpublished = config.evaluate.model_copy(update={"published": None})  # that row is the unmodified VLM's
    deltas = DeltasStep(models=models.without_start(), deltas=config.deltas)
    curate = curate_step(config)
    outside = _outside(config, curate, deltas, hashed=local)
    asked = ChampionStep(model=config.register_.model, starts=models.start_at_champion)
    decided = GateStep(model=config.register_.model, **config.gate.model_dump())
    steps = {
        "inputs": parameter("inputs", outside, dict, **({} if local else {CHAIN: _content(config, "runs")})),
        "ingest": parameter("ingest", config.ingest, lambda: pool_inputs(config.ingest)),
        "generate": parameter("generate", config.generate, lambda: _teacher(config)),
        "curate": parameter("curate", curate, lambda: curate_inputs(curate)),
        "deltas": parameter("deltas", deltas, lambda: delta_inputs(deltas)),
        "evaluate_vlm": parameter(
            "evaluate_vlm", baseline, lambda: local_inputs("models.vlm", models.vlm) | _tables(config.evaluate)
        ),
        "evaluate_arm": parameter("evaluate_arm", unpublished, lambda: _tables(config.evaluate)),
        "champion": parameter("champion", asked, dict),
        "start": parameter("start", StartStep(), dict),
        "evaluate_champion": parameter("evaluate_champion", unpublished, lambda: _tables(config.evaluate)),
        "gate": parameter("gate", decided, dict),
        "register": parameter("register", config.register_, lambda: {"store": store}),
        "report": parameter("report", ReportStep(name=config.name, model=config.register_.model), dict),
    }
    arms = {step.name: parameter("arm", step, functools.partial(_arm_inputs, step)) for step in arm_steps(config)}
    return Plan(steps, arms, shards)


def arm_steps(config: Config) -> list[ArmStep]:
    """Every arm with its overrides applied, in the configuration's order."""
    return [
        ArmStep(
            name=name,
            models=config.models if arm.train is not None and arm.merge is None else config.models.without_start(),
            merge=arm.merge,
            train=config.arm_train(name),
            delta=arm.delta,
        )
        for name, arm in config.arms.items()
    ]


def _outside(config: Config, curate: CurateConfig, deltas: DeltasStep, *, hashed: bool) -> InputsStep:
    return InputsStep(
        ingest=config.ingest,
        replay=curate.replay,
        against=curate.against,
        deltas=deltas,
        start=None if config.models.start_at_champion else config.models.start,
        experts=tuple(dict.fromkeys(own for _, own in merged_experts(config))),
        hashed=hashed,
    )


def merged_experts(config: Config) -> list[tuple[str, str]]:
    """The experts of merges besides `models.expert`, each with its key."""
    merges = {name: arm.merge for name, arm in config.arms.items() if arm.merge}
    return [(f"arms.{name}.merge.experts", own) for name, merge in merges.items() for own in merge.experts if own]


def _content(section: Section, *without: str) -> dict[str, Any]:
    return section.model_dump(mode="json", by_alias=True, exclude=set(without))


def _json(content: Any) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def local_inputs(key: str, reference: str) -> Inputs:
    """The hash of a local file or folder; nothing for a hub id, whose revision is part of the reference."""
    path = Path(reference)
    if path.exists():
        return {key: content_sha256(path)}
    if found := matches(reference):
        return {f"{key}: {one}": content_sha256(one) for one in found}
    if looks_local(reference):
        raise ConfigError(f"{key}: '{reference}' does not exist; give a path that does, or a hub id (owner/name)")
    return {}


def model_inputs(key: str, reference: str) -> Inputs:
    """`local_inputs` of a model; of a LoRA adapter, and of its base."""
    adapter, base = split_base(reference)
    base = base or stated_base(Path(adapter))
    return local_inputs(key, adapter) | (local_inputs(f"{key}: base", base) if base else {})


def pool_inputs(ingest: IngestConfig) -> Inputs:
    """The hashes of all sources of problems; images that they name by path are not looked at."""
    return {key: found for name, one in ingest.each() for key, found in local_inputs(name, one.source).items()}


def is_path(reference: str) -> bool:
    """Whether a reference is a file or folder, by its looks or because it is there."""
    return looks_local(reference) or Path(reference).expanduser().exists()


def looks_local(reference: str) -> bool:
    """Whether a reference is meant as a path here and not as a hub id (owner/name)."""
    if glob.has_magic(reference):
        return True
    not_an_id = reference.startswith(("/", ".", "~")) or reference.count("/") > 1 or "/" not in reference
    return not_an_id or Path(reference).suffix in {".parquet", ".json", ".jsonl", ".tsv", ".csv", ".gz", ".tar"}


def _teacher(config: Config) -> Inputs:
    teacher = config.generate.teacher
    return local_inputs("generate.teacher.model", teacher.model) if teacher.kind in ("local", "vllm") else {}


def curate_step(config: Config) -> CurateConfig:
    """The section `curate` with what it takes from the rest: the student for `length`, `evaluate`'s tables."""
    curate = config.curate
    if curate.length is not None:
        curate = curate.model_copy(update={"length": _students(curate.length, config)})
    if not curate.decontaminate:
        return curate
    tables = (str(config.evaluate.table(name)) for name in config.evaluate.benchmarks)
    return curate.model_copy(update={"against": tuple(dict.fromkeys([*curate.against, *tables]))})


def _students(length: LengthConfig, config: Config) -> LengthConfig:
    """`length` by the processor of φ_VL, and for images as large as it is shown them, where nothing else is said."""
    taken: dict[str, Any] = {"processor": config.models.vlm} if length.processor is None else {}
    if "image_max_pixels" not in length.model_fields_set:
        taken |= {"image_max_pixels": config.train.image_max_pixels}
    return length.model_copy(update=taken)


def curate_inputs(curate: CurateConfig) -> Inputs:
    """The hashes of all that it reads besides problems and generations."""
    length = curate.length
    student = local_inputs("curate.length.processor", length.processor) if length and length.processor else {}
    return student | question_inputs(curate.replay, curate.against)


def question_inputs(replay: ReplayConfig | None, against: Iterable[str]) -> Inputs:
    """The hashes of the replay's questions and of the tables that are not to be trained on."""
    inputs = local_inputs("curate.replay.source", replay.source) if replay else {}
    for path in against:
        inputs |= local_inputs(f"curate.against {path}", path)
    return inputs


def delta_inputs(step: DeltasStep) -> Inputs:
    """The hashes of every checkpoint a Δ is made of, and of φ_VL."""
    models = step.models
    known = {None: ("models.expert", models.expert), "vlm": ("models.vlm", models.vlm)}
    if models.base:
        known["base"] = ("models.base", models.base)
    inputs = local_inputs(*known["vlm"])
    for name, delta in step.deltas.items():
        for reference in (reference for expert, minus, _ in delta.pairs for reference in (expert, minus)):
            inputs |= model_inputs(*known.get(reference, (f"deltas.{name}:{reference}", str(reference))))
    return inputs


def _arm_inputs(step: ArmStep) -> Inputs:
    inputs = local_inputs("models.vlm", step.models.vlm)
    if step.models.start and not step.models.start_at_champion:
        inputs |= local_inputs("models.start", step.models.start)
    if step.merge:
        inputs |= model_inputs("models.expert", step.models.expert)
        for own in filter(None, step.merge.experts):
            inputs |= model_inputs(f"arms.{step.name}.merge.experts:{own}", own)
        inputs |= local_inputs("models.base", step.models.base) if step.models.base else {}
    if step.train and step.train.distils:
        inputs |= model_inputs("models.expert", step.models.expert)
    if step.train and step.train.deepspeed:
        check_deepspeed(step.train)  # before the teacher has worked for hours
        inputs |= local_inputs("train.deepspeed", step.train.deepspeed)
    if step.train and step.train.held_out and step.train.held_out.table:
        inputs |= local_inputs("train.held_out.table", step.train.held_out.table)
    return inputs


def _tables(evaluate: EvaluateConfig) -> Inputs:
    inputs: Inputs = {}
    for name in evaluate.benchmarks:
        path = evaluate.table(name)
        if not path.is_file():
            raise ConfigError(f"evaluate.benchmarks.{name}: {path} does not exist; set evaluate.data or file")
        inputs[f"evaluate.benchmarks.{name}"] = content_sha256(path)
    return inputs
