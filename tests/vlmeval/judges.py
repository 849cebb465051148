"""A judge that answers VLMEvalKit's prompts sensibly: the last word of a reply is its answer."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.openai_server import Body

_REPLY = re.compile(
    r".*(?:Model respone: |Model response: '|Answer: <start>\n|Answer: )(?P<reply>.*?)"
    r"(?:Extracted answer:|'\nExtracted Answer: |(?:\n<end>)?\nYour output: )",
    re.DOTALL,
)
_SCORED = re.compile(r".*\[Standard Answer\]: (?P<gold>.*?)\n\s*\[Model_answer\] : (?P<answer>.*?)\n", re.DOTALL)


def prompt(body: Body) -> str:
    """What VLMEvalKit asks; its content is plain text."""
    return str(body["messages"][-1]["content"])


def kind(asked: str) -> str:
    """`score`, `extract` (any answer), `yes_no`, `letters`, `letter`, or `check` for drift's own request."""
    for name, mark in (
        ("score", "Judgement:"),
        ("yes_no", "Yes, No, Unknown"),
        ("letters", "ONLY the letters chosen"),
        ("letter", "Your output:"),
        ("extract", "xtracted"),
    ):
        if mark in asked:
            return name
    return "check"


def sensible(body: Body) -> Body:
    """The last word of the reply, in the form that the prompt wants."""
    asked = prompt(body)
    if kind(asked) == "check":
        return {"content": "yes"}
    if kind(asked) == "score":
        found = _SCORED.match(asked)
        return {"content": str(int(found is not None and found["gold"] == found["answer"]))}
    return {"content": _formed(kind(asked), _last_word(asked))}


def _last_word(asked: str) -> str:
    found = _REPLY.fullmatch(asked)
    assert found, asked[-300:]
    return (found["reply"].split() or ["none"])[-1].rstrip(".")


def _formed(form: str, word: str) -> str:
    if form == "yes_no":
        return word if word in ("Yes", "No") else "Unknown"
    if form in ("letters", "letter"):
        return word if re.fullmatch("[A-H]+", word) else "Z"
    return word


def mute(*forms: str, word: str = "perhaps") -> Callable[[Body], Body]:
    """Sensible, but to prompts of these kinds it says ``word``, which means nothing to them."""
    return lambda body: {"content": word} if kind(prompt(body)) in forms else sensible(body)
