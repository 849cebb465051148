"""`ingest`, `generate` and `curate`: from a pool of problems to a training set."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from drift.config.section import Count, Fraction, Positive, ProblemTemplate, Section
from drift.config.servers import EndpointConfig


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
    shards: Count = 1
    """Steps that the problems are asked in, each on a machine of its own; what is drawn does not depend on it."""
    checkpoints: str | None = None
    """Path where replies outlive the process or pod, such as a claim, until all are there: none is paid for twice. Null
    keeps them beside the output alone."""


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
