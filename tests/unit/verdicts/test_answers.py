"""From what a model wrote to its answer."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drift.verdicts.answers import AnswerForm, Extracted, extract_answer, read_reply
from drift.verdicts.verdict import verify

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
    assert extract_answer(text, "open", ()).answer == answer


@pytest.mark.parametrize("text", [r"<think> it must be \boxed{7}", "<think> 7", "", "<think> 7 </think>"])
def test_thinking_that_never_ends_and_silence_are_no_answer(text: str) -> None:
    assert extract_answer(text, "open", ()).answer is None


def test_the_thinking_is_kept_beside_the_answer() -> None:
    assert extract_answer(r"<think>why not</think> \boxed{7}", "open", ()) == Extracted("why not", "7", "boxed")


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
    assert extract_answer(text, "option", CHOICES).answer in ("B", "b", "(B)")
    assert verify("B", text, choices=CHOICES).status == "correct"


@pytest.mark.parametrize("text", ["A cat sits there", "A or B", "E", "I see a thing", "The answer is either A or B."])
def test_articles_undecided_answers_and_letters_without_an_option_are_no_letter(text: str) -> None:
    assert verify("A", text, choices=CHOICES).status != "correct"
    assert verify("B", text, choices=CHOICES).status != "correct"


@pytest.mark.parametrize(
    "text",
    [
        *["Not B.", "B is incorrect.", "The answer is not B.", "vitamin B supplements", "Point B is the midpoint"],
        *["B. a red cube", "B cannot be right", "I would exclude B", "The answer is D or B", "A, B", "Both A and B"],
    ],
)
def test_a_letter_that_is_denied_undecided_or_a_name_is_no_answer(text: str) -> None:
    assert verify("B", text, choices=CHOICES).status != "correct"


@pytest.mark.parametrize(
    "text",
    [
        *[
            "It is a blue ball.",
            "b) a blue ball",
            "a blue ball",
            "The picture shows a blue ball.",
            "**B. a blue ball**",
        ],
        *[
            "Neither A nor C fits; the answer is B.",
            "Let me see. A: no. C: no. So B.",
            "B\n\nA is red, and C is empty.",
        ],
        *[
            "Point A is the centre, so the answer is B.",
            "The correct answer is B. A would be right only if it were red.",
        ],
    ],
)
def test_an_option_is_named_by_its_content_and_in_spite_of_other_letters(text: str) -> None:
    assert verify("B", text, choices=CHOICES).status == "correct"


def test_a_boxed_letter_wins_over_letters_in_the_text() -> None:
    assert extract_answer(r"<think>A? B? D?</think> Not A but \boxed{C}", "option", CHOICES).answer == "C"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        ("No.", "no"),
        ("Yes, the line is longer.", "yes"),
        ("yes and no", None),
        ("I know", None),
        ("Yes. There is no doubt.", "yes"),
        ("not yes", None),
        ("True.", "yes"),
        ("Yes, I saw a death notice.", "yes"),
        ("It is not clear, yes or no.", None),
        ("**No**, it is shorter.", "no"),
        ("The answer is no, not yes.", "no"),
    ],
)
def test_yes_or_no_is_the_only_one_of_the_two_words(text: str, answer: str | None) -> None:
    assert extract_answer(text, "yes_no", ()).answer == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        *[("A, C", "AC"), ("CA", "AC"), ("A and B.", "AB"), ("The answer is B, D because of A.", "BD"), ("(B)", "B")],
        *[
            ("Answers: A; C", "AC"),
            ("(A) and (C)", "AC"),
            ("Options A and C are correct.", "AC"),
            ("**A** and **C**", "AC"),
            (r"<think>A</think> \boxed{C}", "C"),
            ("the cat", "the cat"),
            ("It is C", "C"),
        ],
    ],
)
def test_several_letters_are_found_in_any_order_and_sorted(text: str, answer: str) -> None:
    assert extract_answer(text, "letters", ()).answer == answer


@given(st.text(max_size=60), st.sampled_from(["open", "yes_no", "option", "letters"]), st.sampled_from([(), CHOICES]))
def test_no_text_breaks_the_extraction(text: str, form: AnswerForm, choices: tuple[str, ...]) -> None:
    found = extract_answer(text, form, choices)
    assert found.answer is None or found.answer.strip()
    assert (found.answer is None) == (found.read == "none")


@pytest.mark.parametrize(
    ("text", "answer", "read"),
    [
        (r"\boxed{7}", "7", "boxed"),
        (r"\boxed{5} because 2 + 3 = 5, and \boxed{2} is wrong", "5", "boxed"),
        (r"\boxed{2} and \boxed{3}", "2, 3", "boxed"),
        ("7 cm", "7 cm", "bare"),
        ("The answer is 7.", "7", "declared"),
        ("The answer is 7 because 3 + 4 = 7.", "7", "declared"),
        ("**Final Answer**\n\n$7$", "$7$", "declared"),
        ("<answer>7</answer>", "7", "declared"),
        ("There are **7** cubes.", "7", "declared"),
        ("3 and 4 make 7.\n\n7", "7", "declared"),
        ("The total is 3 + 4 = 7.", "7", "declared"),
        ("I count 7 cubes.", "7", "declared"),
        ("There are 7 billion people.", "7 billion", "declared"),
        ("It is 7, not 8.", "7", "declared"),
        ("7 (since 3 + 4 = 7)", "7", "declared"),
        ("We have 3 rows of 4, so 3 × 4 = 12 apples.", "12", "declared"),
        ("Answer: The length is 7.", "7", "declared"),
        ("It was on Tuesday.", "Tuesday", "declared"),
        ("The city shown is Paris, the capital of France.", "Paris", "declared"),
        ("The answer is 5.\n\nWait, that is wrong. The answer is 7.", "7", "declared"),
        ("The answer is 5. The answer is 7.", None, "none"),
        ("The answer is not 7.", None, "none"),
        ("It could be 5 or 7.", None, "none"),
        ("I cannot see the picture.", None, "none"),
    ],
)
def test_an_open_answer_is_read_where_a_person_looks_and_it_is_said_where(text: str, answer: str, read: str) -> None:
    found = extract_answer(text, "open", ())
    assert (found.answer, found.read) == (answer, read)


@pytest.mark.parametrize(
    "text",
    [
        *[
            "<think>8?</think>7",
            "<thinking>8?</thinking>\n7",
            "◁think▷8?◁/think▷7",
            "[THINK]8?[/THINK]7",
            "8? </think>7",
        ],
        *[
            "<reasoning>8?</reasoning><answer>7</answer>",
            "<Thought>\\boxed{8}</Thought>\\boxed{7}",
            "7<|im_end|>",
            "7</s>",
        ],
    ],
)
def test_thinking_in_any_tags_is_never_the_answer(text: str) -> None:
    answer = extract_answer(text, "open", ()).answer
    assert answer == "7"


@pytest.mark.parametrize("text", ["<thinking>so \\boxed{7}", "◁think▷7", "<reasoning>7", "<think>a</think>7<think>b"])
def test_thinking_of_any_tags_that_never_ends_leaves_no_answer(text: str) -> None:
    assert extract_answer(text, "open", ()).read == "none"


@pytest.mark.parametrize(
    "piece", ["(", "[", "\\boxed{", "the answer is ", "A, B, ", "**", "9", "\n", "<answer>", "1/", "²"]
)
@pytest.mark.parametrize("form", ["open", "option", "letters", "yes_no"])
def test_a_long_reply_is_read_in_no_time(piece: str, form: AnswerForm) -> None:
    started = time.process_time()
    extract_answer((piece * 50_000)[:50_000], form, CHOICES if form == "option" else ())
    assert time.process_time() - started < 5


def test_the_form_of_an_answer_follows_from_its_gold() -> None:
    assert read_reply("Yes, it is.", "No").answer == "yes"
    assert read_reply("I choose C.", "A", CHOICES).answer == "C"
    assert read_reply("A and C", "A, C").answer == "AC"
    assert read_reply("It is 7.", "8").answer == "7"
