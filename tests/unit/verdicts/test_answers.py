"""From what a model wrote to its answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drift.verdicts.answers import AnswerForm, extract_answer, option, yes_or_no

CHOICES = ("a red cube", "a blue ball", "nothing", "all of them")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<think>3 + 4 = 7</think> \boxed{7}", "7"),
        (r"<think>\boxed{1}</think> first \boxed{2}, no, \boxed{3}", "3"),
        ("7", "7"),
        ("<think> x </think>  12 cm ", "12 cm"),
        (r"x</think>\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    ],
)
def test_the_last_box_after_the_thinking_is_the_answer_else_all_that_is_left(text: str, answer: str) -> None:
    assert extract_answer(text, "open", ())[1] == answer


@pytest.mark.parametrize("text", [r"<think> it must be \boxed{7}", "<think> 7", "", "<think> 7 </think>"])
def test_thinking_that_never_ends_and_silence_are_no_answer(text: str) -> None:
    assert extract_answer(text, "open", ())[1] is None


def test_the_thinking_is_kept_beside_the_answer() -> None:
    assert extract_answer(r"<think>why not</think> \boxed{7}", "open", ()) == ("why not", "7")


@pytest.mark.parametrize(
    "text",
    [
        *[
            "B",
            "b",
            "(B)",
            "B.",
            "**B**",
            "$B$",
            "B. a blue ball",
            "(B) a blue ball",
            "The answer is B.",
            "Answer: (B)",
        ],
        *["the correct option is **B**", "It is B", "B is right", "The answer is B because A is not in the picture"],
        *["I first took option A, but the answer is B", "The correct answer is option B, not A"],
    ],
)
def test_an_option_letter_is_found_however_it_is_written(text: str) -> None:
    assert option(text, 4) == "B"


@pytest.mark.parametrize("text", ["A cat sits there", "A or B", "E", "a blue ball", "I see a thing"])
def test_articles_undecided_answers_and_letters_without_an_option_are_no_letter(text: str) -> None:
    assert option(text, 4) == text


def test_a_boxed_letter_wins_over_letters_in_the_text() -> None:
    assert extract_answer(r"<think>A? B? D?</think> Not A but \boxed{C}", "option", CHOICES)[1] == "C"


@pytest.mark.parametrize(
    ("text", "answer"),
    [("Yes", "yes"), ("No.", "no"), ("Yes, the line is longer.", "yes"), ("yes and no", None), ("I know", None)],
)
def test_yes_or_no_is_the_only_one_of_the_two_words(text: str, answer: str | None) -> None:
    assert yes_or_no(text) == answer
    assert extract_answer(text, "yes_no", ())[1] == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        *[("A, C", "AC"), ("CA", "AC"), ("A and B.", "AB"), ("The answer is B, D because of A.", "BD"), ("(B)", "B")],
        *[("Answers: A; C", "AC"), (r"<think>A</think> \boxed{C}", "C"), ("the cat", "the cat"), ("It is C", "C")],
    ],
)
def test_several_letters_are_found_in_any_order_and_sorted(text: str, answer: str) -> None:
    assert extract_answer(text, "letters", ())[1] == answer


@given(st.text(max_size=60), st.sampled_from(["open", "yes_no", "option", "letters"]), st.sampled_from([(), CHOICES]))
def test_no_text_breaks_the_extraction(text: str, form: AnswerForm, choices: tuple[str, ...]) -> None:
    _, answer = extract_answer(text, form, choices)
    assert answer is None or answer.strip()
