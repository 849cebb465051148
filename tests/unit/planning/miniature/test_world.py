import random

import pytest

from drift.planning.miniature import world
from drift.planning.miniature.world import Expression, Scene, Split

SCENE = Scene((("c", 2), ("a", 3), ("d", 5), ("b", 0)))
EXPRESSION = Expression(("c", "a", "b"), ("-", "*"))


def test_operations_are_left_to_right_modulo_seven():
    # (2 - 3) mod 7 = 6; 6 * 0 = 0
    assert world.evaluate(EXPRESSION, SCENE) == 0
    # (5 + 3) mod 7 = 1; 1 * 2 = 2; (2 - 0) = 2: not 5 + 3 * 2 - 0 = 11 = 4 mod 7
    assert world.evaluate(Expression(("d", "a", "c", "b"), ("+", "*", "-")), SCENE) == 2


def test_a_chain_looks_every_value_up_and_boxes_the_result():
    assert world.reasoning_chain(EXPRESSION, SCENE) == "<think> c 2 - a 3 = 6 ; 6 * b 0 = 0 </think> \\boxed{0}"


def test_questions_and_answers_as_text():
    assert world.look_up(SCENE, "d") == world.Exchange("value of d ?", "5")
    assert world.read_out(SCENE) == world.Exchange("read all", "a3 b0 c2 d5")
    assert world.compute(SCENE, EXPRESSION, chain=False) == world.Exchange("compute c - a * b", "0")
    assert SCENE.text == "c2 a3 d5 b0"


@pytest.mark.parametrize("operations", [2, 3])
def test_test_scenes_and_problems_never_occur_in_training(operations: int):
    drawn: dict[Split, set[tuple[str, ...]]] = {Split.TRAIN: set(), Split.TEST: set()}
    scenes: dict[Split, set[str]] = {Split.TRAIN: set(), Split.TEST: set()}
    for split in Split:
        rng = random.Random(0)
        for _ in range(2000):
            scene = world.sample_scene(rng, split)
            expression = world.sample_problem_in(scene, rng, operations, split)
            scenes[split].add(scene.text)
            drawn[split].add((expression.text, *(str(scene.value(label)) for label in expression.labels)))
    assert not scenes[Split.TRAIN] & scenes[Split.TEST]
    assert not drawn[Split.TRAIN] & drawn[Split.TEST]


def test_facts_are_true_modulo_seven():
    rng = random.Random(0)
    for _ in range(100):
        left, operator, right, _, result = world.sample_fact(rng).split()
        assert (
            int(result)
            == {"+": int(left) + int(right), "-": int(left) - int(right)}.get(operator, int(left) * int(right)) % 7
        )
