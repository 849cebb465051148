"""Random right answers and their wrong twins."""

import os
import random

import pytest

from drift.verdicts.verdict import Item, verify_many
from tests.unit.verdicts.twins import KINDS

DRAWN = int(os.environ.get("DRIFT_TWINS", "150"))


@pytest.mark.parametrize("kind", KINDS)
def test_no_wrong_twin_is_accepted_and_no_right_one_refused(kind):
    draw = random.Random(7)
    twins = [KINDS[kind](draw) for _ in range(DRAWN)]
    right = verify_many([Item(same, gold) for gold, same, _ in twins])
    wrong = verify_many([Item(other, gold) for gold, _, other in twins])
    assert [twin for twin, verdict in zip(twins, right, strict=True) if verdict.status != "correct"] == []
    assert [twin for twin, verdict in zip(twins, wrong, strict=True) if verdict.status == "correct"] == []
