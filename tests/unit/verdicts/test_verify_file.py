"""`drift verify`: pairs in a file, verdicts as lines."""

import json

import pytest

from drift.cli import main
from drift.ground.errors import DataError
from drift.verdicts.table import verify_file

PAIRS = [
    {"gold": "3.14", "response": "314", "correct": False, "id": 1},
    {"gold": "5 m", "response": r"<think>?</think> \boxed{500\text{ cm}}", "correct": True},
    {"gold": "B", "response": "It is a dog.", "choices": ["a cat", "a dog"], "correct": False},
    {"gold": "3:45", "response": "The answer is 1:15.", "kind": "ratio"},
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, PAIRS)) + "\n\n", encoding="utf-8")
    return path


def _run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert not ended.value.code


def test_each_pair_gets_a_verdict_beside_what_was_in_its_line(file):
    rows = verify_file(file).rows
    assert [row["status"] for row in rows] == ["incorrect", "correct", "correct", "correct"]
    assert [row["read"] for row in rows] == ["bare", "boxed", "declared", "declared"]
    assert rows[0] == {**PAIRS[0], "status": "incorrect", "extracted": "314", "read": "bare", "method": "number"}


def test_the_summary_counts_statuses_and_where_the_rules_differ_from_what_is_known(file):
    counts = verify_file(file).metrics()
    assert counts["pairs"] == 4
    assert (counts["status/correct"], counts["status/incorrect"]) == (3, 1)
    assert (counts["false positives"], counts["false negatives"]) == (1, 0)


def test_the_command_writes_lines_to_standard_output_and_the_summary_beside_it(file, capsys):
    _run("verify", str(file))
    printed = capsys.readouterr()
    assert [json.loads(line)["status"] for line in printed.out.splitlines()] == ["incorrect", *["correct"] * 3]
    assert "false positives" in printed.err


def test_the_command_writes_a_file_and_then_prints_the_summary(file, tmp_path, capsys):
    _run("verify", str(file), "--out", str(tmp_path / "out.jsonl"))
    out = capsys.readouterr().out
    assert "status/correct" in out and out.splitlines()[-1].startswith("written to")
    assert len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()) == 4


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "no pairs"),
        ("{", "line 1: no JSON"),
        ('{"gold": "3"}', "line 1: response is no text"),
        ('{"gold": 3, "response": "3"}', "line 1: gold is no text"),
        ('{"gold": "3", "response": "3", "choices": "ab"}', "line 1: choices"),
        ('{"gold": "3", "response": "3", "kind": "int"}', "line 1: kind is 'int'; known are choice, number"),
    ],
)
def test_a_line_that_cannot_be_judged_is_named(line, said, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        verify_file(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="not readable"):
        verify_file(tmp_path / "none.jsonl")
