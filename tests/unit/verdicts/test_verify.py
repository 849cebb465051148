"""Final answers and their typed comparison, against a table of cases that verifiers get wrong."""

import multiprocessing
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drift.verdicts.comparison import KINDS, Comparison
from drift.verdicts.numbers import parse_number, same_number
from drift.verdicts.verdict import (
    Item,
    Verdict,
    answer_kind,
    equal,
    final_answer,
    split_thinking,
    verify,
    verify_many,
)

CASES = [
    # gold, answer, kind by rule, expected status
    ("3", "3", "number", "correct"),
    ("3", "3.0", "number", "correct"),
    ("3", "3.1", "number", "incorrect"),
    ("-3", "- 3", "number", "correct"),
    ("-3", "−3", "number", "correct"),
    ("3", "x = 3", "number", "correct"),
    ("7", "I don't know", "number", "incorrect"),
    ("2", r"\sqrt{4}", "number", "correct"),
    ("30°", "30", "number", "correct"),
    ("30", "30度", "number", "correct"),
    (r"30^\circ", "30 degrees", "number", "correct"),
    ("5", "5厘米", "number", "correct"),
    ("36 m^2", "36", "number", "correct"),
    ("36", "36 m²", "number", "correct"),
    ("36", "36 square meters", "number", "correct"),
    ("5 m", "5 cm", "number", "incorrect"),
    ("5 km/h", "5 kilometers per hour", "number", "correct"),
    ("3 apples", "3", "number", "correct"),
    ("$5", r"\$5", "number", "correct"),
    ("1.2e3", "1200", "number", "correct"),
    ("1200", r"1.2\times10^{3}", "number", "correct"),
    ("1 1/2", "3/2", "number", "correct"),
    ("2½", "5/2", "number", "correct"),
    (r"1\frac{1}{2}", "1.5", "number", "correct"),
    ("1 234", "1234", "number", "correct"),
    ("1{,}234", "1,234", "number", "correct"),
    ("1:2", r"\frac12", "ratio", "correct"),
    (r"-\dfrac{1}{2}", "-0.5", "number", "correct"),
    ("1/3", "0.333", "number", "correct"),
    ("1/3", "0.3", "number", "incorrect"),
    ("0.333", r"\frac{1}{3}", "number", "correct"),
    ("3.14", "3.14159", "number", "incorrect"),
    ("3.14", "3.1", "number", "incorrect"),
    ("50%", "0.5", "number", "correct"),
    ("50", "50%", "number", "correct"),
    ("50%", "5", "number", "incorrect"),
    ("12", "13", "number", "incorrect"),
    ("cat", "act", "text", "incorrect"),
    ("Dark Violet", "dark violet.", "text", "correct"),
    ("the parasol", r"\text{parasol}", "text", "correct"),
    ("7:15 A.M.", "7:15 am", "time", "correct"),
    ("c2 a3 d5 b0", "c2 a3 d5 b0", "text", "correct"),
    ("c2 a3 d5 b0", "c2 a3 b0 d5", "text", "incorrect"),
    ("Paris (France)", "paris (france)", "text", "correct"),
    ("B", "B. 45", "choice", "correct"),
    ("B", r"\text{(B) } 45^\circ", "choice", "correct"),
    ("(B)", "b", "choice", "correct"),
    ("B", "The answer is B.", "choice", "correct"),
    ("B", "A", "choice", "incorrect"),
    ("A", "A rectangle", "choice", "incorrect"),
    (r"2\sqrt{3}", "2√3", "expression", "correct"),
    ("x^2+2x+1", "(x+1)^2", "expression", "correct"),
    ("x^2+2x+1", "(x+2)^2", "expression", "incorrect"),
    (r"\frac{\sqrt{3}}{2}", r"\sqrt{3}/2", "expression", "correct"),
    (r"2\pi", "2π", "expression", "correct"),
    (r"2\pi", "6.28", "expression", "incorrect"),
    (r"\{1,2\}", r"\{2,1\}", "list", "correct"),
    ("(3,4)", r"\left(3, 4\right)", "list", "correct"),
    ("(3,4)", "(4,3)", "list", "incorrect"),
    ("(1,2)", "1<x<2", "list", "correct"),
    ("x=3 or x=5", "x=5 or x=3", "list", "correct"),
    ("2x", "x*2", "expression", "correct"),
    ("5", r"\sum_{k=1}^{3} k", "number", "incorrect"),
    ("6", r"\sum_{k=1}^{3} k", "number", "correct"),
    (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}", "number", "incorrect"),
    (r"\frac{1}{3 \cdot 2^{2006}}", r"\frac{2^{2005}+1}{3 \cdot 2^{2006}}", "number", "incorrect"),
    (r"\sqrt{2}\cdot 2^{-98}", r"\sqrt{2}\cdot 2^{-99}", "expression", "incorrect"),
    (r"\sin 30", "0.5", "expression", "correct"),
    ("1:2:3:\\ldots", "1:4:9:\\ldots", "ratio", "incorrect"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \frac{2\pi}{3})", "list", "incorrect"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \frac{\pi}{2})", "list", "correct"),
    ("n=2, 3, 4", "n=1, 2, 3", "list", "incorrect"),
    ("7.41\\%", "7.41\\%", "number", "correct"),
    ("5", "3 plus two", "number", "correct"),
    ("x=5", "y=5", "number", "incorrect"),
    ("3 apples", "3 oranges", "number", "undetermined"),
    ("3 apples", "3 days", "number", "undetermined"),
    ("[1,2]", "x=1, y=2", "list", "incorrect"),
    ("x=1, y=2", "(1,2)", "list", "correct"),
    ("y=3x", "3x=y", "expression", "correct"),
    ("x=2", "2=x", "number", "correct"),
    ("U.S.A.", "USA", "text", "correct"),
    ("1,2", "1.2", "list", "undetermined"),
    ("1,2", "(1,2)", "list", "incorrect"),
    ("1, 2, 3", "3, 2, 1", "list", "undetermined"),
    ("3-4", "-1", "text", "incorrect"),
    ("3:30", "15:30", "time", "undetermined"),
    ("6/7/2024", "7 June 2024", "time", "undetermined"),
    ("6/12", "1/2", "number", "correct"),
]


@pytest.fixture(scope="module")
def statuses():
    """All cases in one pool."""
    verdicts = verify_many([Item(answer, gold, answer_kind(gold)) for gold, answer, _, _ in CASES], 60)
    return {case[:2]: verdict.status for case, verdict in zip(CASES, verdicts, strict=True)}


@pytest.mark.parametrize(("gold", "answer", "kind", "expected"), CASES)
def test_an_answer_is_compared_by_the_kind_of_its_gold_answer(gold, answer, kind, expected, statuses):
    assert answer_kind(gold) == kind
    assert statuses[gold, answer] == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("B", "correct"), ("(b)", "correct"), ("45°", "correct"), ("B) 45", "correct"), ("A", "incorrect"),
     ("30", "incorrect"), ("99", "incorrect"), ("E", "incorrect")],
)  # fmt: skip
def test_a_choice_is_named_by_its_letter_or_by_its_content(answer, expected):
    choices = ["A. 30", "B. 45", "C. 60"]
    assert equal(answer, "B", "choice", choices) == expected
    assert equal(answer, "45", "choice", choices) == expected


def test_a_content_that_two_options_share_names_neither():
    assert equal("45", "A", "choice", ["45", "45"]) == "incorrect"


def test_an_answer_that_is_missing_empty_or_too_long_is_unparsed():
    items = [Item(answer, "3", "number") for answer in (None, "  ", "3" * 301)]
    assert [verdict.status for verdict in verify_many(items)] == ["unparsed"] * 3


def test_an_endless_power_is_undetermined_and_what_follows_it_is_still_compared():
    items = [
        Item(r"\sqrt{x^4}+9^{9^{9^9}}", "x^2", "expression"),
        Item("(x+1)^2", "x^2+2x+1", "expression"),
        Item("1+2", "3", "number"),
    ]
    assert [verdict.status for verdict in verify_many(items, 3)] == ["undetermined", "correct", "correct"]


def test_choices_numbers_and_words_start_no_process(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: pytest.fail("a process was started"))
    items = [
        Item("B", "B", "choice"),
        Item("1/2", "0.5", "number"),
        Item("cat", "dog", "text"),
        Item(None, "x", "text"),
    ]
    assert [verdict.status for verdict in verify_many(items)] == ["correct", "correct", "incorrect", "unparsed"]


def test_no_items_give_no_verdicts():
    assert verify_many([]) == []
    assert verify_many([Item("3", "3", "number")]) == [Verdict("correct", "3", "number")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"<think> \boxed{1} </think> \boxed{ 3 }", "3"),
        (r"<think> 7 </think> I don't know.", None),
        (r"<think> \boxed{7} </think> I don't know.", None),
        (r"<think> \boxed{7}", None),
        (r"\boxed{3} and \boxed{7}", "7"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{7", None),
        (r"\boxed{}", None),
        ("<answer>7</answer>", None),
        ("7", None),
        ("", None),
    ],
)
def test_the_final_answer_is_the_last_box_after_the_reasoning(text, expected):
    assert final_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think> a </think> b", ("a", "b", True)),
        ("a </think> b", ("a", "b", True)),
        ("< think >a< / think >b", ("a", "b", True)),
        ("<think> a", ("a", "", False)),
        ("<think> a </think> b <think> c", ("c", "", False)),
        ("<think>a</think>b</think>c", ("a</think>b", "c", True)),
        (" b ", (None, "b", True)),
    ],
)
def test_reasoning_ends_at_the_last_closing_tag(text, expected):
    assert split_thinking(text) == expected


@settings(deadline=None)
@given(st.fractions(max_denominator=1000, min_value=-(10**6), max_value=10**6))
def test_a_fraction_equals_itself_and_its_decimals(value):
    written = parse_number(f"{value.numerator}/{value.denominator}")
    assert written is not None and written.value == value
    assert same_number(written, written) == "correct"
    decimals = parse_number(f"{float(value):.6f}")
    assert decimals is not None
    endless = (10**20) % value.denominator != 0  # no power of ten holds it
    if decimals.value == value or (endless and decimals.digits >= 3):
        assert same_number(decimals, written) == "correct"


@settings(deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_split_parsed_and_classified_without_an_error(answer, gold):
    split_thinking(answer), final_answer(answer), parse_number(answer)
    assert answer_kind(gold) in KINDS
    assert Comparison({}).of(gold, answer, None, ())[0] in {"correct", "incorrect", "undetermined"}


def test_a_whole_reply_is_read_and_judged_in_one_call():
    assert verify("3.14", "314") == Verdict("incorrect", "314", "number")
    assert verify("5 m", r"<think>5?</think> \boxed{500 \text{ cm}}") == Verdict("correct", r"500 \text{ cm}", "unit")
    assert verify("B", "I choose B.", choices=["a", "b"]) == Verdict("correct", "B", "choice")
    assert verify("7", "I cannot tell.") == Verdict("unparsed", None, "no answer")
    assert verify("5", "5 snorks").status == "undetermined"


def test_the_kind_that_is_asked_for_is_used_where_the_gold_can_be_read_so():
    assert verify("3:45", "1:15").status == "incorrect"
    assert verify("3:45", "1:15", kind="ratio").status == "correct"
    assert verify("3:45", "1:15", kind="number").status == "incorrect"
    assert verify("dog", "the dog", kind="number").status == "correct"


def test_a_table_may_have_a_tolerance_of_its_own():
    items = [Item("3.1416", "3.14", places=2), Item("3.16", "3.14", places=2), Item("3.1416", "3.14")]
    assert [verdict.status for verdict in verify_many(items)] == ["correct", "incorrect", "incorrect"]


@pytest.mark.parametrize("answer", ["10^{10^{10}}", "2^{1000000000}", "100000000!", "9^{9^{9^{9}}}", "-" * 250 + "5"])
def test_numbers_out_of_all_proportion_are_never_computed(answer):
    started = time.process_time()
    assert verify("5", rf"\boxed{{{answer}}}").status != "correct"
    assert time.process_time() - started < 1


def test_the_public_name_is_the_function():
    import drift.verdicts

    assert drift.verdicts.verify is verify
