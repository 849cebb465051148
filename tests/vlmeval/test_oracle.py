"""Our questions and sums are VLMEvalKit's: compared with its own functions, in its own environment."""

import json
import random
import subprocess
from pathlib import Path

import pytest

from drift.config.catalog import KNOWN, columns_of
from drift.config.evaluate import EvaluateConfig
from drift.config.servers import JudgeConfig
from drift.evaluate import rule
from drift.evaluate.benchmarks import Benchmark, read_benchmarks
from drift.evaluate.judged import find_python
from drift.evaluate.samples import Sample
from drift.evaluate.scores import score_benchmarks
from drift.inference.reply import Reply
from drift.planning.tables import SUFFIX, TABLES, Row, write_table, write_tables

ORACLE = Path(__file__).with_name("oracle.py")
PROBLEMS = {2: 360, 3: 165}
"""WeMath's 525, with all their steps: the number that VLMEvalKit divides by."""

RESULT = {"MathVerse_MINI_Vision_Only": "score", "HallusionBench": "score"}


def oracle(folder: Path, do: str, of: object) -> object:
    """What VLMEvalKit says; `folder` is its folder of data."""
    python = find_python(JudgeConfig(base_url="http://none", model="none"))
    job = json.dumps({"do": do, "of": of})
    ended = subprocess.run([python, "-I", ORACLE, folder], input=job, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads((folder / "oracle.json").read_text())


def complete_wemath() -> list[Row]:
    template = TABLES["WeMath"][0]
    keys = [(f"{steps}-{at}", steps) for steps, count in PROBLEMS.items() for at in range(count)]
    rows = [(name, f"{steps}steps_{part}") for name, steps in keys for part in (*range(1, steps + 1), "multi")]
    return [{**template, "index": str(at), "ID": name, "key": key} for at, (name, key) in enumerate(rows)]


def test_our_questions_are_its_own_on_every_row(tmp_path: Path) -> None:
    config = EvaluateConfig(data=str(tmp_path), benchmarks=write_tables(tmp_path))
    ours = {table.config.format: [item.text for item in table.items] for table in read_benchmarks(config)}
    for form in TABLES:
        (tmp_path / f"{form}{SUFFIX}.tsv").rename(tmp_path / f"{form}.tsv")
    assert oracle(tmp_path, "prompts", list(TABLES)) == ours


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Benchmark]:
    folder = tmp_path_factory.mktemp("tables")
    benchmarks = write_tables(folder)
    write_table(folder / f"WeMath{SUFFIX}.tsv", complete_wemath())
    return {
        table.config.format: table for table in read_benchmarks(EvaluateConfig(data=str(folder), benchmarks=benchmarks))
    }


def test_our_sums_are_its_own_for_the_same_correctness(tables: dict[str, Benchmark], tmp_path: Path) -> None:
    draw = random.Random(0)
    samples = {form: random_samples(table, draw) for form, table in tables.items()}
    for form, table in tables.items():
        write_table(
            tmp_path / f"{form}.tsv", [result(form, *pair) for pair in zip(table.items, samples[form], strict=True)]
        )
    assert oracle(tmp_path, "sums", list(KNOWN)) == {
        form: pytest.approx(ours(form, tables[form], samples[form]), abs=0.005 if form == "WeMath" else 1e-9)
        for form in KNOWN
    }


def random_samples(table: Benchmark, draw: random.Random) -> list[Sample]:
    """Both right and wrong ones in every table."""
    wrong = {item.index for item in table.items[:1]} | {item.index for item in table.items[2:] if draw.random() < 0.4}
    replies = {item.index: Reply("none of it" if item.index in wrong else item.gold, "stop") for item in table.items}
    samples = rule.judge(table, replies)
    assert {sample.correct for sample in samples} == {True, False}
    return samples


def result(form: str, item, sample: Sample) -> Row:
    """A row of a file that VLMEvalKit's sums read."""
    row = {"index": item.index, **item.cells, "log": "Succeed", RESULT.get(form, "hit"): str(int(sample.correct))}
    if form in ("MathVista_MINI", "MathVision"):
        row["res"] = item.gold if sample.correct else "none"
    return row


def ours(form: str, table: Benchmark, samples: list[Sample]) -> dict[str, float]:
    score = score_benchmarks(samples, {table.name: table.config}, 0.95)[table.name]
    if form == "HallusionBench":
        return {name: score.metrics[name] for name in ("aAcc", "qAcc", "fAcc")}
    names = columns_of(table.name, form)
    return {name.removeprefix(table.name).removeprefix("-"): score.columns[name].mean for name in names}
