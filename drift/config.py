"""The configuration: every section and what its keys mean. Defaults are the paper's.

Keys are strict: an unknown one is an error that names the nearest right one. `drift.configfile` reads the files.
Imports no torch, so that `drift --help` and the Kubeflow compiler stay fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from omegaconf import OmegaConf
from pydantic import AfterValidator, Field, field_validator, model_validator

from drift.catalog import KNOWN, PLAIN, Role
from drift.errors import ConfigError
from drift.published import ROWS
from drift.validation import Section, suggest, validate

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Module = Annotated[str, Field(pattern=r"^(attn|mlp|norm|head|embed|re:.+)$")]


def _fills(placeholder: str) -> AfterValidator:
    """A template of the user's turn in which exactly ``{placeholder}`` is replaced."""

    def check(template: str) -> str:
        try:
            filled = template.format(**{placeholder: "\0"})
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            remedy = "write other braces double, as in \\boxed{{}}"
            raise ValueError(f"only {{{placeholder}}} is replaced; {remedy}") from error
        if "\0" not in filled:
            raise ValueError(f"must contain '{{{placeholder}}}'")
        return template

    return AfterValidator(check)


ProblemTemplate = Annotated[str, _fills("problem")]
QuestionTemplate = Annotated[str, _fills("question")]


# ---------------------------------------------------------------------------------------------- data


class IngestConfig(Section):
    """Problems in: one table of problem, gold answer and image."""

    source: str
    """Parquet or JSON-lines file, or a Hugging Face dataset id, one problem a row."""
    split: str = "train"
    """Split, where `source` is a dataset id."""
    revision: str | None = None
    """Commit of the dataset, where `source` is a dataset id."""
    problem_column: str = "problem"
    answer_column: str = "answer"
    image_column: str = "image"
    choices_column: str | None = None
    min_side_pixels: Count = 28
    """Smaller images are rejected: one visual token covers 28 x 28 pixels."""
    max_aspect_ratio: Positive = 200
    """Longer images are rejected: Qwen's image processor raises on them in the middle of training."""
    limit: Count | None = None
    """Read only so many rows."""
    max_rejected: Fraction = 0.1
    """More rejected rows than this share stop the run."""


class LocalTeacher(Section):
    """A checkpoint on this machine (or a hub id), sampled with transformers."""

    kind: Literal["local"]
    model: str
    batch_size: Count = 16
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: Count | None = None
    """CPU threads of torch; null leaves torch's own choice."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint. Off unless you have read that code."""


class EndpointConfig(Section):
    """Any server that speaks OpenAI's chat completions, such as vLLM."""

    base_url: str
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; the key itself never stands in a file."""
    concurrency: Count = 64
    timeout_seconds: Positive = 600
    max_retries: int = Field(8, ge=0)


class EndpointTeacher(EndpointConfig):
    """A served model as teacher."""

    kind: Literal["endpoint"]
    model: str


class GenerateConfig(Section):
    """The teacher writes chains of thought. Temperature, samples and prompt are ours: the paper gives none."""

    teacher: LocalTeacher | EndpointTeacher = Field(discriminator="kind")
    samples: Count = 4
    """Samples per problem."""
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    max_new_tokens: Count = 4096
    prompt: ProblemTemplate = (
        "{problem}\nThink step by step inside <think> and </think>, then give only the final answer in \\boxed{{}}."
    )
    """Template of the user's turn; `{problem}` is replaced."""
    image_max_pixels: Count | None = 262144
    """Images are scaled down to this area for the teacher; the data keeps the originals."""
    seed: int = 0
    max_failed: Fraction = 0.05
    """More failed requests than this share stop the run."""


class ReplayConfig(Section):
    """Questions about perception with direct answers, mixed in so that perception is kept."""

    source: str
    """Same formats and columns as `ingest.source`."""
    fraction: float = Field(0.25, gt=0, lt=1)
    """Share of the training set that is replay."""


class CurateConfig(Section):
    """Generations in, training set out: the paper's two filters, then a selection."""

    require_format: bool = True
    """Keep only `<think>...</think> \\boxed{...}`."""
    require_correct: bool = True
    """Keep only answers equal to the gold answer."""
    keep: Count | None = 4000
    """Number of chains kept, one per problem; null keeps all."""
    min_kept: Count = 1
    """Fewer chains than this stop the run."""
    trace: Literal["median", "shortest", "longest", "random"] = "median"
    """Which correct chain of a problem is kept, by length."""
    max_pass_rate: Fraction = 1.0
    """Drop problems that the teacher solves more often than this (too easy)."""
    prompt: ProblemTemplate = "{problem}"
    """Template of the student's user turn."""
    replay: ReplayConfig | None = None
    verify_timeout_seconds: Positive = 10
    max_undetermined: Fraction = 0.01
    """More answers than this share that could not be verified stop the run."""
    seed: int = 0


# --------------------------------------------------------------------------------------------- models


class ModelsConfig(Section):
    """The checkpoints: local directories or hub ids, all fine-tuned from one base."""

    vlm: str
    """φ_VL, the multimodal model to fine-tune."""
    expert: str
    """φ_reason, the text model that reasons."""
    base: str | None = None
    """φ_base, the language model both come from; some merges and Δ = φ_reason − φ_base need it."""
    start: str | None = None
    """What training starts from: null is φ_VL; `champion` the registry's, if there is one; or a checkpoint made from
    φ_VL. Δ, its projection and the gate's baseline stay φ_VL's. An arm that merges first starts from its merge."""

    @property
    def start_at_champion(self) -> bool:
        """Whether the registry says what training starts from."""
        return self.start == "champion"

    def without_start(self) -> Self:
        """For what does not depend on where training starts."""
        return self.model_copy(update={"start": None})


class ExpertConfig(Section):
    """One of several experts that a Δ is made of."""

    model: str | None = None
    """A checkpoint; null is `models.expert`."""
    weight: float = Field(1.0, allow_inf_nan=False)
    """Its share of the direction, relative to the others'; negative leads away from it."""
    minus: str | None = None
    """What is subtracted from it; null is the Δ's own `minus`."""

    @field_validator("weight")
    @classmethod
    def _weighs_something(cls, weight: float) -> float:
        if weight == 0:
            raise ValueError("an expert of weight 0 takes no part; remove it")
        return weight


class DeltaConfig(Section):
    """One prior Δ = φ_reason − φ_other, or a weighted mean of several, over the text decoder's selected modules."""

    experts: tuple[ExpertConfig, ...] = ()
    """Several experts, each with a weight: Δ points along Σ wᵢ Δᵢ/‖Δᵢ‖. Empty: `models.expert` alone, Δ raw."""
    minus: str = "vlm"
    """φ_other: `vlm` (the paper's), `base`, or a checkpoint."""
    modules: tuple[Module, ...] = ("attn", "mlp")
    """attn, mlp, norm, head, embed, or `re:` and a pattern over canonical names."""
    layers: str | None = None
    """`0-27`, `4,8-11`; null for all."""
    include_bias: bool = True
    force: bool = False
    """Go on although the checkpoints do not look like fine-tunes of one base, or φ_VL was made from another here."""

    @property
    def pairs(self) -> tuple[tuple[str | None, str, float], ...]:
        """(expert or None for `models.expert`, what is subtracted from it, weight) of each difference Δ is made of."""
        experts = self.experts or (ExpertConfig(),)
        return tuple((expert.model, expert.minus or self.minus, expert.weight) for expert in experts)

    @field_validator("layers")
    @classmethod
    def _layers_parse(cls, layers: str | None) -> str | None:
        if layers is not None:
            parse_layers(layers)
        return layers


def parse_layers(text: str) -> frozenset[int]:
    """`"0-2,5"` as {0, 1, 2, 5}. Raises ValueError."""
    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise ValueError(f"'{part.strip()}' is no layer or range; write for example '0-27' or '4,8-11'")
        chosen.update(range(int(first), int(last if dash else first) + 1))
    return frozenset(chosen)


class ScheduleConfig(Section):
    """How the prior's strength changes over training. The paper's α is constant."""

    kind: Literal["constant", "linear", "cosine", "projection"] = "constant"
    """`linear` and `cosine` take α to 0 over the steps, `projection` as the weights approach the expert."""
    warmup: Fraction = 0.0
    """Share of the steps over which α rises from 0, for every kind."""
    end: float = Field(1.0, gt=0, le=1)
    """`linear`, `cosine`: share of the steps after which α is 0."""
    target: Positive = 1.0
    """`projection`: α falls linearly and is 0 when ⟨φ_t − φ_VL, Δ⟩/‖Δ‖² reaches this (1 = at the expert)."""
    start: float = Field(0.0, ge=0)
    """`projection`: α is whole up to this projection."""

    @model_validator(mode="after")
    def _start_below_target(self) -> Self:
        if self.start >= self.target:
            raise ValueError("start must be below target")
        return self


class PriorConfig(Section):
    """The gradient bias g~ = g + α·scale(g, Δ) (DRIFT, section 3)."""

    scale: Literal["absolute", "grad_norm", "adaptive", "adaptive_descent"] = "adaptive"
    alpha: float = -1.0
    """Negative pulls towards the expert, since the optimizer subtracts the gradient."""
    apply: Literal["step", "backward"] = "step"
    """`step`: once per optimizer step on the averaged gradient. `backward`: per micro-batch, as the released code."""
    clip: Literal["before", "after"] = "before"
    """Bias before gradient clipping (the paper's order), or after it."""
    rescale_to_weight: bool = False
    """`absolute` only: scale Δ to the norm of φ_VL's tensor first, as the released code does."""
    schedule: ScheduleConfig = ScheduleConfig()

    @model_validator(mode="after")
    def _rescale_is_absolute(self) -> Self:
        if self.rescale_to_weight and self.scale != "absolute":
            raise ValueError("rescale_to_weight only changes scale 'absolute'; remove it or set scale: absolute")
        if self.apply == "backward" and self.clip == "after":
            raise ValueError("apply 'backward' acts before clipping; set clip: before")
        if self.apply == "backward" and self.schedule.kind == "projection":
            raise ValueError("schedule 'projection' acts once per step; set apply: step, or another kind")
        return self


class LoraConfig(Section):
    """Low-rank adapters on the text decoder's projections (peft), merged into the weights at the end."""

    rank: Count = 16
    alpha: Positive = 32
    """peft's lora_alpha: the update is scaled by alpha/rank."""
    dropout: Fraction = 0.0
    modules: tuple[Literal["attn", "mlp"], ...] = Field(("attn", "mlp"), min_length=1)
    """Which projections get an adapter; a prior needs one for every matrix of its Δ."""


class TrainConfig(Section):
    """Supervised fine-tuning; with a prior it is DRIFT. Defaults: the paper's recipe."""

    epochs: Positive = 3.0
    learning_rate: Positive = 1e-6
    lr_scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup_ratio: Fraction = 0.05
    per_device_batch_size: Count = 1
    gradient_accumulation: Count = 1
    max_grad_norm: float = Field(1.0, ge=0)
    """0 turns clipping off."""
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: Fraction = 0.9
    adam_beta2: Fraction = 0.999
    bf16: bool = True
    """bfloat16 arithmetic over float32 master weights."""
    gradient_checkpointing: bool = True
    cutoff_tokens: Count = 32768
    """Longer samples are left out (counted), never cut."""
    max_skipped: Fraction = 0.01
    """More samples left out than this share stop the run."""
    image_max_pixels: Count | None = 262144
    freeze_vision: bool = True
    """Keep the vision tower and the projector as they are."""
    add_think_tokens: bool = False
    """Add <think> and </think> to the tokenizer, as the released code does."""
    deepspeed: str | None = None
    """Path of a DeepSpeed configuration, see configs/deepspeed/."""
    processes: Count | None = None
    """Ranks on this machine; null is one per GPU, and one without a GPU. The global batch grows with them."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of the weights."""
    liger: bool = False
    """Use the fused kernels of the extra `liger` (needs a GPU)."""
    seed: int = 0
    threads: Count | None = None
    """CPU threads of torch; null leaves torch's own choice."""
    logging_steps: Count = 1
    save_steps: Count | None = None
    """Keep a checkpoint every so many steps, to go on from after a crash."""
    prior: PriorConfig | None = None
    """The gradient bias; null is plain SFT."""


KEPT_CHECKPOINTS = 2
"""Of a training with `save_steps`: its latest."""

MergeMethod = Literal["linear", "task_arithmetic", "ties", "dare_ties", "dare_linear", "layer_swap"]


class MergeConfig(Section):
    """A merging baseline over the text decoder; vision, embeddings and head stay the VLM's."""

    method: MergeMethod
    weights: tuple[float, float] = (0.9, 0.1)
    """Weights of φ_VL and φ_reason (or of their differences from φ_base)."""
    density: float = Field(0.2, gt=0, le=1)
    """TIES, DARE: share of each difference that is kept."""
    keep_first: int = Field(6, ge=0)
    """Layer swap: the first layers that stay the VLM's."""
    rescale: bool = True
    """DARE: divide what is kept by the density. BR2V's published numbers were made without."""
    seed: int = 0


def merge_preset(name: str, method: str) -> dict[str, Any]:
    """A published recipe's settings of a method. `br2v`: those of the paper's baselines, DARE without its rescaling.

    Raises ConfigError for an unknown preset.
    """
    if name != "br2v":
        raise ConfigError(f"preset: '{name}' is unknown; known: br2v")
    if method in ("ties", "dare_ties", "dare_linear"):
        return {"weights": [1.6, 0.2], "density": 0.2, "rescale": False}
    return {"weights": [0.9, 0.1], "keep_first": 6}


class ArmConfig(Section):
    """One way to a model: an optional merge, then an optional training."""

    merge: MergeConfig | None = None
    train: dict[str, Any] | None = None
    """Overrides of the section `train` (empty: as it stands); null trains nothing."""
    delta: Name | None = None
    """Which of `deltas` guides the training; null is plain SFT."""


# ----------------------------------------------------------------------------------------- evaluation


class BenchmarkConfig(Section):
    """One benchmark: a TSV file in VLMEvalKit's format; a published one (`drift.catalog`) needs only its name."""

    format: str = PLAIN
    """Whose columns, questions and sums: a published benchmark's name (the default, under that name), or `plain`."""
    role: Role = Field(default=None, validate_default=True)
    """`reasoning` or `perception`; a published form has its own."""
    file: str | None = None
    """File name in `evaluate.data`; null is the benchmark's name and `.tsv`."""
    prompt: QuestionTemplate = "{question}"
    """Template of the user's turn; `{question}` is replaced, options included. Other braces are doubled."""

    @field_validator("format")
    @classmethod
    def _format_is_known(cls, form: str) -> str:
        if form != PLAIN and form not in KNOWN:
            raise ValueError(f"no benchmark '{form}'{suggest(form, [PLAIN, *KNOWN])}")
        return form


class JudgeConfig(Section):
    """A judge model behind VLMEvalKit: any server that speaks OpenAI's chat completions."""

    base_url: str
    model: str
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; the key itself never stands in a file."""
    temperature: float = Field(0.0, ge=0)
    concurrency: Count = 16
    timeout_seconds: Positive = 7200
    """For judging all benchmarks together."""
    max_failed: Fraction = 0.01
    """More answers of a benchmark that the judge did not decide than this share stop the run."""
    python: str | None = None
    """Python that has VLMEvalKit; null: of the variable DRIFT_VLMEVALKIT_PYTHON, else `.venv-vlmeval/bin/python`."""


class EvaluateConfig(Section):
    """Greedy answers, judged by rule, or with a judge by VLMEvalKit."""

    endpoint: EndpointConfig | None = None
    """Ask a served model instead of a checkpoint. vLLM: start it with `--generation-config vllm`, since it would
    take penalties that the checkpoint ships with, which are no part of the protocol."""
    data: str
    """Folder of the TSV files."""
    benchmarks: dict[Name, BenchmarkConfig] = Field(min_length=1)
    batch_size: Count = 16
    max_new_tokens: Count = 2048
    image_max_pixels: Count | None = 262144
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    limit: Count | None = None
    """Only the first so many rows of each benchmark."""
    max_failed: Fraction = 0.01
    """More rows without an answer because of an error than this share stop the run."""
    max_truncated: Fraction = 1.0
    """More answers that hit `max_new_tokens` than this share stop the run."""
    confidence: float = Field(0.95, gt=0, lt=1)
    processes: Count | None = None
    """On this machine; null is one per GPU, and one without a GPU. Answers do not depend on it."""
    threads: Count | None = None
    judge: JudgeConfig | None = None
    """Null judges by rule."""
    published: str | None = None
    """Row of the paper's tables (`drift.published`) that the unmodified VLM should match."""
    on_deviation: Literal["warn", "stop"] = "warn"
    """What happens where it is more than 2 points away in a comparable column. Nothing is trained before that."""

    def table(self, name: str) -> Path:
        """The TSV file of a benchmark."""
        return Path(self.data) / (self.benchmarks[name].file or f"{name}.tsv")

    @field_validator("published")
    @classmethod
    def _row_is_known(cls, row: str | None) -> str | None:
        if row is not None and row not in ROWS:
            raise ValueError(f"no row '{row}'{suggest(row, ROWS)}")
        return row

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _published_by_name(cls, benchmarks: Any) -> Any:
        """Format and role of a published benchmark need not be written."""
        if not isinstance(benchmarks, dict):
            return benchmarks
        return {name: _as_published(name, raw) for name, raw in benchmarks.items()}

    @model_validator(mode="after")
    def _judge_knows_the_forms(self) -> Self:
        plain = [name for name, benchmark in self.benchmarks.items() if benchmark.format == PLAIN]
        if self.judge and plain:
            raise ValueError(f"benchmarks.{plain[0]}.format: VLMEvalKit does not know '{PLAIN}'; set judge: null")
        return self


def _as_published(name: str, raw: Any) -> Any:
    if not isinstance(raw, dict | None):
        return raw
    filled = {"format": name if name in KNOWN else PLAIN, **(raw or {})}
    known = KNOWN.get(filled["format"])
    return {"role": known.role, **filled} if known else filled


class GateConfig(Section):
    """When a candidate may be registered: better at reasoning, perception kept, no worse than the champion. Points of
    percent, paired; no single perception benchmark may be significantly worse either (Holm)."""

    candidate: Name
    """The arm that may be registered."""
    min_reasoning_gain: float = 0.0
    """The lower bound of its gain in mean reasoning on the unmodified VLM must lie above this."""
    max_perception_loss: float = Field(2.0, ge=0)
    """Margin of non-inferiority: the lower bound of its difference in mean perception must lie above minus this."""
    max_reasoning_loss: float = Field(2.0, ge=0)
    """The same for mean reasoning against the registry's champion, where there is one."""
    max_failed: Fraction = 0.01
    """At most this share of its questions may have had no answer because of an error."""
    max_truncated: Fraction = 0.1
    """At most this share of its replies may have been cut at `max_new_tokens`."""
    beats: tuple[Name, ...] = ()
    """Arms whose reasoning it must also beat (point estimate)."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Of every bound and test, one-sided."""
    resamples: Count = 2000
    """Of the paired bootstrap."""
    seed: int = 0


class RegisterConfig(Section):
    """Where a model that passed goes."""

    model: Name
    """Name of the registered model in MLflow."""
    promote: bool = True
    """Move the alias `champion` to the new version; without, it stays at `candidate`."""


class TrackingConfig(Section):
    """MLflow. The server's address comes from MLFLOW_TRACKING_URI; without it a store in `runs` is used."""

    experiment: str | None = None
    """Null is the configuration's name."""


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
    curate: CurateConfig = CurateConfig()
    deltas: dict[Name, DeltaConfig] = Field(default={"paper": DeltaConfig()}, min_length=1)
    train: TrainConfig = TrainConfig()
    arms: dict[Name, ArmConfig] = Field(min_length=1)
    evaluate: EvaluateConfig
    gate: GateConfig
    register_: RegisterConfig = Field(alias="register")
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _spread_seed(cls, raw: Any) -> Any:
        seed = raw.get("seed") if isinstance(raw, dict) else None
        if not isinstance(seed, int):
            return raw
        spread = dict(raw)
        for section in ("generate", "curate", "train", "gate"):
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
            if arm.merge is not None and arm.merge.method != "linear" and arm.merge.method != "layer_swap":
                self._needs_base(f"arms.{name}.merge.method: '{arm.merge.method}'")
            self.arm_train(name)
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

    def _needs_base(self, what: str) -> None:
        if self.models.base is None:
            raise ValueError(f"{what} needs models.base, which is not set")

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


def key_variables(section: Any) -> set[str]:
    """Names of the environment variables that hold keys of servers, anywhere in a section."""
    if isinstance(section, Section):
        return key_variables(section.model_dump())
    if not isinstance(section, dict):
        return set()
    own = {section["api_key_env"]} if section.get("api_key_env") else set()
    return own.union(*(key_variables(value) for value in section.values()))
