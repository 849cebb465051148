"""`evaluate`: which benchmarks, asked and judged how."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from drift.config.catalog import KNOWN, PLAIN, ROLES, Role
from drift.config.published import ROWS
from drift.config.section import Count, Fraction, Name, QuestionTemplate, Section, suggest
from drift.config.servers import EndpointConfig, JudgeConfig, VllmConfig


class BenchmarkConfig(Section):
    """One benchmark: a TSV file in VLMEvalKit's format; a published one (see `catalog`) needs only its name."""

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


DRAWN_TEMPERATURE = 0.7
"""Of several answers to a question, where none is set."""


class SamplesConfig(Section):
    """Answers to each question, by role: perception may need several to resolve a small loss."""

    reasoning: Count = 1
    """To each question of reasoning."""
    perception: Count = 1
    """To each question of perception."""


class EvaluateConfig(Section):
    """Greedy answers, or several drawn ones, judged by rule, or with a judge by VLMEvalKit."""

    endpoint: EndpointConfig | None = None
    """Ask a served model instead of a checkpoint."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What answers for a checkpoint: transformers in this step's processes, batch by batch, or a server of vLLM that
    the step starts. Scores of the two are not compared."""
    vllm: VllmConfig = VllmConfig()
    """Its settings, where `engine` is `vllm`."""
    data: str
    """Folder of the TSV files."""
    benchmarks: dict[Name, BenchmarkConfig] = Field(min_length=1)
    """By name; both roles must be there in a chain."""
    batch_size: Count = 16
    """Questions that transformers answers at once."""
    max_new_tokens: Count = 2048
    """Longest answer; those that are cut there are counted."""
    image_max_pixels: Count | None = 262144
    """Larger images are scaled down to this area; null leaves them."""
    image_min_pixels: Count | None = None
    """Smaller images are scaled up to this area; null leaves them."""
    instruction: str | None = None
    """One more line below every question, the same for all models: how to give the answer. Null adds none."""
    samples: SamplesConfig = SamplesConfig()
    """Answers to each question; a number stands for both roles. A question's value is the mean over its answers."""
    temperature: float | None = Field(None, ge=0)
    """Null: one answer is greedy, several are drawn at 0.7."""
    seed: int = 0
    """Of the draws: each answer to each question has its own, derived from it."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; `auto` is the checkpoint's own."""
    limit: Count | None = None
    """Only the first so many rows of each benchmark."""
    max_failed: Fraction = 0.01
    """More rows without an answer because of an error than this share stop the run."""
    max_truncated: Fraction = 1.0
    """More answers that hit `max_new_tokens` than this share stop the run."""
    max_overlap: Fraction = 1.0
    """More questions of a benchmark than this share that another benchmark holds too stop the run."""
    max_contaminated: Fraction = 0.01
    """More questions of a benchmark than this share that the training set holds stop the run, where one is given."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Of the intervals in scores and tables."""
    processes: Count | None = None
    """On this machine; null is one per GPU, and one without a GPU. Answers do not depend on it. vLLM has
    `vllm.data_parallel` instead."""
    shards: Count = 1
    """Steps that the questions to a model are asked in, each on a machine of its own; scores do not depend on it."""
    checkpoints: str | None = None
    """Path where replies outlive the process or pod, such as a claim, until all are there: none is paid for twice. Null
    keeps them beside the output alone."""
    threads: Count | None = None
    """CPU threads of torch; null leaves torch's own choice."""
    judge: JudgeConfig | None = None
    """Null judges by rule."""
    published: str | None = None
    """Row of the paper's tables (`drift.config.published`) that the unmodified VLM should match."""
    on_deviation: Literal["warn", "stop"] = "warn"
    """What happens where it is more than 2 points away in a comparable column. Nothing is trained before that."""

    @property
    def inference(self) -> Literal["endpoint", "local", "vllm"]:
        """Who answers, by the name that the protocol has for it."""
        if self.endpoint is not None:
            return "endpoint"
        return "vllm" if self.engine == "vllm" else "local"

    def table(self, name: str) -> Path:
        """The TSV file of a benchmark."""
        return Path(self.data) / (self.benchmarks[name].file or f"{name}.tsv")

    def asked(self, name: str) -> BenchmarkConfig:
        """A benchmark with the instruction in its template."""
        benchmark = self.benchmarks[name]
        if self.instruction is None:
            return benchmark
        doubled = self.instruction.replace("{", "{{").replace("}", "}}")
        return benchmark.model_copy(update={"prompt": f"{benchmark.prompt}\n{doubled}"})

    def samples_of(self, name: str) -> int:
        """Answers to each question of a benchmark."""
        return self.samples.reasoning if self.benchmarks[name].role == "reasoning" else self.samples.perception

    def temperature_of(self, name: str) -> float:
        """Of a benchmark's answers; 0 is greedy."""
        if self.temperature is not None:
            return self.temperature
        return DRAWN_TEMPERATURE if self.samples_of(name) > 1 else 0.0

    @field_validator("samples", mode="before")
    @classmethod
    def _one_number_for_both_roles(cls, samples: Any) -> Any:
        return dict.fromkeys(ROLES, samples) if isinstance(samples, int | str) else samples

    @model_validator(mode="after")
    def _asking_makes_sense(self) -> Self:
        several = max(self.samples_of(name) for name in self.benchmarks) > 1
        if several and self.temperature == 0:
            raise ValueError("samples: several greedy answers are the same one; set temperature above 0, or to null")
        if self.endpoint is not None and self.engine == "vllm":
            raise ValueError("engine: 'vllm' serves a checkpoint itself; remove endpoint, or set engine: transformers")
        if self.inference == "vllm":
            self.vllm.leaves_room_for(self.max_new_tokens)
        low, high = self.image_min_pixels, self.image_max_pixels
        if low is not None and high is not None and low > high:
            raise ValueError(f"image_min_pixels: {low} is more than image_max_pixels ({high})")
        return self

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
