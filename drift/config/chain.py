"""The whole configuration, and what must fit across its sections."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from omegaconf import OmegaConf
from pydantic import Field, model_validator

from drift.config.data import CurateConfig, GenerateConfig, IngestConfig
from drift.config.evaluate import EvaluateConfig
from drift.config.gate import GateConfig, RegisterConfig
from drift.config.models import DeltaConfig, MergeConfig, ModelsConfig
from drift.config.section import KeysOf, Name, Section, suggest, validate
from drift.config.train import PriorConfig, TrainConfig


class ArmConfig(Section):
    """One way to a model: an optional merge, then an optional training."""

    merge: MergeConfig | None = None
    """Made first, from the same models; null merges nothing."""
    train: Annotated[dict[str, Any] | None, KeysOf(TrainConfig)] = None
    """Overrides of the section `train` (empty: as it stands); null trains nothing."""
    delta: Name | None = None
    """Which of `deltas` guides the training; null is plain SFT."""

    @property
    def used_deltas(self) -> set[str]:
        """Names of what guides the training and of what the merge adds."""
        return {name for name in (self.delta, self.merge.delta if self.merge else None) if name}


class TrackingConfig(Section):
    """MLflow. The server's address comes from MLFLOW_TRACKING_URI; without it a store in `runs` is used."""

    experiment: str | None = None
    """Null is the configuration's name."""
    upload: Literal["all", "winner", "none"] = "winner"
    """What of the large files MLflow gets: `all` weights of every arm and Δ too; `winner` of the weights the registered
    model's only; `none` neither weights nor rows of data, generations and answers. The rest is referred to."""


class Config(Section):
    """The whole chain: from problems to a registered model."""

    name: Name
    """Name of the runs and of the experiment."""
    seed: int = 0
    """Taken by every section that does not set its own."""
    runs: str = "runs"
    """Folder of run folders, cache and the embedded MLflow store."""
    models: ModelsConfig
    ingest: IngestConfig
    generate: GenerateConfig
    """Null where `curate.ready` brings the chains: no teacher is asked."""
    curate: CurateConfig = CurateConfig()
    deltas: dict[Name, DeltaConfig] = Field(default={"paper": DeltaConfig()}, min_length=1)
    """Every Δ by its name, which `arms.NAME.delta` refers to."""
    train: TrainConfig = TrainConfig()
    arms: dict[Name, ArmConfig] = Field(min_length=1)
    """Every way to a model by its name; all are evaluated, and one of them is `gate.candidate`."""
    evaluate: EvaluateConfig
    gate: GateConfig
    register_: RegisterConfig = Field(alias="register")
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, raw: Any) -> Any:
        """With what one section says for others."""
        return cls._spread_seed(_from_ready(raw)) if isinstance(raw, dict) else raw

    @staticmethod
    def _spread_seed(raw: dict[str, Any]) -> dict[str, Any]:
        seed = raw.get("seed")
        if not isinstance(seed, int):
            return raw
        spread = dict(raw)
        for section in ("ingest", "generate", "curate", "train", "gate"):
            if section == "curate" or section == "train" or isinstance(spread.get(section), dict):
                spread[section] = {"seed": seed, **(spread.get(section) or {})}
        return spread

    @model_validator(mode="after")
    def _arms_fit(self) -> Self:
        for name, arm in self.arms.items():
            if arm.merge is None and arm.train is None:
                raise ValueError(f"arms.{name}: neither merge nor train; give at least one (train: {{}} for defaults)")
            if arm.delta is not None and arm.delta not in self.deltas:
                raise ValueError(f"arms.{name}.delta: no delta '{arm.delta}'{suggest(arm.delta, self.deltas)}")
            if arm.delta is not None and arm.train is None:
                raise ValueError(f"arms.{name}.delta: '{arm.delta}' guides a training, but the arm has no train")
            if arm.merge is not None and arm.merge.needs_base:
                self._needs_base(f"arms.{name}.merge.method: '{arm.merge.method}'")
            self._has_delta(name, arm.merge)
            self._has_words(name)
            self._leaves_model(name)
        return self

    @model_validator(mode="after")
    def _references_exist(self) -> Self:
        for name, delta in self.deltas.items():
            if any(minus == "base" for _, minus, _ in delta.pairs):
                self._needs_base(f"deltas.{name}.minus: 'base'")
        for key, arm in [("candidate", self.gate.candidate), *(("beats", arm) for arm in self.gate.beats)]:
            if arm not in self.arms:
                raise ValueError(f"gate.{key}: no arm '{arm}'{suggest(arm, self.arms)}")
        if self.evaluate.endpoint is not None:
            raise ValueError("evaluate.endpoint: the chain evaluates checkpoints that it makes; remove it")
        roles = {benchmark.role for benchmark in self.evaluate.benchmarks.values()}
        for role in sorted({"reasoning", "perception"} - roles):
            raise ValueError(f"evaluate.benchmarks: none has role '{role}'; the gate needs both roles")
        return self

    def _has_delta(self, name: str, merge: MergeConfig | None) -> None:
        if merge is None or merge.method != "delta":
            return
        if merge.delta is None:
            raise ValueError(f"arms.{name}.merge.delta: required for method 'delta'; known: {', '.join(self.deltas)}")
        if merge.delta not in self.deltas:
            raise ValueError(f"arms.{name}.merge.delta: no delta '{merge.delta}'{suggest(merge.delta, self.deltas)}")

    def _has_words(self, name: str) -> None:
        """What an on-policy training asks the expert must come from somewhere: said before the teacher has worked."""
        train = self.arm_train(name)
        wordless = [key for key, one in self.ingest.each() if one.text_column is None]
        if train is not None and train.distils and wordless:
            key = wordless[0].replace("curate.ready", "ingest.source").removesuffix("source") + "text_column"
            raise ValueError(f"arms.{name}.train.method: on_policy asks the expert in words; set {key}")

    def _leaves_model(self, name: str) -> None:
        """All that follows an arm takes a whole model, and an adapter is of use beside it while its base is kept."""
        train = self.arm_train(name)
        if train is None or train.lora is None or not train.lora.saves_adapter:
            return
        if not train.lora.saves_model:
            raise ValueError(
                f"arms.{name}.train.lora.save: adapter, but projection, evaluation, gate and registry take a whole "
                "model; set both, which keeps the adapter in its folder"
            )
        if self.arms[name].merge is not None:
            raise ValueError(
                f"arms.{name}.train.lora.save: both, but the adapter's base, the arm's merge, is not kept; set merged"
            )

    def _needs_base(self, what: str) -> None:
        if self.models.base is None:
            raise ValueError(f"{what} needs models.base, which is not set")

    @property
    def allow_pickle(self) -> bool:
        """Whether a Δ or a merge may read weights that torch has pickled."""
        merges = [arm.merge for arm in self.arms.values() if arm.merge]
        return any(delta.allow_pickle for delta in self.deltas.values()) or any(one.allow_pickle for one in merges)

    def arm_train(self, name: str) -> TrainConfig | None:
        """The training section of an arm: the common one with the arm's overrides; None trains nothing.

        An arm without a Δ is plain SFT: a prior of the common section does not reach it.
        """
        arm = self.arms[name]
        if arm.train is None:
            return None
        common = self.train.model_dump(mode="json")
        if arm.delta is None:
            common["prior"] = None
        elif common["prior"] is None:
            common["prior"] = PriorConfig().model_dump(mode="json")
        merged = OmegaConf.to_container(OmegaConf.merge(common, arm.train))
        train = validate(TrainConfig, merged, where=f"arms.{name}.train")
        if (train.prior is None) != (arm.delta is None):
            raise ValueError(f"arms.{name}: a prior and a delta go together; set both or neither")
        return train


def _from_ready(raw: dict[str, Any]) -> dict[str, Any]:
    """``raw``, with `ingest` and `generate` as a ready set of chains wants them; unchanged with a teacher."""
    ingest, asked, curate = (raw.get(section) or {} for section in ("ingest", "generate", "curate"))
    if not all(isinstance(section, dict) for section in (ingest, asked, curate)):
        return raw
    teacher = asked.get("teacher")
    kind = teacher.get("kind") if isinstance(teacher, dict) else None
    ready = curate.get("ready")
    if not ready:
        if ("generate" in raw and not asked) or kind == "ready" or ingest.get("ready"):
            raise ValueError("generate: null asks no teacher; name one, or set curate.ready to finished chains")
        return raw
    if asked and kind != "ready":
        raise ValueError("curate.ready: the chains are there, so no teacher is asked; set generate: null, or remove it")
    if ingest.get("sources") or ingest.get("source") not in (None, "", ready):
        raise ValueError("ingest.source: curate.ready brings its own problems; set ingest.source: null")
    made = {"ingest": {**ingest, "source": ready, "ready": True}}
    return {**raw, **made, "generate": {**asked, "teacher": {"kind": "ready", "model": f"ready: {ready}"}}}


def checkpoint_paths(config: Config) -> dict[str, str]:
    """Where unfinished trainings and replies outlive their processes and pods, by the key that says so."""
    sections: dict[str, Any] = {name: getattr(config, name) for name in ("generate", "train", "evaluate")}
    sections |= {f"arms.{name}.train": config.arm_train(name) for name in config.arms}
    found = {f"{name}.checkpoints": one.checkpoints for name, one in sections.items() if one and one.checkpoints}
    common = found.get("train.checkpoints")
    return {key: path for key, path in found.items() if not (key.startswith("arms.") and path == common)}


def key_variables(section: Any) -> set[str]:
    """Names of the environment variables that hold keys of servers, anywhere in a section."""
    if isinstance(section, Section):
        return key_variables(section.model_dump())
    if not isinstance(section, dict):
        return set()
    own = {section["api_key_env"]} if section.get("api_key_env") else set()
    return own.union(*(key_variables(value) for value in section.values()))
