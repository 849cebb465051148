"""Problems in: every reason to reject a row, every form of an image, every source that cannot be read."""

import base64
import hashlib
import io
import json

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image

from drift.config.data import IngestConfig
from drift.data.problems.ingestion import ingest
from drift.data.tables import PROBLEMS, read_rows
from drift.ground.artifacts import content_sha256, read_provenance
from drift.ground.errors import DataError, DriftError
from tests.pool_rows import ingested, png, pool_row, write_pool

REJECTED = {
    "missing_answer": {"answer": None},
    "empty_answer": {"answer": "  "},
    "sentinel_answer": {"answer": "Proof."},
    "long_answer": {"answer": "1" * 301},
    "empty_problem": {"problem": "<image> "},
    "missing_image": {"image": None},
    "undecodable_image": {"image": png()[:40]},
    "too_small": {"image": png(5, 30)},
    "aspect_ratio": {"image": png(28 * 200, 28)},
    "special_token": {"problem": "<image>what is <|image_pad|> ?"},
}


@pytest.mark.parametrize(("reason", "changes"), REJECTED.items(), ids=REJECTED)
def test_a_row_that_cannot_be_used_is_rejected_and_counted(tmp_path, reason, changes):
    source = write_pool(tmp_path / "pool.parquet", [pool_row(0), pool_row(1, **changes), pool_row(2)])
    report = ingest(IngestConfig(source=str(source), max_rejected=0.5), tmp_path / "problems")
    assert (report.read, report.kept, report.rejected) == (3, 2, {reason: 1})
    assert report.metrics()[f"data/rejected/{reason}"] == 1
    rejects = list(read_rows(tmp_path / "problems" / "rejects.parquet"))
    assert [(row["row"], row["reason"]) for row in rejects] == [(1, reason)]


def test_the_same_image_and_question_twice_is_a_duplicate_whatever_the_whitespace(tmp_path):
    rows = [pool_row(0), pool_row(0, problem="compute  0 + 1\n"), pool_row(0, image=png(shade=7))]
    problems = ingested(tmp_path, rows, max_rejected=0.5)
    assert [row["reason"] for row in read_rows(problems / "rejects.parquet")] == ["duplicate"]
    assert len(list(read_rows(problems / "problems.parquet"))) == 2


def test_a_problem_holds_the_contract_s_columns_and_untouched_bytes(tmp_path):
    image = png(64, 32)
    row = next(read_rows(ingested(tmp_path, [pool_row(3, image=image, source="geo")]) / "problems.parquet"))
    text = "compute 3 + 1"
    assert row == {
        "id": hashlib.sha256(image + text.encode()).hexdigest()[:16],
        "source": "geo",
        "problem": text,
        "text_problem": None,
        "gold": "4",
        "choices": None,
        "answer_kind": "number",
        "images": [{"bytes": image, "path": None}],
        "image_sha256": [hashlib.sha256(image).hexdigest()],
        "width": 64,
        "height": 32,
    }


def test_the_file_loads_as_a_hugging_face_dataset_with_decoded_images(tmp_path):
    file = str(ingested(tmp_path, 2) / "problems.parquet")
    dataset = load_dataset("parquet", data_files=file, split="train", cache_dir=str(tmp_path / "cache"))
    assert dataset.features == PROBLEMS
    assert dataset[0]["images"][0].size == (56, 28)


@pytest.mark.parametrize("form", ["base64", "data url", "path", "struct", "struct with path", "list"])
def test_an_image_may_come_in_any_usual_form(tmp_path, form):
    image = png(84, 28)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(image)
    encoded = base64.b64encode(image).decode()
    cell = {
        "base64": encoded,
        "data url": f"data:image/png;base64,{encoded}",
        "path": "images/a.png",
        "struct": {"bytes": encoded, "path": None},
        "struct with path": {"bytes": None, "path": "images/a.png"},
        "list": ["images/a.png", encoded],
    }[form]
    source = tmp_path / "pool.jsonl"
    source.write_text(json.dumps(pool_row(0, image=cell, problem="compute 1")) + "\n\n")
    ingest(IngestConfig(source=str(source)), tmp_path / "problems")
    row = next(read_rows(tmp_path / "problems" / "problems.parquet"))
    assert [one["bytes"] for one in row["images"]] == [image] * (2 if form == "list" else 1)


def test_a_parquet_column_of_image_structs_is_read(tmp_path):
    image = png()
    row = next(read_rows(ingested(tmp_path, [pool_row(image={"bytes": image, "path": "a.png"})]) / "problems.parquet"))
    assert row["images"][0]["bytes"] == image


@pytest.mark.parametrize(
    ("answer", "gold", "kind"),
    [(4, "4", "number"), (2.5, "2.5", "number"), (3.0, "3", "number"), (r"so \boxed{x^2}", "x^2", "expression"),
     (["7"], "7", "number"), ("Paris", "Paris", "text")],
)  # fmt: skip
def test_a_gold_answer_becomes_text_and_gets_its_kind(tmp_path, answer, gold, kind):
    row = next(read_rows(ingested(tmp_path, [pool_row(answer=answer)]) / "problems.parquet"))
    assert (row["gold"], row["answer_kind"]) == (gold, kind)


def test_options_come_from_a_list_or_its_json_and_broken_ones_are_rejected(tmp_path):
    cells = ['["30", "45"]', '{"A": "30", "B": "45"}', "", "30 or 45"]
    rows = [pool_row(number, answer="B", choices=cell) for number, cell in enumerate(cells)]
    problems = ingested(tmp_path, rows, choices_column="choices", max_rejected=0.3)
    found = [(row["choices"], row["answer_kind"]) for row in read_rows(problems / "problems.parquet")]
    assert found == [(["30", "45"], "choice"), (["30", "45"], "choice"), (None, "choice")]
    assert [row["reason"] for row in read_rows(problems / "rejects.parquet")] == ["bad_choices"]


def test_columns_are_named_by_the_configuration_and_the_limit_counts_rows(tmp_path):
    rows = [{"q": f"what is {number}", "a": str(number), "pic": png()} for number in range(5)]
    names = {"problem_column": "q", "answer_column": "a", "image_column": "pic"}
    problems = ingested(tmp_path, rows, limit=2, **names)
    assert [row["gold"] for row in read_rows(problems / "problems.parquet")] == ["0", "1"]
    assert read_provenance(problems)["config"]["image_column"] == "pic"


def test_the_same_source_gives_the_same_bytes(tmp_path):
    source = write_pool(tmp_path / "pool.parquet", [pool_row(number) for number in range(5)])
    for name in ("a", "b"):
        ingest(IngestConfig(source=str(source)), tmp_path / name)
    assert content_sha256(tmp_path / "a") == content_sha256(tmp_path / "b")


def test_a_picture_that_its_exif_turns_has_the_size_of_a_viewer_and_its_own_bytes(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (64, 40), "white").save(buffer, "JPEG", exif=exif)
    row = next(read_rows(ingested(tmp_path, [pool_row(image=buffer.getvalue())]) / "problems.parquet"))
    assert (row["width"], row["height"]) == (40, 64)
    assert row["images"][0]["bytes"] == buffer.getvalue()


def test_a_hub_dataset_is_read_with_its_image_bytes_as_they_came(tmp_path):
    image = png(112, 56)
    (tmp_path / "data").mkdir()
    write_pool(tmp_path / "data" / "train-0.parquet", [pool_row(1, image={"bytes": image, "path": None})])
    (tmp_path / "data" / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - {name: problem, dtype: string}\n  - {name: answer, dtype: string}\n"
        "  - {name: image, dtype: image}\n---\n"
    )
    ingest(IngestConfig(source=str(tmp_path / "data")), tmp_path / "problems")
    assert next(read_rows(tmp_path / "problems" / "problems.parquet"))["images"][0]["bytes"] == image


def broken(tmp_path, content):
    path = tmp_path / "pool.jsonl"
    path.write_text(content)
    return str(path)


BAD = {
    "no file": (lambda path: {"source": str(path / "none.parquet")}, "none.parquet: no such file"),
    "not parquet": (
        lambda path: {"source": str((path / "a.parquet").write_text("x") and path / "a.parquet")},
        "not readable as parquet",
    ),
    "another suffix": (
        lambda path: {"source": str((path / "a.xlsx").write_text("x") and path / "a.xlsx")},
        "a.xlsx: not one of .csv, .json, ",
    ),
    "not JSON": (lambda path: {"source": broken(path, '{"problem": "a"\n')}, "line 1 is not JSON"),
    "not objects": (lambda path: {"source": broken(path, "[1]\n")}, "line 1 is not a JSON object"),
    "empty": (lambda path: {"source": broken(path, "")}, "is empty"),
    "no such column in JSON": (
        lambda path: {"source": broken(path, '{"problem": "a", "image": "b"}\n')},
        "ingest.answer_column: .* has no column 'answer'; it has problem, image",
    ),
    "no such column": (
        lambda path: {"source": str(write_pool(path / "p.parquet", [pool_row()])), "problem_column": "question"},
        "ingest.problem_column: .* has no column 'question'; it has problem, answer, image",
    ),
    "nothing usable": (
        lambda path: {"source": str(write_pool(path / "p.parquet", [pool_row(answer="")])), "max_rejected": 1},
        r"none of 1 rows can be used \(empty_answer 1\)",
    ),
    "too many rejected": (
        lambda path: {
            "source": str(write_pool(path / "p.parquet", [pool_row(0), pool_row(1), pool_row(2, answer="")]))
        },
        r"ingest.max_rejected: 1 of 3 rows .*, more than the share 0.1 \(empty_answer 1, such as row 2: ",
    ),
    "unknown dataset": (lambda path: {"source": "nobody/nothing-here"}, "nobody/nothing-here' .split 'train'. is no"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_source_that_cannot_be_used_is_one_line_and_leaves_nothing(tmp_path, case):
    settings, message = BAD[case]
    with pytest.raises(DriftError, match=message) as raised:
        ingest(IngestConfig(**settings(tmp_path)), tmp_path / "problems")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("problems*"))


def test_a_folder_that_holds_something_is_not_overwritten(tmp_path):
    problems = ingested(tmp_path, 2)
    before = pq.read_table(problems / "problems.parquet")
    with pytest.raises(DataError, match="exists already"):
        ingest(IngestConfig(source=str(tmp_path / "pool.parquet")), problems)
    assert pq.read_table(problems / "problems.parquet").equals(before)


def test_the_problem_in_words_comes_from_its_column_and_may_be_missing_in_a_row(tmp_path):
    rows = [pool_row(0, told=" a square: compute 1 "), pool_row(1, told=None)]
    problems = ingested(tmp_path, rows, text_column="told")
    found = [row["text_problem"] for row in read_rows(problems / "problems.parquet")]
    assert found == ["a square: compute 1", None]
    with pytest.raises(DataError, match="text_column"):
        ingest(IngestConfig(source=str(tmp_path / "pool.parquet"), text_column="said"), tmp_path / "other")
