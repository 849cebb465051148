"""Small tables in the true formats of the eight published benchmarks, and in the plain one, with generated questions.

For rehearsals (`drift rehearse`) and tests: their names are not the published ones, whose tables are known by MD5.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from drift.config.catalog import PLAIN

Row = dict[str, str]

SUFFIX = "_Tiny"
"""Names: `<published name>_Tiny`, with `format: <published name>`. VLMEvalKit looks for parts of the name."""


def write_tables(folder: Path) -> dict[str, dict[str, str]]:
    """Write all eight published formats; the section `evaluate.benchmarks` for them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in TABLES.items():
        write_table(folder / f"{name}{SUFFIX}.tsv", rows)
    return {f"{name}{SUFFIX}": {"format": name} for name in TABLES}


def write_tiny_table(path: Path, form: str) -> None:
    """A table in a published benchmark's format, or in the plain one."""
    write_table(path, TABLES[form] if form != PLAIN else _choices())


def write_table(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        table.writeheader()
        table.writerows(rows)


def image(text: str) -> str:
    """A small picture with a number in it, in base64."""
    picture = Image.new("RGB", (56, 56), "white")
    ImageDraw.Draw(picture).text((8, 20), text, fill="black")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _row(index: object, question: str, answer: str, **more: str) -> Row:
    return {"index": str(index), "image": image(str(index)), "question": question, "answer": answer, **more}


def _mathvista() -> list[Row]:
    skills = {"task": "geometry problem solving", "skills": "['geometry reasoning']"}
    chosen = {"question_type": "multi_choice", "answer_type": "text", "choices": "['4', '5', '6']"}
    free = {"question_type": "free_form", "answer_type": "integer", "choices": "[]", "answer_option": ""}
    return [
        _row(1, "How long is the side?\nChoices:\n(A) 4\n(B) 5\n(C) 6", "5", answer_option="B", **chosen, **skills),
        _row(2, "How many bars are there?", "7", **free, **skills),
        _row(3, "How high is it?", "2.5", **free | {"answer_type": "float"}, **skills),
    ]


def _mathvision() -> list[Row]:
    return [
        _row(1, "What is the sum? <image1>", "17", choices="[]", category="arithmetic"),
        _row(2, "Which is it? <image1>", "C", choices="['A', 'B', 'C', 'D', 'E']", category="counting"),
        _row(3, "What is the ratio? <image1>", r"\frac{1}{2}", choices="[]", category="algebra"),
    ]


def _mathverse() -> list[Row]:
    more = {
        "query_cot": "Think first.",
        "problem_version": "Vision Only",
        "metadata": "{'split': 'testmini', 'subject': 'Plane Geometry', 'subfield': 'Angle'}",
    }
    asked = "Answer the question in the image."
    return [
        _row(1, asked, "B", question_for_eval="Which angle?\nChoices:\nA:30\nB:60", problem_index="1", **more),
        _row(2, asked, "12", question_for_eval="How long?", problem_index="2", **more),
    ]


def _wemath() -> list[Row]:
    more = {"knowledge concept": "area", "requirement": "Answer: <letter>", "split": "testmini"}
    parts = {"1": ("2steps_1", "2steps_2", "2steps_multi"), "2": ("3steps_1", "3steps_2", "3steps_3", "3steps_multi")}
    options = dict(zip("ABCDEFGH", ("3", "4", "5", "No correct answer", "", "", "", ""), strict=True))
    rows = [(problem, key) for problem, keys in parts.items() for key in keys]
    return [
        _row(place, f"What is step {key}?", "ABC"[place % 3], ID=problem, key=key, **options, **more)
        for place, (problem, key) in enumerate(rows)
    ]


def _logicvista() -> list[Row]:
    skills = ("inductive", "deductive", "numerical", "spatial", "mechanical")
    answers = ("A", "B", "A, C", "D", "B, C")
    return [
        _row(place, f"Which follows? Select from A, B, C and D. ({skill})", answer, skill=f"['{skill}']")
        for place, (skill, answer) in enumerate(zip(skills, answers, strict=True))
    ]


def _hallusion() -> list[Row]:
    places = [("0", "0", "0"), ("0", "0", "1"), ("0", "1", "0"), ("0", "1", "1"), ("1", "0", "0"), ("1", "1", "0")]
    return [
        _row(
            f"VD_illusion_1_{'_'.join(place)}",
            "Is the left line longer?",
            ("Yes", "No")[number % 2],
            category="VD",
            **{"l2-category": "illusion"},
        )
        for number, place in enumerate(places)
    ]


def _choices(**more: str) -> list[Row]:
    options = {"A": "a red cube", "B": "a blue ball", "C": "nothing", "D": ""}
    return [_row(place, "What is shown?", "ABC"[place % 3], **options, **more) for place in range(4)]


TABLES: dict[str, list[Row]] = {
    "MathVista_MINI": _mathvista(),
    "MathVision": _mathvision(),
    "MathVerse_MINI_Vision_Only": _mathverse(),
    "WeMath": _wemath(),
    "LogicVista": _logicvista(),
    "HallusionBench": _hallusion(),
    "RealWorldQA": _choices(),
    "MMStar": _choices(category="coarse perception", l2_category="scene"),
}
