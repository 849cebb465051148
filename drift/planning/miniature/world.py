"""Scenes of four labelled values, and arithmetic modulo 7 over them.

A *scene* is a shuffled row of four cells, each a label (a to d) with a value (0 to 6). An *expression*
names distinct labels joined by ``+ - *``, evaluated strictly from left to right modulo 7. Every question
exists in two forms: after an image of the scene, or after the scene's text ``[ c2 a3 d5 b0 ]``.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from enum import StrEnum

LABELS = "abcd"
MODULUS = 7
OPERATORS = "+-*"
TEST_SHARE = 5  # one in five scenes and one in five problems belong to the test split


class Split(StrEnum):
    """Which renderings, scenes and problems may be used: those of training or those held out."""

    TRAIN = "train"
    TEST = "test"


@dataclass(frozen=True)
class Scene:
    """Four (label, value) cells from left to right; each label occurs once."""

    cells: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        """``c2 a3 d5 b0``: the cells from left to right, the content of the text form."""
        return " ".join(f"{label}{value}" for label, value in self.cells)

    @property
    def reading(self) -> str:
        """``a3 b0 c2 d5``: the cells by label, the answer to the reading question.

        By label, since looking up by content is learned within minutes and by position is not.
        """
        return " ".join(f"{label}{value}" for label, value in sorted(self.cells))

    def value(self, label: str) -> int:
        return dict(self.cells)[label]


@dataclass(frozen=True)
class Expression:
    """Labels joined by operators, e.g. ``c - a * b``: ``labels`` is one longer than ``operators``."""

    labels: tuple[str, ...]
    operators: tuple[str, ...]

    @property
    def text(self) -> str:
        pairs = zip(self.operators, self.labels[1:], strict=True)
        return " ".join([self.labels[0], *(f"{operator} {label}" for operator, label in pairs)])


@dataclass(frozen=True)
class Exchange:
    """One question about a scene (without the scene itself) and its answer, as texts."""

    question: str
    answer: str


def apply_operator(operator: str, left: int, right: int) -> int:
    """``left operator right`` modulo 7."""
    results = {"+": left + right, "-": left - right, "*": left * right}
    return results[operator] % MODULUS


def evaluate(expression: Expression, scene: Scene) -> int:
    """Value of the expression in the scene, left to right, modulo 7."""
    result = scene.value(expression.labels[0])
    for operator, label in zip(expression.operators, expression.labels[1:], strict=True):
        result = apply_operator(operator, result, scene.value(label))
    return result


def reasoning_chain(expression: Expression, scene: Scene) -> str:
    r"""Steps that look each value up and compute, e.g. ``<think> c 2 - a 3 = 6 ; 6 * b 0 = 0 </think> \boxed{0}``."""
    first = expression.labels[0]
    result = scene.value(first)
    left, steps = f"{first} {result}", []
    for operator, label in zip(expression.operators, expression.labels[1:], strict=True):
        value = scene.value(label)
        result = apply_operator(operator, result, value)
        steps.append(f"{left} {operator} {label} {value} = {result}")
        left = str(result)
    return f"<think> {' ; '.join(steps)} </think> \\boxed{{{result}}}"


def look_up(scene: Scene, label: str) -> Exchange:
    """The perception question for one labelled value."""
    return Exchange(f"value of {label} ?", str(scene.value(label)))


def read_out(scene: Scene) -> Exchange:
    """The perception question for the whole row."""
    return Exchange("read all", scene.reading)


def compute(scene: Scene, expression: Expression, *, chain: bool) -> Exchange:
    """The reasoning question; the answer is a chain, or only the value if not ``chain``."""
    answer = reasoning_chain(expression, scene) if chain else str(evaluate(expression, scene))
    return Exchange(f"compute {expression.text}", answer)


def split_of_scene(scene: Scene) -> Split:
    """Split by a checksum of the whole row, so that no test scene is ever seen in training."""
    return _split(scene.text)


def split_of_problem(expression: Expression, scene: Scene) -> Split:
    """Split by a checksum of the expression with the values it uses, whatever the order of the cells.

    Expressions of one operation are too few to be held out (all belong to training).
    """
    if len(expression.operators) < 2:
        return Split.TRAIN
    values = " ".join(f"{label}{scene.value(label)}" for label in expression.labels)
    return _split(f"{expression.text} | {values}")


def sample_scene(rng: random.Random, split: Split) -> Scene:
    """A random scene of the split."""
    while True:
        labels = rng.sample(LABELS, len(LABELS))
        scene = Scene(tuple((label, rng.randrange(MODULUS)) for label in labels))
        if split_of_scene(scene) is split:
            return scene


def sample_expression(rng: random.Random, operations: int) -> Expression:
    """A random expression over ``operations + 1`` distinct labels."""
    labels = rng.sample(LABELS, operations + 1)
    return Expression(tuple(labels), tuple(rng.choice(OPERATORS) for _ in range(operations)))


def sample_problem_in(scene: Scene, rng: random.Random, operations: int, split: Split) -> Expression:
    """A random expression whose problem in this scene belongs to the split (any, for one operation)."""
    while True:
        expression = sample_expression(rng, operations)
        if operations < 2 or split_of_problem(expression, scene) is split:
            return expression


def sample_fact(rng: random.Random) -> str:
    """One arithmetic fact, e.g. ``3 - 5 = 5``."""
    left, right = rng.randrange(MODULUS), rng.randrange(MODULUS)
    operator = rng.choice(OPERATORS)
    return f"{left} {operator} {right} = {apply_operator(operator, left, right)}"


def _split(key: str) -> Split:
    return Split.TEST if zlib.crc32(key.encode()) % TEST_SHARE == 0 else Split.TRAIN
