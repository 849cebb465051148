"""What a row of each benchmark says: question as VLMEvalKit asks it, gold answer, options, group and part.

group  questions that are not independent of each other, kept whole by every bootstrap
part   the question's place in its group, where a score needs it: WeMath's step, HallusionBench's figure and question
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from drift.config.catalog import PLAIN
from drift.verdicts.answers import YES_NO, AnswerForm

LETTERS = "ABCDEFGH"

Row = Mapping[str, str]


@dataclass(frozen=True)
class Asked:
    """A row, read. Raised ValueErrors say what is wrong with it."""

    text: str
    gold: str
    choices: tuple[str, ...] = ()
    """Option texts, A first; empty text where a letter is not used; none for open questions."""
    form: AnswerForm | None = None
    """What an answer looks like; None: see `AnswerForm`."""
    category: str = ""
    group: str = ""
    """Empty: the image's."""
    part: str = ""

    @property
    def answer_form(self) -> AnswerForm:
        if self.form:
            return self.form
        return "option" if self.choices else "yes_no" if self.gold.lower() in YES_NO else "open"


def _plain(row: Row) -> Asked:
    choices = lettered(row)
    text = "\n".join([row["question"], *_lines(choices)])
    gold = row["answer"] if row["answer"] in choices else _capital(row["answer"], choices)
    return Asked(text, gold, choices, category=row.get("category", ""), group=row.get("group", ""))


def _mathvista(row: Row) -> Asked:
    choices = literal_list(row, "choices") if row["question_type"] == "multi_choice" else ()
    gold = _capital(row["answer_option"], choices) if choices else row["answer"]
    return Asked(row["question"], gold, choices, category=row["task"])


def _mathvision(row: Row) -> Asked:
    choices = literal_list(row, "choices")
    return Asked(row["question"], _capital(row["answer"], choices), choices, category=row["category"])


def _mathverse(row: Row) -> Asked:
    """Options stand in the image, so a gold letter has none here. Versions of a problem share its group."""
    gold = _capital(row["answer"], LETTERS)
    form: AnswerForm | None = "letters" if re.fullmatch("[A-H]", gold) else None
    return Asked(row["question"], gold, form=form, category=_subject(row), group=row.get("problem_index", ""))


def _wemath(row: Row) -> Asked:
    choices = lettered(row)
    gold = _capital(row["answer"], choices)
    return Asked(asked(row), gold, choices, category=row["key"], group=row["ID"], part=row["key"])


def _logicvista(row: Row) -> Asked:
    """Several letters may be right together; the options stand in the question or the image. Where they are numbers,
    as in row v1_20, the answer is one."""
    letters = re.findall("[A-H]", row["answer"]) or re.findall(r"\b[a-h]\b", row["answer"])
    if not letters:
        return Asked(row["question"], row["answer"], form="open", category=row["skill"])
    return Asked(row["question"], "".join(sorted(letters)).upper(), form="letters", category=row["skill"])


def _hallusion(row: Row) -> Asked:
    """Index `VD_illusion_1_<set>_<figure>_<question>`: sets are independent, figures and questions cross in one."""
    places = row["index"].split("_")
    if len(places) < 6:
        raise ValueError(f"the index '{row['index']}' does not end in set, figure and question")
    group = f"{row['l2-category']}/{places[3]}"
    return Asked(
        row["question"], row["answer"], form="yes_no", category=row["category"], group=group, part="/".join(places[4:6])
    )


def _multiple_choice(row: Row) -> Asked:
    text = asked(row) + "Please select the correct answer from the options above. \n"
    choices = lettered(row)
    return Asked(text, _capital(row["answer"], choices), choices, category=row.get("category", ""))


READERS: dict[str, Callable[[Row], Asked]] = {
    PLAIN: _plain,
    "MathVista_MINI": _mathvista,
    "MathVision": _mathvision,
    "MathVerse_MINI_Vision_Only": _mathverse,
    "WeMath": _wemath,
    "LogicVista": _logicvista,
    "HallusionBench": _hallusion,
    "RealWorldQA": _multiple_choice,
    "MMStar": _multiple_choice,
}


def lettered(row: Row) -> tuple[str, ...]:
    """Options of the columns A to H."""
    texts = [row.get(letter, "") for letter in LETTERS]
    used = [place for place, text in enumerate(texts) if text]
    return tuple(texts[: used[-1] + 1]) if used else ()


def asked(row: Row) -> str:
    """Question and options as VLMEvalKit puts them for multiple choice."""
    hint = f"Hint: {row['hint']}\n" if row.get("hint", "nan") not in ("", "nan") else ""
    options = _lines(lettered(row))
    return f"{hint}Question: {row['question']}\n" + "".join(
        f"{line}\n" for line in (["Options:"] if options else []) + options
    )


def literal_list(row: Row, column: str) -> tuple[str, ...]:
    """A cell that holds a Python list of texts. Nothing in it is run. Raises ValueError if it is none."""
    try:
        values = ast.literal_eval(row[column] or "[]")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        values = None
    if not isinstance(values, list):
        raise ValueError(f"{column} is no list")
    return tuple(str(value) for value in values)


def _capital(gold: str, choices: Sequence[str]) -> str:
    """A letter of one of the options as a capital; anything else as it stands."""
    return gold.upper() if len(gold) == 1 and gold.upper() in LETTERS[: len(choices)] else gold


def _subject(row: Row) -> str:
    try:
        return str(ast.literal_eval(row["metadata"])["subject"])
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        raise ValueError("metadata has no subject") from None


def _lines(choices: tuple[str, ...]) -> list[str]:
    return [f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=False) if text]
