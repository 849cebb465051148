"""The whole evaluation with a real, tiny, untrained Qwen2.5-VL, and the judging of known replies."""

import base64
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from drift.config.evaluate import EvaluateConfig
from drift.evaluate.answering import open_model
from drift.evaluate.benchmarks import read_benchmark
from drift.evaluate.evaluation import evaluate
from drift.evaluate.questions import Question, question_text, questions
from drift.evaluate.rule import describe, judge
from drift.evaluate.samples import read_examples, read_samples
from drift.evaluate.scores import read_scores
from drift.ground.errors import CheckpointError, DataError
from drift.inference.reply import Reply
from drift.planning.miniature import models
from tests.unit.evaluate.test_benchmarks import png, table

QUESTIONS = ("value of a ?", "compute a + b", "read all", "compute a * b - c + d", "value of c ?")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "vlm"
    models.save_vlm(models.new_vlm(models.new_text_model().state_dict()), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    rows = [
        f"{place}\t{png(colour, (112, 28))}\t{question}\t{place}"
        for place, (question, colour) in enumerate(
            zip(QUESTIONS, ("red", "blue", "green", "gray", "cyan"), strict=True)
        )
    ]
    (folder / "Sums.tsv").write_text(table(*rows))
    (folder / "Colours.tsv").write_text(table(*rows[:2], "9\t77\tvalue of b ?\t1"))
    return folder


def settings(data: Path, **more: object) -> EvaluateConfig:
    benchmarks = {"Sums": {"role": "reasoning"}, "Colours": {"role": "perception", "prompt": "{question} ."}}
    given = {"batch_size": 2, "max_new_tokens": 5, "max_failed": 0.5, "threads": 1, **more}
    return EvaluateConfig(data=str(data), benchmarks=benchmarks, **given)


def test_every_question_gets_a_sample_in_the_tables_order_and_the_scores_count_them(
    model: Path, data: Path, tmp_path: Path
) -> None:
    report = evaluate(settings(data), model=str(model), label="tiny", out=tmp_path / "scores")
    samples = read_samples(tmp_path / "scores")
    expected = [("Colours", index) for index in ("0", "1", "9")] + [("Sums", str(place)) for place in range(5)]
    assert [(sample.benchmark, sample.index) for sample in samples] == expected
    failed = samples[2]
    assert (failed.status, failed.error, failed.raw, failed.correct) == ("failed", "no image", None, False)
    assert {sample.finish_reason for sample in samples if sample.raw is not None} <= {"stop", "length"}
    scores = read_scores(tmp_path / "scores")
    assert (scores.label, scores.count("n"), scores.count("failed")) == ("tiny", 8, 1)
    assert report.metrics()["evaluate/n"] == 8
    assert report.metrics()["reasoning/Sums"] == scores.columns()["Sums"].mean
    assert report.metrics()["perception/mean"] == scores.columns()["Colours"].mean
    assert len(read_examples(tmp_path / "scores")) == 7, "all with a picture"


def test_the_same_evaluation_gives_the_same_bytes(model: Path, data: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        evaluate(settings(data, limit=2), model=str(model), label="tiny", out=tmp_path / name)
    for file in ("scores.json", "samples.parquet", "examples.parquet"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_replies_do_not_depend_on_the_batch_they_were_in(model: Path, data: Path) -> None:
    asked = questions(read_benchmark("Sums", settings(data)))
    greedy = open_model(model, settings(data))
    assert len(asked) == 5
    assert [greedy.replies([question])[0] for question in asked] == greedy.replies(asked)


def test_a_reply_that_hits_the_limit_is_truncated_and_one_that_ends_is_not(model: Path, data: Path) -> None:
    greedy = open_model(model, settings(data))
    end = min(greedy._ends)
    words = greedy.processor.tokenizer(["read", "all"], add_special_tokens=False)["input_ids"]
    stopped, cut = (greedy._reply(row, 5) for row in ([*words[0], end, *words[1]], [*words[0], *words[1], *words[1]]))
    assert stopped == Reply("read", "stop", prompt_tokens=5, completion_tokens=2)
    assert cut == Reply("read all all", "length", prompt_tokens=5, completion_tokens=3)


def test_penalties_that_a_checkpoint_ships_with_do_not_reach_the_protocol(
    model: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "penal")
    shipped = json.loads((model / "generation_config.json").read_text())
    penal = shipped | {"repetition_penalty": 9.0, "do_sample": True, "temperature": 5.0, "max_new_tokens": 1}
    (tmp_path / "penal" / "generation_config.json").write_text(json.dumps(penal))
    image = base64.b64decode(png(size=(112, 28)))
    asked = [Question("Sums", text, text, image, (112, 28)) for text in QUESTIONS]
    plain = open_model(model, settings(data)).replies(asked)
    assert open_model(tmp_path / "penal", settings(data)).replies(asked) == plain


def test_too_many_truncated_answers_stop_the_run_and_leave_no_scores(model: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"evaluate\.max_truncated: \d of 8 answers hit max_new_tokens \(1\)"):
        evaluate(
            settings(data, max_new_tokens=1, max_truncated=0.0), model=str(model), label="x", out=tmp_path / "scores"
        )
    assert not (tmp_path / "scores").exists()


def test_a_missing_model_is_an_error_of_one_line(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such directory"):
        evaluate(settings(data), model=str(tmp_path / "nothing"), label="x", out=tmp_path / "scores")


def test_the_fingerprint_follows_the_protocol_and_not_the_speed(data: Path) -> None:
    assert describe(settings(data)) == describe(settings(data, batch_size=64, threads=2, processes=3))
    for change in ({"limit": 3}, {"max_new_tokens": 9}, {"image_max_pixels": None}):
        assert describe(settings(data)) != describe(settings(data, **change))


def test_options_stand_as_lines_below_the_question_in_the_benchmarks_template(tmp_path: Path) -> None:
    header = "index\timage\tquestion\tanswer\tA\tB\tC"
    (tmp_path / "Sums.tsv").write_text(table(f"1\t{png()}\tWhich {{one}}?\tC\tx\t\tz", header=header))
    item = read_benchmark("Sums", settings(tmp_path)).items[0]
    assert question_text(item, "{question}\nBox {{it}}.") == "Which {one}?\nA. x\nC. z\nBox {it}."


def test_known_replies_are_judged_by_kind(tmp_path: Path) -> None:
    header = "index\timage\tquestion\tanswer\tA\tB\tcategory"
    rows = [
        f"mcq\t{png()}\tq\tB\tcat\tdog\tpick",
        f"content\t{png()}\tq\tB\tcat\tdog\tpick",
        f"number\t{png()}\tq\t0.5\t\t\topen",
        f"yes\t{png()}\tq\tYes\t\t\topen",
        f"open thinking\t{png()}\tq\t5\t\t\topen",
        f"wrong\t{png()}\tq\t5\t\t\topen",
    ]
    (tmp_path / "Sums.tsv").write_text(table(*rows, header=header))
    benchmark = read_benchmark("Sums", settings(tmp_path))
    replies = {
        "mcq": "<think>A?</think> The answer is B.",
        "content": "dog",
        "number": r"<think>x</think> \boxed{\frac{1}{2}}",
        "yes": "Yes, it is.",
        "open thinking": r"<think> so \boxed{5}",
        "wrong": "A",  # no number: never right, unlike in VLMEvalKit's MathVision
    }
    samples = judge(benchmark, {index: Reply(text, "stop") for index, text in replies.items()})
    assert [sample.status for sample in samples] == ["correct"] * 4 + ["unparsed", "incorrect"]
    assert samples[4].thinking == r"so \boxed{5}"
    assert samples[0].category == "pick"


def test_the_table_has_the_columns_of_the_contract(model: Path, data: Path, tmp_path: Path) -> None:
    evaluate(settings(data, limit=1), model=str(model), label="tiny", out=tmp_path / "scores")
    columns = pq.read_table(tmp_path / "scores" / "samples.parquet").schema.names
    expected = ["benchmark", "role", "index", "group", "correct", "answer", "gold", "raw", "thinking", "finish_reason"]
    assert columns[: len(expected)] == expected
