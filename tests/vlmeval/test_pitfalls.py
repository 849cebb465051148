"""What goes wrong with VLMEvalKit by itself, and does not here: a test for each."""

import os
import tempfile
from pathlib import Path

import psutil
import pytest

from drift.cli.app import main
from drift.config.evaluate import EvaluateConfig
from drift.evaluate import judged
from drift.evaluate.benchmarks import read_benchmarks
from drift.evaluate.evaluation import evaluate
from drift.evaluate.samples import JUDGE_FAILED, JUDGE_RANDOM, Sample
from drift.evaluate.scores import score_benchmarks
from drift.ground.errors import DataError
from drift.inference.reply import Reply
from drift.planning.tables import TABLES, write_table
from tests.openai_server import Body, OpenAIServer
from tests.vlmeval.conftest import Settings
from tests.vlmeval.judges import kind, mute, prompt, sensible
from tests.vlmeval.test_oracle import oracle

MATH = "MathVision"


def judged_replies(config: EvaluateConfig, *texts: str) -> list[Sample]:
    """Samples of one table, given a reply for each of its rows; the last is repeated."""
    (table,) = read_benchmarks(config)
    padded = [*texts, *texts[-1:] * (len(table.items) - len(texts))]
    replies = {item.index: Reply(text, "stop") for item, text in zip(table.items, padded, strict=True)}
    return judged.judge_all(config, [table], {table.name: [replies]})


def sent(server: OpenAIServer) -> str:
    return "\n".join(prompt(body) for body in server.requests)


def test_an_answer_that_is_code_is_not_run(settings: Settings, judge: OpenAIServer, tmp_path: Path) -> None:
    file = tmp_path / "made_by_an_answer"
    code = f"open('{file}','w').close()or(17)"
    config = settings(judge.url)
    benchmarks = read_benchmarks(config)
    replies = {table.name: [{item.index: Reply(code, "stop") for item in table.items}] for table in benchmarks}
    samples = judged.judge_all(config, benchmarks, replies)
    assert not [sample for sample in samples if sample.correct]
    assert code in sent(judge)
    assert not file.exists()
    (tmp_path / "oracle").mkdir()
    assert oracle(tmp_path / "oracle", "equal", [code, "17"]) is True
    assert file.exists(), "by itself, VLMEvalKit runs it"


def test_the_letter_a_is_not_right_on_a_number(settings: Settings, judge: OpenAIServer, tmp_path: Path) -> None:
    assert [sample.status for sample in judged_replies(settings(judge.url, MATH), "A")] == ["incorrect"] * 3
    assert oracle(tmp_path, "equal", ["A", "17"]) is True


def test_thinking_is_neither_scored_nor_shown_to_the_judge(settings: Settings, judge: OpenAIServer) -> None:
    samples = judged_replies(settings(judge.url, "MMStar"), "<think>secret: B, or C?</think>Not B nor C, rather A")
    assert [sample.correct for sample in samples] == [row["answer"] == "A" for row in TABLES["MMStar"]]
    assert {sample.thinking for sample in samples} == {"secret: B, or C?"}
    assert "rather A" in sent(judge)
    assert "secret" not in sent(judge)


def test_thinking_that_never_ends_is_no_answer_and_is_counted(settings: Settings, judge: OpenAIServer) -> None:
    config = settings(judge.url, "MMStar")
    samples = judged_replies(config, "<think>so it is A", "<think>x</think>", "Not A nor B, rather C")
    assert [sample.status for sample in samples] == ["unparsed", "unparsed", "correct", "incorrect"]
    assert score_benchmarks(samples, config.benchmarks, 0.95)["MMStar_Tiny"].unparsed == 2
    assert "so it is A" not in sent(judge)


def test_predictions_of_another_run_are_never_used(
    settings: Settings, judge: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    config = settings(judge.url, "RealWorldQA")
    first = judged_replies(config, "Not B nor C, rather A")
    asked = len(judge.requests)
    second = judged_replies(config, "Not A nor C, rather B")
    assert [sample.correct for sample in first] == [True, False, False, True]
    assert [sample.correct for sample in second] == [False, True, False, False]
    assert len(judge.requests) == 2 * asked
    assert not list((tmp_path / "tmp").iterdir())


def test_a_missing_table_ends_with_an_error(
    settings: Settings, model: Path, judge: OpenAIServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", str(model), "--data", str(tmp_path), "--judge", judge.url, "--judge-model", "judge"]
    with pytest.raises(SystemExit) as end:
        main(["evaluate", *given, "--suite", "WeMath", "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    assert "WeMath.tsv: no such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_wemath_on_a_part_of_a_problem_is_refused(
    settings: Settings, model: Path, judge: OpenAIServer, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"WeMath_Tiny: problem 1 has the parts .*, not all its steps"):
        evaluate(settings(judge.url, "WeMath", limit=2), model=str(model), label="x", out=tmp_path / "out")


@pytest.mark.parametrize(
    ("form", "mute_to", "reply"),
    [
        ("LogicVista", "letters", "whatever"),
        ("MathVerse_MINI_Vision_Only", "score", "whatever"),
        ("MMStar", "letter", "perhaps A or B"),
    ],
)
def test_a_judge_that_says_nothing_usable_is_counted(settings: Settings, form: str, mute_to: str, reply: str) -> None:
    failure = "random" if form == "MMStar" else "failed"
    with OpenAIServer(mute(mute_to)) as judge:
        config = settings(judge.url, form, judge={"max_failed": 1})
        samples = judged_replies(config, reply)
    score = score_benchmarks(samples, config.benchmarks, 0.95)[f"{form}_Tiny"]
    assert (score.undetermined, score.judge[failure]) == (len(samples), len(samples))
    assert {sample.error for sample in samples} == {JUDGE_RANDOM if failure == "random" else JUDGE_FAILED}


REFUSAL = "I'm sorry, but I can't assist with that request."


@pytest.mark.parametrize("form", ["MathVista_MINI", "MathVision", "HallusionBench", "WeMath"])
def test_a_judge_that_refuses_has_decided_nothing(settings: Settings, form: str) -> None:
    """By itself, VLMEvalKit takes the refusal for the extracted answer: 0 %, and the rule agrees on all of it."""
    with OpenAIServer(mute("extract", "yes_no", "letter", word=REFUSAL)) as judge:
        config = settings(judge.url, form, judge={"max_failed": 1})
        samples = judged_replies(config, "whatever")
        with pytest.raises(DataError, match=rf"max_failed: {form}_Tiny: the judge did not decide"):
            judged_replies(settings(judge.url, form), "whatever")
    assert {sample.status for sample in samples} == {"undetermined"}
    score = score_benchmarks(samples, config.benchmarks, 0.95)[f"{form}_Tiny"]
    assert "agreement" not in score.judge and sum(score.judge.values()) == len(samples)


def test_prose_is_no_extraction_unless_the_reply_says_it_itself(settings: Settings) -> None:
    prose = "The student did not provide a clear answer to this question, so nothing can be extracted."
    with OpenAIServer(mute("extract", word=prose)) as judge:
        samples = judged_replies(settings(judge.url, MATH, judge={"max_failed": 1}), "whatever", prose)
    assert [sample.status for sample in samples] == ["undetermined", "incorrect", "unparsed"]


@pytest.mark.parametrize("form", ["LogicVista", "HallusionBench", "MMStar"])
def test_a_judges_thinking_is_no_part_of_its_answer(settings: Settings, judge: OpenAIServer, form: str) -> None:
    def thinking(body: Body) -> Body:
        return {"content": f"<think>A or B? No, or yes?</think>\n\n{sensible(body)['content']}"}

    reply = "Neither A nor B as such, neither no nor yes, rather {}"
    with OpenAIServer(thinking) as server:
        (table,) = read_benchmarks(settings(server.url, form))
        replies = [reply.format(item.gold) for item in table.items]
        samples = judged_replies(settings(server.url, form), *replies)
    assert {sample.status for sample in samples} == {"correct"}


def test_options_that_are_numbers_stay_the_rules_and_lists_and_small_letters_are_right(
    settings: Settings, judge: OpenAIServer, tmp_path: Path
) -> None:
    """LogicVista's row v1_20, MathVista's list answers, and golds such as `a`."""
    for form, changes in {
        "LogicVista": [{"answer": "3"}, {"answer": "b"}, {"answer": "a, c"}],
        "MMStar": [{"answer": "a"}],
        "MathVista_MINI": [{}, {"answer": "[0, 2, 0, 2, 1]", "answer_type": "list"}],
    }.items():
        rows = [{**row, **change} for row, change in zip(TABLES[form], changes, strict=False)]
        write_table(tmp_path / "tables" / f"{form}_Tiny.tsv", rows)
    logic = judged_replies(settings(judge.url, "LogicVista"), "3", "I think it is B", "They are, rather, AC")
    assert [sample.status for sample in logic] == ["correct"] * 3
    assert [sample.rule is None for sample in logic] == [True, False, False]
    assert [one.status for one in judged_replies(settings(judge.url, "MMStar"), "Not B nor C, rather A")] == ["correct"]
    asked = {"extract": "[0, 2, 0, 2, 1]"}
    with OpenAIServer(lambda body: {"content": asked.get(kind(prompt(body)), "yes")}) as lists:
        samples = judged_replies(settings(lists.url, "MathVista_MINI"), "It is B.", "So they are [0, 2, 0, 2, 1]")
    assert [sample.status for sample in samples] == ["correct", "correct"]


def test_every_run_of_several_answers_is_judged(settings: Settings, judge: OpenAIServer) -> None:
    config = settings(judge.url, "MMStar", samples=2)
    (table,) = read_benchmarks(config)
    runs = [{item.index: Reply(text.format(item.gold), "stop") for item in table.items} for text in ("rather {}", "Z")]
    samples = judged.judge_all(config, [table], {table.name: runs})
    assert [(one.sample, one.correct) for one in samples] == [(n, n == 0) for n in (0, 1) for _ in table.items]


def test_too_many_undecided_answers_are_an_error(settings: Settings) -> None:
    said = r"max_failed: MathVista_MINI_Tiny: the judge did not decide 3 of 3 answers \(3 failed, 0 chosen at"
    with OpenAIServer(mute("extract", word="")) as judge, pytest.raises(DataError, match=said):
        judged_replies(settings(judge.url, "MathVista_MINI", judge={"max_failed": 0.9}), "whatever")


def test_a_judge_that_fails_on_yes_and_no_is_counted_too(settings: Settings) -> None:
    with OpenAIServer(mute("yes_no", word="")) as judge:
        samples = judged_replies(settings(judge.url, "HallusionBench", judge={"max_failed": 1}), "yes and no")
    assert {(sample.status, sample.error) for sample in samples} == {("undetermined", JUDGE_FAILED)}


def test_an_option_chosen_at_random_is_never_right(settings: Settings) -> None:
    with OpenAIServer(mute("letter")) as judge:
        samples = judged_replies(settings(judge.url, "WeMath", judge={"max_failed": 1}), "A or B or C or D")
    assert {(sample.correct, sample.status, sample.answer) for sample in samples} == {(False, "undetermined", None)}


def test_the_key_is_nowhere(
    settings: Settings, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    key = "sk-very-secret-key"
    seen: list[str] = []
    monkeypatch.setenv("JUDGE_KEY", key)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()

    def answer(body: Body) -> Body:
        if kind(prompt(body)) == "extract":
            seen.extend(["looked", *holding(key, tmp_path), *processes_showing(key)])
        return sensible(body)

    with OpenAIServer(answer) as judge:
        config = settings(judge.url, "MathVista_MINI", judge={"api_key_env": "JUDGE_KEY"})
        evaluate(config, model=str(model), label="x", out=tmp_path / "out")
        assert {headers["authorization"] for headers in judge.headers} == {f"Bearer {key}"}
        assert len(judge.requests) > 1
    assert set(seen) == {"looked"}
    assert holding(key, tmp_path) == []
    assert key not in "".join(capfd.readouterr())


def holding(key: str, folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if key.encode() in path.read_bytes()]


def processes_showing(key: str) -> list[str]:
    """Children whose arguments or environment hold the key."""
    children = psutil.Process().children(recursive=True)
    assert children
    return [str(one.pid) for one in children if key in " ".join([*one.cmdline(), *one.environ().values()])]


def test_absent_skills_of_logicvista_give_no_nan(settings: Settings, judge: OpenAIServer, tmp_path: Path) -> None:
    config = settings(judge.url, "LogicVista")
    write_table(tmp_path / "tables" / "LogicVista_Tiny.tsv", TABLES["LogicVista"][:2])
    samples = judged_replies(config, "Not C nor D, rather A")
    score = score_benchmarks(samples, config.benchmarks, 0.95)["LogicVista_Tiny"]
    assert score.columns["LogicVista_Tiny"].mean == 50
    assert score.metrics == {"['inductive']": 100, "['deductive']": 0}


def test_nothing_of_our_environment_reaches_its_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "ours")
    environment = judged._environment(tmp_path)
    assert "OPENAI_API_KEY" not in environment
    assert environment["HOME"] == environment["TMPDIR"] == str(tmp_path) != os.environ.get("HOME")
