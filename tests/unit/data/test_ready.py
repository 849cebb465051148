"""A ready set of chains in place of a teacher: problems, their samples, and a training set that says where from."""

import json
from pathlib import Path

import pytest

from drift.config.data import CurateConfig, GenerateConfig, IngestConfig
from drift.data.chains.distillation import generate
from drift.data.chains.generations import read_generations
from drift.data.problems.ingestion import ingest
from drift.data.selection.curation import curate
from drift.data.tables import read_rows
from drift.ground.errors import DataError
from tests import sources_written as written
from tests.pool_rows import ingested

READY = GenerateConfig(teacher={"kind": "ready"})


def conversation(number: int, said: str, **more: object) -> dict:
    turns = [
        {"role": "user", "content": f"<image>{written.question(number)}"},
        {"role": "assistant", "content": said},
    ]
    return {"messages": turns, "images": [written.base64_of(number)], **more}


def taken_in(folder: Path, *rows: dict, **config: object) -> Path:
    source = written.lines(folder / "set.jsonl", list(rows))
    ingest(IngestConfig(source=str(source), ready=True, **{"max_rejected": 0.5, **config}), folder / "problems")
    return folder / "problems"


def test_a_published_set_becomes_a_training_set_without_a_teacher(tmp_path):
    source = written.distilled(tmp_path / "DRIFT-TL-Distill-4K")
    problems, generations = tmp_path / "problems", tmp_path / "generations"
    report = ingest(IngestConfig(source=str(source), ready=True), problems)
    assert (report.kept, report.chains, report.metrics()["data/ready_chains"]) == (3, 3, 3.0)
    drawn = generate(READY, problems, generations)
    assert (drawn.requested, drawn.generated, drawn.failed, drawn.prompt_tokens) == (3, 3, 0, 0)
    assert curate(CurateConfig(), problems, generations, tmp_path / "set").kept == 3
    rows = {row["answer"]: row for row in read_rows(tmp_path / "set" / "train.parquet")}
    assert rows["1"]["messages"] == [
        {"role": "user", "content": written.question(0)},
        {"role": "assistant", "content": written.chain(0)},
    ]
    assert {row["teacher"] for row in rows.values()} == {f"ready: {source}"}


def test_chains_of_one_problem_are_its_samples_and_go_through_the_filters(tmp_path):
    rows = [
        conversation(0, written.chain(0), answer="1"),
        conversation(1, written.chain(1), answer="2"),
        conversation(0, "<think>x</think> \\boxed{7}", answer="1"),
        conversation(0, "no reasoning, \\boxed{1}", answer="1"),
    ]
    problems = taken_in(tmp_path, *rows)
    generate(READY, problems, tmp_path / "generations")
    found = list(read_generations(tmp_path / "generations"))
    first = found[0]["id"]
    assert [row["sample"] for row in found if row["id"] == first] == [0, 1, 2]
    report = curate(CurateConfig(), problems, tmp_path / "generations", tmp_path / "set")
    reasons = [row["reason"] for row in read_rows(tmp_path / "set" / "rejects.parquet")]
    assert (report.kept, sorted(reasons)) == (2, ["incorrect", "think_tags"])
    assert report.pass_rates == {"0.666667": 1, "1": 1}


REJECTED = {
    "no box, no gold": (conversation(1, "<think>x</think> two"), "unparsed_answer"),
    "a box in the reasoning alone": (conversation(1, "<think>\\boxed{2}</think> two"), "unparsed_answer"),
    "no answer": ({"messages": conversation(1, "")["messages"][:1]}, "missing_chain"),
    "another gold for the same problem": (conversation(0, "<think>x</think> \\boxed{7}"), "contradicts"),
    "half a character": (conversation(1, "<think>\ud83d</think> \\boxed{2}"), "bad_text"),
}  # fmt: skip


@pytest.mark.parametrize("case", REJECTED)
def test_a_row_whose_answer_cannot_be_used_is_a_counted_reject(tmp_path, case):
    row, reason = REJECTED[case]
    problems = taken_in(tmp_path, conversation(0, written.chain(0)), row)
    assert [reject["reason"] for reject in read_rows(problems / "rejects.parquet")] == [reason]
    assert len((problems / "chains.jsonl").read_text().splitlines()) == 1


def test_a_gold_column_comes_before_the_box_and_a_column_of_chains_may_be_named(tmp_path):
    table = [{"problem": "<image>q", "answer": "1/2", "image": written.base64_of(0), "cot": written.chain(1)}]
    problems = taken_in(tmp_path, *table, chain_column="cot")
    (row,) = read_rows(problems / "problems.parquet")
    assert row["gold"] == "1/2"
    assert json.loads((problems / "chains.jsonl").read_text())["text"] == written.chain(1)


def test_the_same_set_gives_the_same_bytes(tmp_path):
    problems = taken_in(tmp_path, *(conversation(number, written.chain(number)) for number in range(5)))
    for name in ("a", "b"):
        generate(READY, problems, tmp_path / name)
    parts = [[path.read_bytes() for path in sorted((tmp_path / name).glob("part-*"))] for name in ("a", "b")]
    assert parts[0] == parts[1]


def test_problems_without_chains_are_one_line_and_leave_nothing(tmp_path):
    with pytest.raises(DataError, match=r"chains\.jsonl: no such file; `drift ingest --ready SOURCE` writes it"):
        generate(READY, ingested(tmp_path, 2), tmp_path / "generations")
    assert not (tmp_path / "generations").exists()
