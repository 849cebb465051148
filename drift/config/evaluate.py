"""`evaluate`: which benchmarks, asked and judged how."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from drift.config.catalog import KNOWN, PLAIN, Role
from drift.config.published import ROWS
from drift.config.section import Count, Fraction, Name, QuestionTemplate, Section, suggest
from drift.config.servers import EndpointConfig, JudgeConfig


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
    """Row of the paper's tables (`drift.config.published`) that the unmodified VLM should match."""
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
