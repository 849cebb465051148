"""VLMEvalKit's judging of given answers: a program that its own Python runs, since it shares no environment with drift.

Reads a job in JSON from stdin (see `drift.evaluate.judged`) and writes the verdicts to the file that the job names.
Imports nothing of drift. With the argument `version` it says which VLMEvalKit is installed, and does nothing else.
"""

from __future__ import annotations

import csv
import functools
import importlib
import importlib.metadata
import json
import os
import re
import ssl
import sys
import threading
from pathlib import Path
from typing import Any

Row = dict[str, Any]

FAILED = "Failed to obtain answer via API"
RETRIES_FAILED = "All 5 retries failed."
RANDOM = "Failed to predict, thus randomly generate one."
MATCHED = "Match Log: "
THINKING = re.compile(r".*(?:</\s*think(?:ing)?\s*>|◁/think▷)", re.DOTALL | re.IGNORECASE)
UNENDED = re.compile(r"<\s*think(?:ing)?\s*>|◁think▷", re.IGNORECASE)
REFUSAL = re.compile(
    r"(?i)\b(?:(?:i(?:'|’)?m|i am) (?:very |so |really )?(?:sorry|afraid|unable|not able)|sorry,? (?:but )?i\b"
    r"|i (?:can(?:'|’)?t|cannot|can not|won(?:'|’)?t|will not|am not able to|must decline)|as an ai\b|i apologi[sz]e)"
)
WORD = re.compile(r"(?<!\\)\b[^\W\d_]{2,}")
MOST_WORDS = 8
"""Of an extracted answer that is not in the judged text; more are prose, and no extraction."""

WORDS = {"HallusionBench": re.compile(r"(?i)\b(?:yes|no|unknown)\b")}
"""Without one of them a judge's answer is none, where VLMEvalKit cannot tell that from an answer."""

EXTRACTS = ("MathVista_MINI", "MathVision", "MathVerse_MINI_Vision_Only")
OPERATORS: list[Any] = []
"""Declared ones; they live as long as their objects."""

IN_A_ROW = 4
"""So many failed requests for each one in flight, without any answer between them, mean that the judge is down."""

RESULT = {
    "MathVerse_MINI_Vision_Only": "_judge_score",
    "HallusionBench": "_auxmatch",
    "RealWorldQA": "_judge_result",
    "MMStar": "_judge_result",
}
"""Which of its files holds the result of each row, where it is not `_judge`."""

SUMS = {
    "mathvista": ["MathVista_acc"],
    "mathv": ["MATH_V_acc"],
    "mathverse": ["MathVerse_acc"],
    "wemath": ["wemath_evaluate_models", "wemath_accuracy"],
    "logicvista": ["evaluate_logicvista"],
    "yorn": ["Hallusion_rating"],
    "multiple_choice": ["report_acc"],
}
"""What adds up the rows: drift does that itself, over the real number of problems and without division by zero."""


class JudgeDownError(Exception):
    """The judge answers nothing any more."""


def main() -> None:
    """Judge the tables of the job, one after the other."""
    if sys.argv[1:] == ["version"]:
        sys.stdout.write(installed())
        return
    job = json.load(sys.stdin)
    import_vlmevalkit()
    contain()
    verdicts = [judged(table, Path(str(place)), job["judge"]) for place, table in enumerate(job["tables"])]
    Path(job["out"]).write_text(json.dumps(verdicts), encoding="utf-8")


def installed() -> str:
    """Distribution and version, and the commit if it was installed from a repository."""
    name = next(name for name in ("ms-vlmeval", "vlmeval") if any(importlib.metadata.distributions(name=name)))
    found = importlib.metadata.distribution(name)
    source = json.loads(found.read_text("direct_url.json") or "{}").get("vcs_info", {})
    return " ".join([name, found.version, *([source["commit_id"]] if source else [])])


def import_vlmevalkit() -> None:
    """Import it, with TLS verification left on: it turns that off for the whole process."""
    context = ssl._create_default_https_context
    _import_torchvision()
    importlib.import_module("vlmeval")
    ssl._create_default_https_context = context


def _import_torchvision() -> None:
    """PyPI's builds need CUDA's libraries. Without them, declare the operators that its import looks for."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        import torch

        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        OPERATORS.append(operators)
        importlib.import_module("torchvision")


def contain() -> None:
    """Run nothing that a model wrote, read cells as the text they are, and leave the sums to drift."""
    import pandas

    pandas.read_csv = functools.partial(pandas.read_csv, dtype=str, keep_default_na=False, na_values=[""])
    for module, names in SUMS.items():
        for name in names:
            setattr(_utils(module), name, lambda *_: pandas.DataFrame())
    _utils("mathv").is_equal = _same_text  # the original evaluates both as Python


def _same_text(answer: object, gold: object) -> bool:
    return str(answer).strip().lower() == str(gold).strip().lower()


def _utils(name: str) -> Any:
    return importlib.import_module(f"vlmeval.dataset.utils.{name}")


# -------------------------------------------------------------------------------------------- judging


def judged(table: Row, folder: Path, settings: Row) -> list[Row]:
    """A verdict on each row of one table, in a folder of its own."""
    folder.mkdir()
    os.environ["LMUData"] = str(folder.absolute())  # noqa: SIM112
    form = table["form"]
    predictions = folder.absolute() / f"drift_{form}.tsv"
    write_table(folder / f"{form}.tsv", table["rows"])
    write_table(predictions, table["rows"])
    judge = judge_class(settings, form)
    dataset = build_dataset(form)
    vars(sys.modules[type(dataset).__module__])["build_judge"] = judge.build
    dataset.evaluate(str(predictions), model="judge", nproc=settings["concurrency"])
    result = predictions.with_name(f"{predictions.stem}{RESULT.get(form, '_judge')}.tsv")
    rows = {row["index"]: row for row in read_table(result)}
    return [verdict(form, rows[row["index"]], judge.failed) for row in table["rows"]]


def build_dataset(form: str) -> Any:
    """Its class for the form, over the table in LMUData, whose digest drift has checked."""
    from vlmeval.dataset import DATASET_CLASSES

    kind = next(kind for kind in DATASET_CLASSES if form in kind.supported_datasets())
    kind.DATASET_MD5.pop(form, None)
    return kind(dataset=form)


def usable(answer: str, form: str, prompt: str) -> str | None:
    """A judge's answer without its thinking; None for nothing, a refusal, or prose where an answer is to be extracted.

    What stands in the prompt is the judged model's own words, whatever they are.
    """
    said = THINKING.sub("", answer, count=1).strip()
    if not said or UNENDED.search(said) or (form in WORDS and not WORDS[form].search(said)):
        return None
    prose = form in EXTRACTS and len(WORD.findall(said)) > MOST_WORDS
    return None if said not in prompt and (prose or REFUSAL.search(said)) else said


def judge_class(settings: Row, form: str) -> Any:
    """Its client for a judge, that notes which prompts stayed without an answer or with an unusable one."""
    from vlmeval.api import OpenAIWrapper

    class Judge(OpenAIWrapper):
        failed: set[str] = set()  # noqa: RUF012
        lock = threading.Lock()
        in_a_row = 0

        @classmethod
        def build(cls, max_tokens: int = 2048, **_: Any) -> Any:
            judge = cls(settings["model"], key=settings["key"], max_tokens=max_tokens, retry=3, timeout=120)
            judge.api_base = settings["url"]
            return judge

        def working(self) -> bool:
            return True  # drift has asked

        def generate(self, message: str, temperature: float = 0.0, **more: Any) -> str:
            answer: str = super().generate(message, temperature=settings["temperature"] + temperature, **more)
            said = None if FAILED in answer else usable(answer, form, message)
            self.note(message, failed=said is None, down=FAILED in answer)
            return f"{FAILED}." if said is None else said

        @classmethod
        def note(cls, prompt: str, failed: bool, down: bool) -> None:
            with cls.lock:
                (cls.failed.add if failed else cls.failed.discard)(prompt)
                cls.in_a_row = cls.in_a_row + 1 if down else 0
                if cls.in_a_row >= IN_A_ROW * settings["concurrency"]:
                    raise JudgeDownError(f"{cls.in_a_row} requests to the judge failed in a row")

    return Judge


def verdict(form: str, row: Row, failed: set[str]) -> Row:
    """Whether the row is right, the answer that was read from it, and why that means nothing, if so."""
    correct, answer, failure = READ[form](row)
    if form == "HallusionBench" and _utils("yorn").YOrN_match_prompt(row) in failed:
        failure = "failed"  # it shows as an answer that is neither yes nor no
    return {"correct": bool(correct), "answer": answer, "failure": failure}


def _mathvista(row: Row) -> tuple[bool, str, str | None]:
    return _utils("mathvista").post_check(row), row["res"], _failure(row["log"])


def _mathvision(row: Row) -> tuple[bool, str, str | None]:
    """What the judge extracted; drift compares it."""
    return False, row["res"], _failure(row["log"])


def _mathverse(row: Row) -> tuple[bool, str, str | None]:
    return row["score"] == "True", row["extract"], _failure(row["log_extract"], row["log_score"])


def _logicvista(row: Row) -> tuple[bool, str, str | None]:
    return row["hit"] == "1", row["res"], _failure(row["log"])


def _hallusion(row: Row) -> tuple[bool, str, str | None]:
    return row["score"] == "True", row["extracted"], None


def _multiple_choice(row: Row) -> tuple[bool, str, str | None]:
    """The option is not in the result, but what it was read from."""
    from vlmeval.utils import can_infer

    choices = {letter: row[letter] for letter in "ABCDEFGH" if row.get(letter)}
    answer = can_infer(row["log"].removeprefix(MATCHED).removesuffix(". "), choices)
    return row["hit"] == "1", answer or "", _failure(row["log"])


READ = {
    "MathVista_MINI": _mathvista,
    "MathVision": _mathvision,
    "MathVerse_MINI_Vision_Only": _mathverse,
    "WeMath": _multiple_choice,
    "LogicVista": _logicvista,
    "HallusionBench": _hallusion,
    "RealWorldQA": _multiple_choice,
    "MMStar": _multiple_choice,
}


def _failure(*logs: str) -> str | None:
    if any(log.strip().endswith(RETRIES_FAILED) for log in logs):
        return "failed"
    return "random" if any(log.startswith(MATCHED + RANDOM) for log in logs) else None


# --------------------------------------------------------------------------------------------- tables


def write_table(path: Path, rows: list[Row]) -> None:
    """Tab-separated, as pandas reads it."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t", quoting=csv.QUOTE_ALL)
        table.writeheader()
        table.writerows(rows)


def read_table(path: Path) -> list[Row]:
    """The cells as text."""
    csv.field_size_limit(2**31 - 1)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


if __name__ == "__main__":
    main()
