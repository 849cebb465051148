"""What a run costs, before anything is spent: tokens, training's floating-point operations and hours, by phase.

A token of a training takes 2N forward, 2N for the gradients of the activations and 2 a trained weight for its own
(Kaplan et al. 2020, section 2.1; 6N in a full fine-tuning, as in Hoffmann et al. 2022), and 2N again where activations
are recomputed. N counts the decoder with embeddings and head, and the vision tower where it is trained. Left out are a
frozen tower, and attention over the sequence: n_ctx · width · layers / N of each term (7B: 3 % at 2,048 tokens, 43 % at
32,768).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from drift.config.chain import Config
from drift.config.data import VllmTeacher
from drift.config.section import Count, Positive, Section
from drift.config.train import TrainConfig
from drift.planning.reach import expected_rows
from drift.planning.sizing import adapters, count
from drift.training.launch import processes_of
from drift.weights.storage.checkpoints import Checkpoint

Models = tuple[Checkpoint, Checkpoint]
SUMMED = ("tokens", "training_flop", "hours")
HOUR = 3600


class Assumptions(Section):
    """What an estimate rests on. Without means every row and answer is as long as it may be: a bound."""

    tokens_per_row: Count | None = None
    """Mean tokens of a training row, the image's with them; null is `train.cutoff_tokens`."""
    tokens_per_answer: Count | None = None
    """Mean tokens of a generated answer; null is `max_new_tokens`."""
    tflops: Positive = 0.4 * 989
    """TFLOP/s that a GPU reaches in training; default: 40 % of an H100's 989 (dense bf16, NVIDIA's data sheet)."""
    tokens_per_second: Positive | None = None
    """Of generated tokens, of one GPU or of the served endpoint; null leaves the hours of answers unknown."""


@dataclass(frozen=True)
class Phase:
    """A phase of a run, by its step's name; None is not known. `at_most`: its tokens are a bound, no expectation.

    `what`: problems × samples, rows × epochs, questions × models. `gpus` is 0 where a server works, `training_flop`
    where nothing is trained. `last_hours`: what the last run took.
    """

    phase: str
    what: str
    tokens: float | None
    at_most: bool
    gpus: int
    hours: float | None
    training_flop: float | None = 0.0
    last_hours: float | None = None


@dataclass(frozen=True)
class Total:
    """The sum of what is known, and whether that is all of it."""

    known: float
    complete: bool


def cost(
    config: Config,
    assumed: Assumptions,
    models: Models | None,
    *,
    samples: int | None = None,
    gpus: Mapping[str, int] | None = None,
    last: Mapping[str, float] | None = None,
) -> list[Phase]:
    """The teacher, each training, and the evaluation of φ_VL and every arm; Δ, merges and a champion are not counted.

    ``models``: φ_VL and the expert, None where they cannot be read. ``samples``: rows of the training set. ``gpus``: of
    the machine of a step (`arm`, `evaluate_arm`, with shards `answer_arm`); default: those torch sees here. ``last``:
    hours of the last run's phases. Raises ConfigError and DataError for data that cannot be used.
    """
    gpus = gpus or {}
    trainings = {name: train for name in config.arms if (train := config.arm_train(name))}
    rows = expected_rows(config, samples) if trainings else 0
    phases = [
        _teacher(config, assumed, gpus.get("generate")),
        *(_training(name, train, rows, assumed, models, gpus.get("arm")) for name, train in trainings.items()),
        _evaluation(config, assumed, gpus.get("answer_arm" if config.evaluate.shards > 1 else "evaluate_arm")),
    ]
    return [replace(phase, last_hours=(last or {}).get(phase.phase)) for phase in phases]


def total(phases: Sequence[Phase]) -> dict[str, Total]:
    """Of every column that can be summed; the hours are those of one phase after the other."""
    columns = {name: [getattr(phase, name) for phase in phases] for name in SUMMED}
    known = {name: [value for value in values if value is not None] for name, values in columns.items()}
    return {name: Total(math.fsum(known[name]), len(known[name]) == len(phases)) for name in SUMMED}


def flop_per_token(vlm: Checkpoint, expert: Checkpoint, train: TrainConfig) -> int:
    """Floating-point operations of a training per token: 4N, or 6N where activations are recomputed, + 2 · trained.

    On-policy 4N more: the student draws the token, and the expert, as large, scores it.
    """
    weights = count(vlm, expert, freeze_vision=train.freeze_vision or train.lora is not None).trained
    trained = adapters(vlm, expert, train.lora) if train.lora else weights
    passes = (3 if train.gradient_checkpointing else 2) + (2 if train.distils else 0)
    return 2 * (passes * weights + trained)


def _teacher(config: Config, assumed: Assumptions, gpus: int | None) -> Phase:
    from drift.data.problems.sources import count_problems  # datasets, which takes a second

    asked, problems = config.generate, count_problems(config.ingest)
    if asked.teacher.kind == "ready":
        return Phase("generate", f"{_counted(problems)} ready chains", 0, False, 0, 0.0)
    each = f"{'up to ' if asked.adaptive else ''}{asked.samples}"
    what = f"{_counted(problems)} problems × {each}{_in_shards(asked.shards)}"
    answers = None if problems is None else problems * asked.samples
    teacher = asked.teacher
    works = int(teacher.kind == "local")
    if isinstance(teacher, VllmTeacher):
        works = teacher.gpus(processes_of(None, gpus))
    phase = _answers("generate", what, answers, asked.max_new_tokens, works, assumed)
    return replace(phase, at_most=phase.at_most or asked.adaptive)


def _evaluation(config: Config, assumed: Assumptions, gpus: int | None) -> Phase:
    from drift.evaluate.benchmarks import count_questions

    asked, models = config.evaluate, 1 + len(config.arms)
    counts = [count_questions(name, asked) for name in asked.benchmarks]
    questions = None if None in counts else sum(filter(None, counts))
    what = f"{_counted(questions)} questions × {models}{_in_shards(asked.shards)}"
    answers = None if questions is None else questions * models
    served = asked.inference == "vllm"
    works = asked.vllm.gpus(processes_of(None, gpus)) if served else processes_of(asked.processes, gpus)
    return _answers("evaluate", what, answers, asked.max_new_tokens, works, assumed)


def _answers(phase: str, what: str, answers: int | None, bound: int, gpus: int, assumed: Assumptions) -> Phase:
    length, at_most = _length(bound, assumed.tokens_per_answer)
    if answers is None:
        return Phase(phase, what, None, at_most, gpus, None)
    rate, tokens = assumed.tokens_per_second, answers * length
    return Phase(phase, what, tokens, at_most, gpus, tokens / (max(1, gpus) * rate * HOUR) if rate else None)


def _training(
    name: str, train: TrainConfig, rows: int, assumed: Assumptions, models: Models | None, gpus: int | None
) -> Phase:
    length, at_most = _length(train.cutoff_tokens, assumed.tokens_per_row)
    tokens, ranks = rows * train.epochs * length, processes_of(train.processes, gpus)
    flop = tokens * flop_per_token(*models, train) if models else None
    known = not train.distils  # a draw waits for memory, not for arithmetic
    hours = flop / (ranks * assumed.tflops * 1e12 * HOUR) if flop and known else None
    return Phase(f"arm {name}", f"{rows:,} rows × {train.epochs:g}", tokens, at_most, ranks, hours, flop)


def _length(bound: int, mean: int | None) -> tuple[int, bool]:
    """Tokens that are counted, and whether they are the bound."""
    return min(bound, mean or bound), mean is None or mean >= bound


def _in_shards(shards: int) -> str:
    """Shards change where answers are written, and so when, not how many; each has a machine of this size."""
    return f" in {shards} shards" if shards > 1 else ""


def _counted(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
