"""Questions that two tables share: found whatever was done to the picture, and only those."""

import base64
import io
import json
import random
from pathlib import Path

import pytest
from PIL import Image

from drift.config.evaluate import EvaluateConfig
from drift.data.tables import PROBLEMS, PROBLEMS_FILE, TRAIN_FILE, TRAINING_SET, write_rows
from drift.evaluate.benchmarks import read_benchmarks
from drift.evaluate.evaluation import evaluate
from drift.evaluate.overlaps import counts, find_overlaps
from drift.evaluate.scores import read_scores
from drift.ground.errors import DataError
from drift.inference.images import stored
from drift.planning.miniature.data import write_benchmarks
from tests.openai_server import OpenAIServer
from tests.unit.evaluate.test_benchmarks import table
from tests.unit.evaluate.test_collect import right


def picture(number: int) -> Image.Image:
    """A smooth picture of its own."""
    draw = random.Random(number)
    return Image.frombytes("RGB", (16, 12), draw.randbytes(16 * 12 * 3)).resize((400, 300), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "PNG", **more: int | Image.Exif) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return buffer.getvalue()


def row(index: int, image: bytes, question: str) -> str:
    return f"{index}\t{base64.b64encode(image).decode()}\t{question}\t{index}"


def settings(folder: Path, **more: object) -> EvaluateConfig:
    benchmarks = {"First": {"role": "reasoning"}, "Second": {"role": "perception"}}
    return EvaluateConfig(data=str(folder), benchmarks=benchmarks, **more)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Second holds 0 of First as it is, 1 as a small JPEG with a hint; 2 with other numbers, 3 with another picture."""
    asked = ["How many birds sit on the wire?", "What is the sum of 12 and 7?", "What is 3 times 45?", "Which is red?"]
    first = [row(place, encoded(picture(place)), text) for place, text in enumerate(asked)]
    second = [
        row(10, encoded(picture(0)), "Is it day or night?"),
        row(11, encoded(picture(1).resize((200, 150)), "JPEG", quality=60), f"Look well. {asked[1]}"),
        row(12, encoded(picture(2), "JPEG", quality=60), "What is 3 times 46?"),
        row(13, encoded(picture(13)), asked[3]),
    ]
    for name, rows in (("First", first), ("Second", second)):
        (tmp_path / f"{name}.tsv").write_text(table(*rows))
    return tmp_path


def test_a_picture_stored_on_its_side_is_near_to_the_upright_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees to the left
    lying = encoded(picture(1).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)
    for name, image in (("First", encoded(picture(1))), ("Second", lying)):
        (tmp_path / f"{name}.tsv").write_text(table(row(1, image, "What is the sum of 12 and 7?")))
    found = find_overlaps(read_benchmarks(settings(tmp_path)))
    assert {held.why for held in found} == {"a near image and a near text"}


def test_the_same_image_or_a_near_one_with_a_near_text_and_the_same_numbers_is_the_same_question(data: Path) -> None:
    found = find_overlaps(read_benchmarks(settings(data)))
    assert [(held.benchmark, held.index, held.other_index, held.why) for held in found] == [
        ("First", "0", "10", "the same image"),
        ("First", "1", "11", "a near image and a near text"),
        ("Second", "10", "0", "the same image"),
        ("Second", "11", "1", "a near image and a near text"),
    ]
    assert counts(found, "First") == {"Second": 2}


def test_pictures_that_only_look_alike_are_other_questions(tmp_path: Path) -> None:
    """The miniature's benchmarks: 1,550 questions in four wordings about drawings of one kind."""
    write_benchmarks(tmp_path)
    benchmarks = {path.stem: {"role": "reasoning"} for path in tmp_path.glob("*.tsv")}
    assert len(benchmarks) == 4
    assert find_overlaps(read_benchmarks(EvaluateConfig(data=str(tmp_path), benchmarks=benchmarks))) == []


def test_shared_questions_are_counted_listed_and_past_a_limit_an_error(data: Path, tmp_path: Path) -> None:
    with OpenAIServer(right) as server:
        config = settings(data, endpoint={"base_url": server.url})
        report = evaluate(config, model="served", label="x", out=tmp_path / "scores")
        asked = len(server.requests)
        strict = settings(data, endpoint={"base_url": server.url}, max_overlap=0.25)
        said = r"max_overlap: First: 2 of 4 questions are in Second too \(index 0 is 10: the same image\).*0\.25;"
        with pytest.raises(DataError, match=said):
            evaluate(strict, model="served", label="x", out=tmp_path / "strict")
        assert len(server.requests) == asked
    assert "First: 2 of 4 questions are in Second too" in report.warnings
    assert read_scores(tmp_path / "scores").benchmarks["Second"].overlaps == {"First": 2}
    for folder in ("scores", "strict.partial"):
        assert len(json.loads((tmp_path / folder / "overlaps.json").read_text())) == 4


@pytest.mark.parametrize("file", [TRAIN_FILE, PROBLEMS_FILE])
def test_a_training_set_or_pool_that_holds_a_question_is_an_error(data: Path, tmp_path: Path, file: str) -> None:
    image = stored([encoded(picture(3).resize((300, 225)), "JPEG", quality=70)])
    shared = {"id": "abc", "source": "x", "images": image}
    turns = [{"role": "user", "content": "Which is red ?"}, {"role": "assistant", "content": "It is A."}]
    trained = {"kind": "cot", "messages": turns, "answer": "A", "pass_rate": 1.0, "n_tokens": 5, "teacher": "t"}
    pooled = {"problem": "Which is red?", "gold": "A", "choices": [], "answer_kind": "choice"}
    pooled |= {"image_sha256": [""], "width": 1, "height": 1}
    features = (TRAINING_SET, {**shared, **trained}) if file == TRAIN_FILE else (PROBLEMS, {**shared, **pooled})
    (tmp_path / "set").mkdir()
    write_rows(tmp_path / "set" / file, [features[1]], features[0])
    with OpenAIServer(right) as server:
        given = {"model": "served", "label": "x", "training_set": tmp_path / "set"}
        said = r"max_contaminated: First: 1 of 4 questions are in training_set too \(index 3 is abc: a near image and"
        with pytest.raises(DataError, match=said):
            evaluate(settings(data, endpoint={"base_url": server.url}), out=tmp_path / "scores", **given)
        loose = settings(data, endpoint={"base_url": server.url}, max_contaminated=0.25)
        evaluate(loose, out=tmp_path / "scores", **given)
    assert read_scores(tmp_path / "scores").benchmarks["First"].overlaps == {"Second": 2, "training_set": 1}
