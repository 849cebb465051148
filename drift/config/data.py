"""`ingest`, `generate` and `curate`: from a pool of problems to a training set."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from drift.config.section import Count, Fraction, Positive, ProblemTemplate, Section
from drift.config.servers import EndpointConfig, VllmConfig

Format = Literal["columns", "messages", "conversations", "prompt", "vlmevalkit"]
"""What a row looks like (docs/sources.md)."""


def matches(pattern: str) -> list[Path]:
    """The files that a glob stands for, in order; none for anything else."""
    found = glob.glob(pattern, recursive=True) if glob.has_magic(pattern) else []  # noqa: PTH207  # may be absolute
    return sorted(map(Path, found))


class SourceConfig(Section):
    """One of several sources. What it leaves out is taken from `ingest`."""

    source: str
    """As `ingest.source`."""
    weight: Positive | None = None
    """Share of the rows drawn from it: of all sources or of none."""
    name: str | None = None
    split: str | None = None
    revision: str | None = None
    format: Format | None = None
    problem_column: str | None = None
    answer_column: str | None = None
    image_column: str | None = None
    choices_column: str | None = None
    text_column: str | None = None
    chain_column: str | None = None
    image_folder: str | None = None


class IngestConfig(Section):
    """Problems in: rows of a question, a gold answer and images."""

    sources: list[SourceConfig] = Field([])
    """Several sources in place of `source`. Without weights all rows of each, one source after the other; with weights
    rows are drawn from them in that proportion until one has no more."""
    source: str = Field("", validate_default=True)
    """A file (parquet, JSON lines, JSON, CSV, TSV, these as .gz, a tar in webdataset's form), a glob of such files, a
    folder, or a Hugging Face dataset id."""
    ready: bool = False
    """The rows bring their chains of thought: `curate.ready` sets it."""
    name: str | None = None
    """Configuration of the dataset, where `source` is a dataset id."""
    split: str = "train"
    """Split, where `source` is a dataset id or a folder."""
    revision: str | None = None
    """Commit of the dataset, where `source` is a dataset id."""
    format: Format | None = None
    """What a row looks like; null is told by its columns."""
    problem_column: str = "problem"
    """Of the question."""
    answer_column: str = "answer"
    """Of the gold answer. A dot leads into a nested column: `reward_model.ground_truth`."""
    image_column: str = "image"
    """Of the image or images; `images` is taken where there is no `image`."""
    choices_column: str | None = None
    """Of the options, a list; null: the question has them, or none."""
    text_column: str | None = None
    """Of the problem in words, image and question, for a model that sees none (`train.method: on_policy`)."""
    chain_column: str | None = None
    """Of the chain of thought, where the format is `columns` and the rows bring one."""
    image_folder: str | None = None
    """Folder from which relative paths of images start; null is the folder of the file that names them."""
    text_only: bool = False
    """Take problems without an image too."""
    min_side_pixels: Count = 28
    """Smaller images are rejected: one visual token covers 28 x 28 pixels."""
    max_aspect_ratio: Positive = 200
    """Longer images are rejected: Qwen's image processor raises on them in the middle of training."""
    limit: Count | None = None
    """Read only so many rows."""
    max_rejected: Fraction = 0.1
    """More rejected rows than this share stop the run."""
    seed: int = 0
    """Of the draw from sources with weights."""

    @field_validator("sources")
    @classmethod
    def _weighted_alike(cls, sources: list[SourceConfig]) -> list[SourceConfig]:
        if len({one.weight is None for one in sources}) > 1:
            raise ValueError("give a weight to each source, or to none")
        return sources

    @field_validator("source", mode="before")
    @classmethod
    def _one_or_several(cls, source: Any, info: ValidationInfo) -> Any:
        if source and info.data.get("sources"):
            raise ValueError("give source or sources, not both")
        if not source and not info.data.get("sources", True):
            raise ValueError("required, but not set")
        return source or ""

    @property
    def called(self) -> str:
        """The source, or all of several, for messages."""
        return self.source or ", ".join(one.source for one in self.sources)

    def each(self) -> list[tuple[str, IngestConfig]]:
        """Every source's key, and the section for it alone."""
        if not self.sources:
            return [("curate.ready" if self.ready else "ingest.source", self)]
        return [(f"ingest.sources[{place}].source", self._of(one)) for place, one in enumerate(self.sources)]

    def _of(self, one: SourceConfig) -> IngestConfig:
        return self.model_copy(update={"sources": [], **one.model_dump(exclude={"weight"}, exclude_none=True)})

    def elsewhere(self, source: str) -> IngestConfig:
        """The section for another source with the same columns: all of it, in whatever format it is."""
        other = {"name": None, "revision": None, "format": None, "image_folder": None, "limit": None}
        return self.model_copy(update=other | {"source": source, "sources": [], "ready": False})


class LocalTeacher(Section):
    """A checkpoint on this machine (or a hub id), sampled with transformers."""

    kind: Literal["local"]
    """transformers, in this step's process."""
    model: str
    """Directory or hub id."""
    batch_size: Count = 16
    """Problems that are answered at once."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; `auto` is the checkpoint's own."""
    threads: Count | None = None
    """CPU threads of torch; null leaves torch's own choice."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint. Off unless you have read that code."""


class EndpointTeacher(EndpointConfig):
    """A served model as teacher."""

    kind: Literal["endpoint"]
    """A server that is there already."""
    model: str
    """Name under which the server has it."""


class VllmTeacher(VllmConfig):
    """A checkpoint on this machine (or a hub id), served by vLLM as long as it is asked."""

    kind: Literal["vllm"]
    """vLLM, started by the step."""
    model: str
    """Directory or hub id."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; `auto` is the checkpoint's own."""


class ReadyTeacher(Section):
    """No teacher: the chains came with the problems."""

    kind: Literal["ready"]
    """Set by `curate.ready`; not written by hand."""
    model: str = "ready"
    """What stands for the teacher: `curate.ready` sets it to `ready: SOURCE`."""


class GenerateConfig(Section):
    """The teacher writes chains of thought. Temperature, samples and prompt are ours: the paper gives none."""

    teacher: LocalTeacher | VllmTeacher | EndpointTeacher | ReadyTeacher = Field(discriminator="kind")
    """Who writes: its `kind` says which keys it has."""
    samples: Count = 4
    """Samples per problem."""
    adaptive: bool = False
    """One sample per problem first, and one more, up to `samples`, only while none of its answers is right."""
    temperature: float = Field(0.7, ge=0)
    """Of the draws; 0 is greedy."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Of the draws: tokens of the smallest set that has this probability."""
    max_new_tokens: Count = 4096
    """Longest chain; one that is cut there has no answer, and is left out."""
    prompt: ProblemTemplate = (
        "{problem}\nThink step by step inside <think> and </think>, then give only the final answer in \\boxed{{}}."
    )
    """Template of the user's turn; `{problem}` is replaced."""
    image_max_pixels: Count | None = 262144
    """Images are scaled down to this area for the teacher; the data keeps the originals."""
    seed: int = 0
    """Of the draws."""
    max_failed: Fraction = 0.05
    """More failed requests than this share stop the run."""
    shards: Count = 1
    """Steps that the problems are asked in, each on a machine of its own; what is drawn does not depend on it."""
    checkpoints: str | None = None
    """Path where replies outlive the process or pod, such as a claim, until all are there: none is paid for twice. Null
    keeps them beside the output alone."""

    @model_validator(mode="after")
    def _an_answer_fits(self) -> Self:
        if isinstance(self.teacher, VllmTeacher):
            self.teacher.leaves_room_for(self.max_new_tokens)
        return self


class ReplayConfig(Section):
    """Questions about perception with direct answers, mixed in so that perception is kept."""

    source: str
    """Same columns as `ingest.source`, or another format."""
    fraction: float = Field(0.25, gt=0, lt=1)
    """Share of the training set that is replay."""


class LengthConfig(Section):
    """The longest chain that is kept, counted as the student's training counts: chat, images and answer."""

    max_tokens: Count
    """Longer chains are left out before `keep` is drawn, so that `keep` is what a training sees."""
    processor: str | None = None
    """Directory or hub id of the student, for its processor; in a chain null is `models.vlm`."""
    image_max_pixels: Count | None = 262144
    """As `train.image_max_pixels`, whose value it has in a chain where it is not set."""


class AnswerJudge(EndpointConfig):
    """A served model that says whether an answer that is no number or formula means the same as the gold answer."""

    model: str
    """Name under which the server has it."""
    temperature: float = Field(0.0, ge=0)
    """0 is greedy."""
    max_new_tokens: Count = 1024
    """Room for a judge that reasons before it says `yes` or `no`."""
    seed: int = 0
    """Sent with each request."""
    max_failed: Fraction = 0.01
    """More answers that it did not decide than this share stop the run. They keep the verdict of the rules."""


Stratum = Literal["source", "kind", "pass_rate"]
Script = Literal[
    "Latin", "Han", "Hiragana", "Katakana", "Hangul", "Cyrillic", "Arabic", "Hebrew", "Devanagari", "Bengali", "Tamil",
    "Thai", "Georgian", "Armenian",
]  # fmt: skip


class CurateConfig(Section):
    """Generations in, training set out: the paper's two filters, then a selection."""

    ready: str | None = None
    """A set of finished chains in place of a teacher, read as `ingest` says; `generate` is then null."""
    require_format: bool = True
    """Keep only `<think>...</think> \\boxed{...}`."""
    require_correct: bool = True
    """Keep only answers equal to the gold answer."""
    keep: Count | None = 4000
    """Number of chains kept, one per problem; null keeps all."""
    keep_per: tuple[Stratum, ...] = ()
    """Draw `keep` in equal shares, as far as they last, from each source, kind of answer or pass rate, or each
    combination of these."""
    noisy: Count | None = None
    """Add so many chains that failed the filters `format` or `correct`, one per problem: the paper's Tab. 7 mixes 4,000
    into its 4,000."""
    min_kept: Count = 1
    """Fewer chains than this stop the run."""
    trace: Literal["median", "shortest", "longest", "random"] = "median"
    """Which correct chain of a problem is kept, by length."""
    max_pass_rate: Fraction = 1.0
    """Drop problems that the teacher solves more often than this (too easy)."""
    min_pass_rate: Fraction = 0.0
    """Drop problems that the teacher solves less often than this (too hard: a right answer may be luck)."""
    max_repeated: Fraction = 0.5
    """Drop chains that go round in circles: more of their tokens than this stood there before, and the text can be
    compressed to an eighth. 1 keeps them."""
    drop_leaks: bool = True
    """Drop chains that speak of an answer they were told ("the standard answer given is 7")."""
    scripts: tuple[Script, ...] | None = None
    """Keep only chains in these scripts, such as [Latin]; null takes any. Languages of one script are all one."""
    max_other_scripts: Fraction = 0.05
    """With `scripts`: so large a share of the letters may be of others."""
    length: LengthConfig | None = None
    """Leave out chains that are too long for the student; null leaves it to `train.cutoff_tokens`."""
    judge: AnswerJudge | None = None
    """Who decides where rules cannot: text answers in other words, and answers that are `undetermined`."""
    near_duplicates: bool = False
    """Keep one of the problems with near images, texts that ask the same and the same answer, and list those that
    contradict each other. Replay that a chain asks in near words is left out too."""
    decontaminate: bool = False
    """Leave out problems and replay that a table of `evaluate` holds: its image, or a near image with a near text."""
    against: tuple[str, ...] = ()
    """More tables to leave out the questions of: TSV files in VLMEvalKit's format."""
    prompt: ProblemTemplate = "{problem}"
    """Template of the student's user turn."""
    replay: ReplayConfig | None = None
    """Null mixes nothing in."""
    verify_timeout_seconds: Positive = 10
    """Of a core, for one expression; what takes longer is undetermined."""
    max_undetermined: Fraction = 0.01
    """More answers than this share that could not be verified stop the run."""
    license: str | None = None
    """Licence of the training set as Hugging Face names it, such as cc-by-4.0; its card says so."""
    seed: int = 0
    """Of every draw: of `keep`, `noisy`, `trace: random` and replay."""

    @model_validator(mode="after")
    def _rates_fit(self) -> Self:
        if self.min_pass_rate > self.max_pass_rate:
            raise ValueError(
                f"min_pass_rate: {self.min_pass_rate:g} is above max_pass_rate, {self.max_pass_rate:g}; lower it"
            )
        return self
