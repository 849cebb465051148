"""Protocol `judge`: VLMEvalKit judges our replies with a judge model; it runs contained, in its own environment.

Its process gets replies without thinking, the cells that its judging reads, an environment of a few variables and a
temporary folder that is removed. What it picks at random, or its judge leaves undecided, is never right. Sums are ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import openai

from drift.config.evaluate import EvaluateConfig
from drift.config.servers import JudgeConfig
from drift.evaluate import rule, vlmevalkit
from drift.evaluate.benchmarks import Benchmark, Item
from drift.evaluate.formats import LETTERS
from drift.evaluate.samples import JUDGE_FAILED, JUDGE_RANDOM, Sample, Status
from drift.ground.errors import ConfigError, DataError, ServiceError, UnavailableError
from drift.ground.patience import service_error
from drift.inference.endpoint import api_key, is_completion, no_completion
from drift.inference.reply import Reply
from drift.verdicts.extract import split_thinking

logger = logging.getLogger(__name__)

VERSION = 2
"""Raised when our part of the judging changes, so that old scores are not compared with new ones."""

DRIVER = Path(vlmevalkit.__file__)
PYTHON_VARIABLE, PYTHON = "DRIFT_VLMEVALKIT_PYTHON", ".venv-vlmeval/bin/python"
COLUMNS = ("question", "answer", "hint", "question_type", "answer_type", "answer_option", "question_for_eval", *LETTERS)
"""All that its judging reads, besides `choices`, which it runs as Python and we write anew."""

NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
CHECK_SECONDS, MESSAGE_CHARACTERS = 30.0, 300
LETTERS_ONLY = re.compile("[A-Ha-h](?:, [A-Ha-h])*")
NO_ANSWER = frozenset({"", "Z", "Unknown", "null"})
REASONS = {"failed": JUDGE_FAILED, "random": JUDGE_RANDOM}


@dataclass(frozen=True)
class Verdict:
    """What VLMEvalKit says of one reply."""

    correct: bool
    answer: str
    """As the judge or VLMEvalKit itself extracted it."""
    failure: str | None
    """`failed`: no usable answer of the judge; `random`: an option chosen at random."""

    @property
    def status(self) -> Status:
        if self.failure:
            return "undetermined"
        return "correct" if self.correct else "unparsed" if self.answer in NO_ANSWER else "incorrect"


Verdicts = dict[tuple[str, int, str], Verdict]
"""By benchmark, number of the run and index."""


def describe(config: EvaluateConfig) -> dict[str, Any]:
    """All that decides what is asked and how it is judged; not where the judge is."""
    judge = _judge(config)
    return {
        **rule.describe(config),
        "name": "judge",
        "version": VERSION,
        "rule_version": rule.VERSION,
        "vlmevalkit": _installed(judge),
        "judge": judge.model,
        "temperature": judge.temperature,
    }


def check(judge: JudgeConfig) -> None:
    """Ask the judge once, before anything long. Raises ConfigError or ServiceError."""
    _installed(judge)
    key = _key(judge)
    client = openai.OpenAI(base_url=judge.base_url, api_key=key or "none", timeout=CHECK_SECONDS, max_retries=1)
    try:
        question: Any = {"role": "user", "content": "Answer with: yes"}
        if not is_completion(client.chat.completions.create(model=judge.model, messages=[question])):
            raise no_completion("evaluate.judge", judge.base_url)
    except ValueError:  # JSON by its header alone
        raise no_completion("evaluate.judge", judge.base_url) from None
    except openai.APIConnectionError as error:
        cause = f" ({type(error.__cause__).__name__})" if error.__cause__ else ""
        raise UnavailableError(
            f"evaluate.judge: {judge.base_url} does not answer{cause}; start the server or correct base_url"
        ) from None
    except openai.APIError as error:
        message = _scrubbed(f"{type(error).__name__}: {error}", key)
        raise service_error(error)(
            f"evaluate.judge: {judge.base_url} refuses '{judge.model}': {message}; check model, api_key_env and quota"
        ) from None


def judge_all(
    config: EvaluateConfig, benchmarks: Sequence[Benchmark], replies: Mapping[str, Sequence[Mapping[str, Reply]]]
) -> list[Sample]:
    """A sample per item and run, in the tables' order, run after run.

    Raises ServiceError if VLMEvalKit fails or runs too long, DataError past `judge.max_failed`.
    """
    judge = _judge(config)
    tables = {
        (benchmark.name, number): _table(benchmark, run)
        for benchmark in benchmarks
        for number, run in enumerate(replies[benchmark.name])
    }
    verdicts = _verdicts(judge, {key: table for key, table in tables.items() if table["rows"]})
    return [
        sample
        for benchmark in benchmarks
        for sample in _samples(benchmark, replies[benchmark.name], verdicts, judge.max_failed)
    ]


def _judge(config: EvaluateConfig) -> JudgeConfig:
    assert config.judge is not None
    return config.judge


# -------------------------------------------------------------------------------------- to VLMEvalKit


def _table(benchmark: Benchmark, replies: Mapping[str, Reply]) -> dict[str, Any]:
    """The rows with something to judge: a reply, whose thinking ended, and an answer after it.

    A row of LogicVista whose options are no letters stays the rule's: its judge would be asked for letters.
    """
    form = benchmark.config.format
    texts = {index: split_thinking(reply.text)[1] for index, reply in replies.items()}
    shown = [item for item in benchmark.items if form != "LogicVista" or item.form == "letters"]
    return {"form": form, "rows": [_row(item, texts[item.index]) for item in shown if texts.get(item.index)]}


def _row(item: Item, text: str) -> dict[str, str]:
    """Only the cells that are read; `choices` is run as Python there, and is a list of our own texts."""
    cells = {name: cell for name, cell in item.cells.items() if name in COLUMNS}
    if item.form in ("option", "letters"):
        golds = [name for name in ("answer", "answer_option") if LETTERS_ONLY.fullmatch(cells.get(name, ""))]
        cells |= {name: cells[name].upper() for name in golds}
    return {"index": f"#{item.index}", **cells, "choices": repr(list(item.choices)), "prediction": text}


def _verdicts(judge: JudgeConfig, tables: dict[tuple[str, int], dict[str, Any]]) -> Verdicts:
    if not tables:
        return {}
    judged = _run(judge, list(tables.values()))
    return {
        (*key, row["index"][1:]): Verdict(**one)
        for (key, table), verdicts in zip(tables.items(), judged, strict=True)
        for row, one in zip(table["rows"], verdicts, strict=True)
    }


# --------------------------------------------------------------------------------------- its process


def _run(judge: JudgeConfig, tables: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Verdicts on each row of each table. The key goes through a pipe, and into no file and no variable."""
    key = _key(judge)
    with tempfile.TemporaryDirectory(prefix="drift-judge-") as folder:
        out = Path(folder) / "verdicts.json"
        settings = {"url": f"{judge.base_url.rstrip('/')}/chat/completions", "key": key or "none"}
        settings |= judge.model_dump(include={"model", "temperature", "concurrency"})
        job = json.dumps({"judge": settings, "tables": tables, "out": str(out)})
        code, output = _process(judge, job, Path(folder))
        if code:
            last = next((line for line in reversed(output.splitlines()) if line.strip()), f"exit code {code}")
            raise ServiceError(f"evaluate.judge: VLMEvalKit failed: {_scrubbed(last, key)}")
        return cast("list[list[dict[str, Any]]]", json.loads(out.read_text(encoding="utf-8")))


def _process(judge: JudgeConfig, job: str, folder: Path) -> tuple[int, str]:
    """Exit code and output; the process and its children do not outlive the time limit, nor us.

    -I, so that the modules beside the driver are not importable there.
    """
    process = subprocess.Popen(
        [find_python(judge), "-I", DRIVER],
        cwd=folder,
        env=_environment(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(job, timeout=judge.timeout_seconds)
    except subprocess.TimeoutExpired:
        raise ServiceError(
            f"evaluate.judge.timeout_seconds: VLMEvalKit was not done after {judge.timeout_seconds:g} s; raise it, or "
            "concurrency"
        ) from None
    finally:
        _kill(process)
    return process.returncode, output


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _environment(folder: Path) -> dict[str, str]:
    """How the network is reached, and nothing else of ours."""
    network = {name: os.environ[name] for base in NETWORK for name in (base, base.lower()) if name in os.environ}
    return network | {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LMUData": str(folder),
        "PRED_FORMAT": "tsv",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }


def find_python(judge: JudgeConfig) -> str:
    """Of VLMEvalKit's environment. Raises ConfigError if there is none."""
    path = Path(judge.python or os.environ.get(PYTHON_VARIABLE) or PYTHON).absolute()
    if not path.is_file():
        raise ConfigError(
            f"evaluate.judge.python: no '{path}'; `make .venv-vlmeval/ready` installs VLMEvalKit, or name another "
            f"Python that has it here or in {PYTHON_VARIABLE}"
        )
    return str(path)


def _installed(judge: JudgeConfig) -> str:
    """Which VLMEvalKit it is. Raises ConfigError if there is none."""
    python = find_python(judge)
    found = subprocess.run([python, "-I", DRIVER, "version"], capture_output=True, text=True, check=False)
    if found.returncode:
        raise ConfigError(
            f"evaluate.judge.python: '{python}' has no VLMEvalKit; `make .venv-vlmeval/ready` installs one that has"
        )
    return found.stdout


def _key(judge: JudgeConfig) -> str | None:
    return api_key(judge.api_key_env, "evaluate.judge")


def _scrubbed(message: str, key: str | None) -> str:
    message = " ".join(message.split())
    return (message.replace(key, "***") if key else message)[-MESSAGE_CHARACTERS:]


# ------------------------------------------------------------------------------------ from VLMEvalKit


def _samples(
    benchmark: Benchmark, replies: Sequence[Mapping[str, Reply]], verdicts: Verdicts, max_failed: float
) -> list[Sample]:
    """The rule's samples with the judge's verdicts; what was not shown to it stays as it is."""
    mine = {key: verdict for key, verdict in verdicts.items() if key[0] == benchmark.name}
    _require_decided(benchmark.name, list(mine.values()), max_failed)
    statuses = {key: verdict.status for key, verdict in mine.items()} | _compared(benchmark, mine, len(replies))
    return [
        _judged(sample, mine[key], statuses[key]) if (key := _place(sample)) in mine else sample
        for sample in rule.judge(benchmark, *replies)
    ]


def _place(sample: Sample) -> tuple[str, int, str]:
    return sample.benchmark, sample.sample, sample.index


def _judged(sample: Sample, verdict: Verdict, status: Status) -> Sample:
    return dataclasses.replace(
        sample,
        correct=status == "correct",
        answer=None if verdict.answer in NO_ANSWER or verdict.failure else verdict.answer,
        status=status,
        error=REASONS.get(verdict.failure or ""),
        rule=sample.status,
    )


def _compared(benchmark: Benchmark, verdicts: Verdicts, count: int) -> dict[tuple[str, int, str], Status]:
    """The judge's extractions compared by rule, where VLMEvalKit's own comparison is none: see `_own_comparison`."""
    ours = {item.index for item in benchmark.items if _own_comparison(benchmark.config.format, item)}
    runs: list[dict[str, Reply]] = [{} for _ in range(count)]
    for (_, number, index), verdict in verdicts.items():
        if index in ours and not verdict.failure and verdict.answer not in NO_ANSWER:
            runs[number][index] = Reply(verdict.answer, "stop")
    samples = rule.judge(benchmark, *runs) if any(runs) else []
    return {_place(sample): sample.status for sample in samples if sample.index in runs[sample.sample]}


def _own_comparison(form: str, item: Item) -> bool:
    """MathVision's runs both sides as Python and takes `A` for 17; MathVista's is never true of a list or a text."""
    if form == "MathVista_MINI":
        return item.form == "open" and item.cells["answer_type"] not in ("integer", "float")
    return form == "MathVision"


def _require_decided(name: str, verdicts: Sequence[Verdict], max_failed: float) -> None:
    failures = [verdict.failure for verdict in verdicts if verdict.failure]
    if not failures:
        return
    said = (
        f"{name}: the judge did not decide {len(failures)} of {len(verdicts)} answers "
        f"({failures.count('failed')} failed, {failures.count('random')} chosen at random by VLMEvalKit)"
    )
    if len(failures) > max_failed * len(verdicts):
        raise DataError(f"evaluate.judge.max_failed: {said}, more than {max_failed:g}; take another judge or raise it")
    logger.warning("%s; they count as wrong", said)
