"""The protocol `rule` over hand-made questions: how an answer is written does not change whether it is right."""

from pathlib import Path

import pytest

from drift.config.evaluate import BenchmarkConfig
from drift.evaluate.benchmarks import Benchmark, Item
from drift.evaluate.rule import judge
from drift.inference.reply import Reply


def _status(text, gold, form="open", choices=(), **cells):
    item = Item("0", "?", gold, choices, form, "", "g", "", b"png", (1, 1), cells=cells)
    benchmark = Benchmark("B", BenchmarkConfig(role="reasoning"), Path("b.tsv"), "0" * 64, [item])
    return judge(benchmark, {"0": Reply(text, "stop")})[0].status


@pytest.mark.parametrize("text", ["5", r"\boxed{5}", "The answer is 5.", "**5**", "<answer>5</answer>", "So, $x = 5$."])
def test_an_open_answer_counts_in_a_box_and_without_one(text):
    assert _status(text, "5") == "correct"
    assert _status(text, "0.5") == "incorrect"


def test_a_reply_that_declares_nothing_is_unparsed():
    assert _status("I cannot tell.", "5") == "unparsed"


def test_a_number_is_rounded_only_where_its_table_says_so():
    assert _status("3.1416", "3.14") == "incorrect"
    assert _status("3.1416", "3.14", answer_type="float", precision="2.0") == "correct"
    assert _status("314", "3.14", answer_type="float", precision="2.0") == "incorrect"
    assert _status("3.1416", "3.14", answer_type="text", precision="") == "incorrect"


def test_several_letters_are_right_in_any_order_and_wrong_if_one_is_missing():
    assert _status("The answers are C and A.", "AC", "letters") == "correct"
    assert _status("A", "AC", "letters") == "incorrect"
