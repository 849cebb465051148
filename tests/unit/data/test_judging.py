"""A judge for answers that rules cannot decide: asked of a real server, never taken for right when it fails."""

import logging
from pathlib import Path

import pytest

from drift.config.data import AnswerJudge, CurateConfig
from drift.data.filters.judging import PROMPT, Judge, decision, is_asked_about
from drift.data.selection.curation import curate
from drift.ground.errors import ConfigError, DataError, ServiceError
from drift.inference.reply import Reply
from drift.verdicts.verdict import Item, Verdict, verify_many
from tests.openai_server import OpenAIServer, question
from tests.pool_rows import ingested, pool_row
from tests.unit.data.test_curate import cot, generations, rows_of

ITEMS = [
    Item("a big dog", "large dog"),  # text, other words
    Item("cat", "large dog"),  # text, another answer
    Item("large dog", "large dog"),  # right by rule
    Item("8", "7"),  # a number: the rule decides
    Item("a big dog", "large dog"),  # the same pair once more
    Item(None, "large dog"),  # no answer
]
QUESTIONS = ["What is it?"] * len(ITEMS)


def says(word: str):
    return lambda body: {"content": f"They are compared.\n{word}"}


def by_meaning(body):
    """Yes for a big dog."""
    return {"content": "yes" if "<answer>\na big dog\n" in question(body) else "No."}


def judge_at(server: OpenAIServer, **changes) -> Judge:
    return Judge(AnswerJudge(base_url=server.url, model="judge", max_retries=0, **changes))


def test_only_what_the_rules_leave_open_is_asked_and_each_pair_once():
    with OpenAIServer(by_meaning) as server:
        judge = judge_at(server)
        verdicts = judge.review(QUESTIONS, ITEMS, verify_many(ITEMS))
        assert judge.review(QUESTIONS, ITEMS, verify_many(ITEMS)) == verdicts
    assert [one.status for one in verdicts] == ["correct", "incorrect", "correct", "incorrect", "correct", "unparsed"]
    assert [one.method == "judge" for one in verdicts] == [True, True, False, False, True, False]
    assert (judge.asked, judge.failed, len(server.requests)) == (2, 0, 2)
    judge.require_decided()


def test_the_judge_is_asked_with_the_fixed_prompt_and_nothing_random():
    with OpenAIServer(says("yes")) as server:
        judge_at(server, seed=3).review(["What {is} it?"], ITEMS[:1], verify_many(ITEMS[:1]))
    (body,) = server.requests
    assert question(body) == PROMPT.format(question="What {is} it?", gold="large dog", answer="a big dog")
    assert (body["model"], body["temperature"], body["seed"], body["max_tokens"]) == ("judge", 0, 3, 1024)
    assert [block["type"] for block in body["messages"][0]["content"]] == ["text"]


def test_the_prompt_stands_in_the_documentation():
    page = (Path(__file__).parents[3] / "docs" / "filters.md").read_text(encoding="utf-8")
    assert f"```text\n{PROMPT}\n```" in page


def test_an_undetermined_answer_of_any_kind_is_asked_about():
    assert is_asked_about(Item("x", "x^2"), Verdict("undetermined", "x", "time limit"))
    assert not is_asked_about(Item("x", "x^2"), Verdict("incorrect", "x", "math-verify"))
    assert not is_asked_about(Item("B", "A", choices=["one", "two"]), Verdict("incorrect", "B", "choice"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("yes", True),
        ("**No**.", False),
        ("<think> maybe no? </think>\n\nYes", True),
        ("The second is vaguer.\n\nVerdict: no", False),
        ("yes, since both are dogs", None),
        ("Is it yes or no?\nI cannot say yes or no", None),
        ("I'm sorry, but I can't help with that.", None),
        ("<think> it is so, yes", None),
        ("", None),
        ("noyes", None),
    ],
)
def test_the_last_line_alone_is_the_verdict(text, said):
    assert decision(Reply(text, "stop")) is said


def test_a_cut_reply_and_a_failed_request_are_no_verdict():
    assert decision(Reply("It is not clear.\nyes", "length")) is None
    assert decision(Reply(error="InternalServerError: 500")) is None


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (says("Sorry, I cannot."), lambda number: 200, "it says .*Sorry, I cannot"),
        (by_meaning, lambda number: 500, "InternalServerError"),
    ],
)
def test_a_judge_that_does_not_decide_makes_nothing_right_and_stops_the_run_past_its_limit(
    caplog, answer, status, reason
):
    with OpenAIServer(answer, status) as server:
        judge = judge_at(server)
        verdicts = judge.review(QUESTIONS, ITEMS, verify_many(ITEMS))
    assert verdicts == verify_many(ITEMS)
    message = (
        rf"curate\.judge\.max_failed: the judge did not decide 2 of 2 pairs .*{reason}.*, more than the share 0\.01"
    )
    with pytest.raises(DataError, match=message) as raised:
        judge.require_decided()
    assert "\n" not in str(raised.value)


def test_within_its_limit_what_was_not_decided_is_said(caplog):
    with OpenAIServer(says("hm")) as server, caplog.at_level(logging.WARNING):
        judge = judge_at(server, max_failed=1.0)
        judge.review(QUESTIONS, ITEMS, verify_many(ITEMS))
        judge.require_decided()
    assert "did not decide 2 of 2 pairs" in caplog.text


def test_a_judge_that_is_not_there_is_one_line_and_no_key_is_told(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    with OpenAIServer(status=lambda number: 401) as server:
        judge = judge_at(server, api_key_env="JUDGE_KEY")
        with pytest.raises(ServiceError, match=r"curate\.judge: .* refuses 'judge'") as raised:
            judge.review(QUESTIONS, ITEMS, verify_many(ITEMS))
    assert "sk-secret" not in str(raised.value)
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ConfigError, match=r"curate\.judge\.api_key_env: .*'JUDGE_KEY' is not set"):
        judge_at(server, api_key_env="JUDGE_KEY")


def test_curate_takes_the_judges_word_for_text_answers_and_pass_rates_follow(tmp_path):
    problems = ingested(tmp_path, [pool_row(0, answer="large dog"), pool_row(1)])
    texts = [[cot("a big dog"), cot("cat")], [cot(2), cot(3)]]
    folder = generations(tmp_path / "generations", problems, texts)
    without = curate(CurateConfig(), problems, folder, tmp_path / "without")
    with OpenAIServer(by_meaning) as server:
        config = CurateConfig(judge=AnswerJudge(base_url=server.url, model="judge"))
        report = curate(config, problems, folder, tmp_path / "out")
    assert (without.kept, report.kept) == (1, 2)
    assert {row["answer"]: row["pass_rate"] for row in rows_of(tmp_path / "out")} == {"large dog": 0.5, "2": 0.5}
    assert len(server.requests) == 2  # the numbers were not asked about
