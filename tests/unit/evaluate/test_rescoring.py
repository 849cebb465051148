"""Stored replies judged again: nothing is asked, and nothing that was asked may change."""

import json
from pathlib import Path

import pytest

from drift.cli.app import main
from drift.evaluate.evaluation import evaluate
from drift.evaluate.samples import read_samples
from drift.evaluate.scores import read_scores
from drift.ground.artifacts import read_json
from tests.openai_server import Body, OpenAIServer, question
from tests.unit.evaluate.test_benchmarks import png, table
from tests.unit.evaluate.test_collect import served

FILES = ("scores.json", "samples.parquet", "examples.parquet", "scores.md")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "tables"
    folder.mkdir()
    for name, colour in (("Sums", "red"), ("Colours", "blue")):
        rows = [f"{n}\t{png(colour, (30 + n, 40))}\tcompute {n}\t{n}" for n in range(4)]
        (folder / f"{name}.tsv").write_text(table(*rows, f"9\t\tno image\t{name}"))
    return folder


def reply(body: Body) -> Body:
    """Right, wrong, cut inside of its thinking, and with thinking that the server parts off."""
    number = int(question(body).removesuffix(" .").split()[-1])
    text = (r"<think> x </think> \boxed{0}", "7", "<think> so", r"\boxed{3}")[number]
    return {"content": text, "finish_reason": "length" if number == 2 else "stop"} | (
        {"reasoning": "so 3"} if number == 3 else {}
    )


@pytest.fixture
def scores(data: Path, tmp_path: Path) -> Path:
    with OpenAIServer(reply) as server:
        config = served(data, server.url, max_failed=0.2, image_max_pixels=None, samples={"perception": 2})
        evaluate(config, model="served", label="mine", out=tmp_path / "scores")
    return tmp_path / "scores"


def rescored(scores: Path, out: Path, *more: str) -> Path:
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", "--rescore", str(scores), "--out", str(out), *more])
    return out


def test_the_same_rules_give_the_same_bytes_without_a_server(scores: Path, tmp_path: Path) -> None:
    again = rescored(scores, tmp_path / "again")
    for file in FILES:
        assert (again / file).read_bytes() == (scores / file).read_bytes()
    provenance = read_json(again / "provenance.json")
    assert [entry["uri"] for entry in provenance["inputs"] if entry["name"] == "replies"] == [str(scores)]
    assert provenance["rescored"]["inputs"] == read_json(scores / "provenance.json")["inputs"]


def test_all_that_came_is_judged_again_and_none_of_the_old_verdicts_stays(scores: Path, tmp_path: Path) -> None:
    stored = read_samples(scores)
    assert [one.status for one in stored[:5]] == ["correct", "incorrect", "unparsed", "correct", "failed"]
    again = rescored(scores, tmp_path / "again", "confidence=0.9", "--label", "other")
    assert read_samples(again) == stored
    assert (read_scores(again).label, read_scores(again).confidence) == ("other", 0.9)
    assert read_scores(again).protocol_fingerprint == read_scores(scores).protocol_fingerprint


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["max_new_tokens=9"], "asked with max_new_tokens 8, now 9; leave it as it was, or ask again"),
        (["instruction=Box it."], "asked with instruction None, now 'Box it.'"),
        (["--model", "x"], "--model: nothing is asked with --rescore; leave it out"),
        (["--limit", "3"], "--limit: nothing is asked with --rescore"),
    ],
)
def test_what_was_asked_cannot_change(
    scores: Path, tmp_path: Path, given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "--rescore", str(scores), "--out", str(tmp_path / "again"), *given])
    assert said in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_other_tables_are_refused_and_the_same_ones_elsewhere_are_not(
    scores: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.rename(tmp_path / "moved")
    rescored(scores, tmp_path / "again", "--data", str(tmp_path / "moved"))
    (tmp_path / "moved" / "Sums.tsv").write_text((tmp_path / "moved" / "Colours.tsv").read_text())
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "--rescore", str(scores), "--out", str(tmp_path / "x"), "--data", str(tmp_path / "moved")])
    assert "its questions are of other tables" in capsys.readouterr().err


def test_replies_of_before_neutral_sampling_was_sent_are_not_said_to_be_neutral(scores: Path, tmp_path: Path) -> None:
    raw = json.loads((scores / "scores.json").read_text())
    del raw["protocol"]["neutral"]
    (scores / "scores.json").write_text(json.dumps(raw))
    assert read_scores(rescored(scores, tmp_path / "again")).protocol["neutral"] is False
