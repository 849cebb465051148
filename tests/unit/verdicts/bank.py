"""A bank of benchmark replies: in each of the eight forms, the same answers written in eight styles.

Each question is answered rightly and wrongly in each style, so that the share of right answers that count as right,
and of wrong ones that do, can be measured style by style.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from drift.verdicts.answers import AnswerForm

STYLES = ("boxed", "bare", "sentence", "bold", "tagged", "equation", "chatty", "negated")


@dataclass(frozen=True)
class Question:
    """A question of a benchmark: gold answer, what a model writes for it, and a wrong answer."""

    benchmark: str
    form: AnswerForm
    gold: str
    right: str
    wrong: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answered:
    """A reply to a question, in a style, and whether its answer is right."""

    question: Question
    style: str
    text: str
    correct: bool


ANIMALS = ("a cat", "a dog", "two birds", "a horse")
ANGLES = ("30°", "45°", "60°", "90°")
NUMBERS = ("12", "2", "24", "48")
LENGTHS = (r"$2\sqrt{3}$", r"$3\sqrt{2}$", "6", "12")
SIDES = ("left", "right", "behind", "in front")
COLOURS = ("red", "green", "dark blue", "light blue", "No correct answer")

QUESTIONS = (
    Question("MathVista_MINI", "open", "5", "5", "7"),
    Question("MathVista_MINI", "open", "1.45", "1.45", "145"),
    Question("MathVista_MINI", "open", "0.6", "0.6", "6.0"),
    Question("MathVista_MINI", "open", "[0, 2, 0, 2, 1]", "[0, 2, 0, 2, 1]", "[0, 2, 0, 1, 2]"),
    Question("MathVista_MINI", "option", "C", "C", "A", ANGLES),
    Question("MathVista_MINI", "open", "1500", "1,500", "15,000"),
    Question("MathVision", "open", "17", "17", "71"),
    Question("MathVision", "open", r"\frac{1}{2}", r"$\frac{1}{2}$", r"$\frac{1}{3}$"),
    Question("MathVision", "open", r"2\sqrt{3}", r"$2\sqrt{3}$", r"$3\sqrt{2}$"),
    Question("MathVision", "option", "B", "B", "D", NUMBERS),
    Question("MathVision", "open", "36", "36", "3.6"),
    Question("MathVerse_MINI_Vision_Only", "letters", "B", "B", "C"),
    Question("MathVerse_MINI_Vision_Only", "open", "10.5", "10.5 cm", "105 cm"),
    Question("MathVerse_MINI_Vision_Only", "open", r"40^\circ", "40°", "50°"),
    Question("MathVerse_MINI_Vision_Only", "letters", "D", "D", "A"),
    Question("MathVerse_MINI_Vision_Only", "open", r"25\pi", r"$25\pi$", r"$5\pi$"),
    Question("WeMath", "option", "A", "A", "B", LENGTHS),
    Question("WeMath", "option", "D", "D. No correct answer", "B. 2", ("12", "2", "24", "No correct answer")),
    Question("WeMath", "option", "C", "C. 24", "A. 12", NUMBERS),
    Question("WeMath", "option", "E", "E", "C", COLOURS),
    Question("LogicVista", "letters", "AC", "A, C", "A"),
    Question("LogicVista", "letters", "D", "D", "B"),
    Question("LogicVista", "letters", "BD", "B and D", "B and C"),
    Question("LogicVista", "letters", "C", "C", "E"),
    Question("HallusionBench", "yes_no", "yes", "Yes", "No"),
    Question("HallusionBench", "yes_no", "no", "No", "Yes"),
    Question("HallusionBench", "yes_no", "Yes", "yes", "no"),
    Question("RealWorldQA", "option", "B", "B", "A", SIDES),
    Question("RealWorldQA", "open", "Right", "right", "left"),
    Question("RealWorldQA", "open", "35 mph", "35 mph", "45 mph"),
    Question("RealWorldQA", "option", "C", "behind", "left", SIDES),
    Question("RealWorldQA", "yes_no", "No", "No", "Yes"),
    Question("MMStar", "option", "B", "B. a dog", "D. a horse", ANIMALS),
    Question("MMStar", "option", "A", "A", "C", ANIMALS),
    Question("MMStar", "option", "C", "two birds", "a cat", ANIMALS),
    Question("MMStar", "option", "D", "(D)", "(B)", ANIMALS),
)

_BOXED = ("\\boxed{{{x}}}", "<think>Look at it again.</think>\n\n\\boxed{{{x}}}", "So the answer is $\\boxed{{{x}}}$.")
_BARE = ("{X}", "{X}.", "{X}\n")
_SENTENCE = ("The answer is {X}.", "Therefore, the correct answer is {X}.", "Based on the picture, the answer is {X}.")
_BOLD = ("**{X}**", "Looking at the picture, I can see what is asked.\n\n**Answer: {X}**", "The answer is **{X}**.")
_TAGGED = (
    "<think>It could be {Y} or {X}. I look again.</think><answer>{X}</answer>",
    "<thinking>Is it {Y}? No.</thinking>\nAnswer: {X}",
    "<answer> {X} </answer>",
)
_EQUATION = {
    "number": ("The sum is $a + b = {x}$.", "So, $x = {x}$.", "Adding the two parts gives a + b = {x}"),
    "letter": ("Answer = {X}", "The correct option = {X}", "So the answer: {X}"),
    "yes_no": ("Answer = {X}", "Answer: {X}", "So the answer = {X}"),
    "text": ("Answer = {X}", "So the answer: {X}", "Answer: {X}."),
}
_CHATTY = (
    "Let me look at the picture carefully. I first describe what is shown, and then compare it with the question. "
    "After checking each part twice, I am confident that the final answer is {X}. I hope this helps!",
    "Sure! Here is how I see it:\n\n1. The picture shows what the question is about.\n2. I check it step by step.\n\n"
    "At first it looked like something else, but after a second look it is clear.\n\n**Final Answer:** {X}",
    "Great question. To solve it, I go through the picture from left to right.\n\nNothing else matters here.\n\n"
    "Answer: {X}\n",
)
_NEGATED = (
    "It is not {Y}. The answer is {X}.",
    "The answer is not {Y}, because that does not fit the picture. The answer is {X}.",
    "Some would say {Y}, but {Y} is wrong. The correct answer is {X}.",
)


def replies() -> Iterator[Answered]:
    """Each question in each style, answered rightly and wrongly; the wording changes from question to question."""
    for place, question in enumerate(QUESTIONS):
        for style in STYLES:
            wordings = _wordings(style, question)
            for correct in (True, False):
                text = _written(wordings[(place + correct) % len(wordings)], question, correct)
                yield Answered(question, style, text, correct)


def _wordings(style: str, question: Question) -> tuple[str, ...]:
    if style != "equation":
        return {
            "boxed": _BOXED, "bare": _BARE, "sentence": _SENTENCE, "bold": _BOLD, "tagged": _TAGGED,
            "chatty": _CHATTY, "negated": _NEGATED,
        }[style]  # fmt: skip
    if question.form in ("option", "letters"):
        return _EQUATION["letter"]
    if question.form == "yes_no":
        return _EQUATION["yes_no"]
    return _EQUATION["number" if any(sign.isdigit() for sign in question.gold) else "text"]


def _written(wording: str, question: Question, correct: bool) -> str:
    said, denied = (question.right, question.wrong) if correct else (question.wrong, question.right)
    return wording.format(X=said, x=said.strip("$"), Y=denied)
