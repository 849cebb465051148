"""All eight benchmarks through VLMEvalKit itself, from a checkpoint, by both protocols."""

import json
from pathlib import Path

import pytest

from drift.cli.app import main
from drift.config.catalog import KNOWN
from drift.config.evaluate import EvaluateConfig
from drift.evaluate import judged
from drift.evaluate.benchmarks import Item, read_benchmarks
from drift.evaluate.evaluation import evaluate
from drift.evaluate.samples import Sample, read_samples
from drift.evaluate.scores import read_scores, score_benchmarks
from drift.inference.reply import Reply
from drift.planning.tables import SUFFIX, TABLES
from tests.openai_server import Body, OpenAIServer
from tests.vlmeval.conftest import Settings
from tests.vlmeval.judges import kind, prompt


def judged_by(config: EvaluateConfig, reply) -> dict[str, list[Sample]]:
    """Samples by form; `reply` makes a reply of an item."""
    benchmarks = read_benchmarks(config)
    replies = {table.name: [{item.index: Reply(reply(item), "stop") for item in table.items}] for table in benchmarks}
    samples = judged.judge_all(config, benchmarks, replies)
    return {
        table.config.format: [sample for sample in samples if sample.benchmark == table.name] for table in benchmarks
    }


def indirect(item: Item) -> str:
    """A right answer that only a judge can read: other options stand beside it."""
    if item.gold in ("Yes", "No"):
        return f"Neither no nor yes alone, rather {item.gold}"
    return f"Neither A nor B nor C as such, rather {item.gold}"


def test_a_checkpoint_is_evaluated_by_both_protocols(
    model: Path, settings: Settings, judge: OpenAIServer, tmp_path: Path
) -> None:
    for name, url in (("rule", None), ("judge", judge.url)):
        evaluate(settings(url), model=str(model), label="tiny", out=tmp_path / name)
    by_rule, by_judge = (read_scores(tmp_path / name) for name in ("rule", "judge"))
    assert by_judge.benchmarks.keys() == {f"{form}{SUFFIX}" for form in KNOWN}
    assert by_judge.count("n") == by_rule.count("n") == sum(map(len, TABLES.values()))
    assert all(score.judge["failed"] == score.judge["random"] == 0 for score in by_judge.benchmarks.values())
    raw = [[(sample.index, sample.raw) for sample in read_samples(tmp_path / name)] for name in ("rule", "judge")]
    assert raw[0] == raw[1]
    assert by_judge.protocol_fingerprint != by_rule.protocol_fingerprint


def test_a_server_is_evaluated_by_both_protocols(settings: Settings, judge: OpenAIServer, tmp_path: Path) -> None:
    def thinking(body: Body) -> Body:
        return {"reasoning_content": "B or C, yes or no?", "content": "<think>B?</think> The answer is A."}

    with OpenAIServer(thinking) as served:
        for name, url in (("rule", None), ("judge", judge.url)):
            config = settings(url, endpoint={"base_url": served.url, "concurrency": 4})
            evaluate(config, model="served", label="served", out=tmp_path / name)
    by_rule, by_judge = (
        {sample.index: sample for sample in read_samples(tmp_path / name)} for name in ("rule", "judge")
    )
    assert by_rule.keys() == by_judge.keys() and len(served.requests) == 2 * sum(map(len, TABLES.values()))
    right = {(sample.benchmark, sample.gold) for sample in read_samples(tmp_path / "judge") if sample.correct}
    assert right == {(sample.benchmark, sample.gold) for sample in read_samples(tmp_path / "rule") if sample.correct}
    assert {gold for _, gold in right} == {"A"}
    assert "B or C" not in json.dumps(judge.requests)


def test_where_the_judge_was_is_recorded_and_is_no_part_of_the_protocol(
    model: Path, settings: Settings, judge: OpenAIServer, tmp_path: Path
) -> None:
    evaluate(settings(judge.url, "MMStar"), model=str(model), label="tiny", out=tmp_path / "scores")
    scores = read_scores(tmp_path / "scores")
    assert scores.judge_url == judge.url
    assert (scores.protocol["name"], scores.protocol["judge"]) == ("judge", "a judge/of 7B")
    assert scores.protocol["temperature"] == 0
    assert scores.protocol["vlmevalkit"].startswith(("ms-vlmeval ", "vlmeval "))
    assert judge.url not in json.dumps(scores.protocol)
    assert scores.benchmarks["MMStar_Tiny"].judge.keys() == {"agreement", "failed", "random"}


def test_right_answers_are_right_on_every_benchmark_and_the_judge_read_them(
    settings: Settings, judge: OpenAIServer
) -> None:
    samples = judged_by(settings(judge.url), indirect)
    assert {form: [sample.status for sample in own] for form, own in samples.items()} == {
        form: ["correct"] * len(TABLES[form]) for form in KNOWN
    }
    assert {kind(prompt(body)) for body in judge.requests} == {"extract", "yes_no", "letters", "letter"}
    assert [sample.answer for sample in samples["LogicVista"]] == ["A", "B", "AC", "D", "BC"]
    assert [sample.answer for sample in samples["MathVision"]] == ["17", "C", r"\frac{1}{2}"]


def test_wrong_answers_are_wrong_on_every_benchmark(settings: Settings, judge: OpenAIServer) -> None:
    samples = judged_by(settings(judge.url), lambda item: "I would say whatever")
    assert not [sample for own in samples.values() for sample in own if sample.correct]
    assert all(sample.rule is not None for own in samples.values() for sample in own)
    assert "score" in {kind(prompt(body)) for body in judge.requests}


def test_the_agreement_with_the_rule_is_recorded(settings: Settings, judge: OpenAIServer) -> None:
    config = settings(judge.url, "HallusionBench")
    samples = judged_by(config, lambda item: item.gold if item.index.endswith("0_0_0") else indirect(item))
    scores = score_benchmarks(samples["HallusionBench"], config.benchmarks, 0.95)
    assert [sample.rule for sample in samples["HallusionBench"]].count("correct") == 1
    assert scores["HallusionBench_Tiny"].judge == {"agreement": pytest.approx(100 / 6), "failed": 0, "random": 0}


def test_stored_replies_are_judged_as_if_they_had_been_asked_for(
    model: Path, settings: Settings, judge: OpenAIServer, tmp_path: Path
) -> None:
    evaluate(settings(None, "MMStar", "LogicVista"), model=str(model), label="tiny", out=tmp_path / "rule")
    judged_config = settings(judge.url, "MMStar", "LogicVista")
    evaluate(judged_config, model=str(model), label="tiny", out=tmp_path / "judge")
    given = ["--judge", judge.url, "--judge-model", "a judge/of 7B", "--out", str(tmp_path / "again")]
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", "--rescore", str(tmp_path / "rule"), *given])
    for file in ("scores.json", "samples.parquet", "scores.md"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "judge" / file).read_bytes()
    assert "agreement" in (tmp_path / "again" / "scores.md").read_text()
