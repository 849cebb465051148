"""The bank of benchmark replies: the form of a benchmark and the style of a model do not change what is right."""

from collections import defaultdict

import pytest

from drift.verdicts.answers import extract_answer
from drift.verdicts.verdict import Item, verify_many
from tests.unit.verdicts.bank import STYLES, replies

REPLIES = list(replies())


@pytest.fixture(scope="module")
def accepted():
    """Whether each reply counts as right."""
    answers = [extract_answer(reply.text, reply.question.form, reply.question.choices).answer for reply in REPLIES]
    items = [
        Item(answer, reply.question.gold, choices=reply.question.choices)
        for reply, answer in zip(REPLIES, answers, strict=True)
    ]
    return [verdict.status == "correct" for verdict in verify_many(items, 60)]


def test_the_bank_has_all_forms_and_styles():
    assert len(REPLIES) >= 400
    assert len({(reply.question.benchmark, reply.style) for reply in REPLIES}) == 64


def test_right_replies_count_and_wrong_ones_do_not(accepted):
    refused = [reply for reply, said in zip(REPLIES, accepted, strict=True) if reply.correct and not said]
    passed = [reply for reply, said in zip(REPLIES, accepted, strict=True) if said and not reply.correct]
    assert len(refused) <= 0.05 * len(REPLIES) / 2, refused
    assert len(passed) <= 0.01 * len(REPLIES) / 2, passed


def test_the_same_knowledge_scores_the_same_in_any_style(accepted):
    said = defaultdict(list)
    for reply, one in zip(REPLIES, accepted, strict=True):
        if reply.correct:
            said[reply.question.benchmark, reply.style].append(one)
    for benchmark in {reply.question.benchmark for reply in REPLIES}:
        scores = [100 * sum(said[benchmark, style]) / len(said[benchmark, style]) for style in STYLES]
        assert max(scores) - min(scores) <= 1, (benchmark, dict(zip(STYLES, scores, strict=True)))
