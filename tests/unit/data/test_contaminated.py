"""Questions that are there twice, or that a benchmark asks: planted, found, and nothing that only looks alike."""

import base64
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from PIL.Image import Resampling

from drift.config.data import CurateConfig, ReplayConfig
from drift.data.selection.curation import CurateReport, curate
from drift.data.tables import read_rows
from drift.ground.artifacts import content_sha256, read_json
from drift.ground.errors import ConfigError, DataError
from tests.pool_rows import ingested, pool_row, write_pool

PLANTED = 20
ASKED = (
    "Find the length of side {}.",
    "What is the area of the shape with side {}?",
    "How many cubes of side {} fit in?",
)


def drawing(number: int, label: str = "") -> Image.Image:
    """A line drawing of its own on white, with a label."""
    draw = random.Random(number)
    image = Image.new("RGB", (240, 180), "white")
    pen = ImageDraw.Draw(image)
    for _ in range(5):
        pen.polygon([(draw.randrange(240), draw.randrange(180)) for _ in range(3)], outline="black", width=4)
    pen.rectangle([draw.randrange(200), draw.randrange(150), 239, 179], fill="gray")
    pen.text((12, 12), label, fill="black")
    return image


def encoded(image: Image.Image, form: str = "PNG", **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return buffer.getvalue()


def changed(image: Image.Image, number: int) -> bytes:
    """Another file of the same picture: recompressed, resized, in other colours, all of it."""
    ways = (
        lambda: encoded(image, "JPEG", quality=60),
        lambda: encoded(image.resize((160, 120), Resampling.BICUBIC)),
        lambda: encoded(ImageOps.colorize(image.convert("L"), "darkblue", "ivory")),
        lambda: encoded(ImageEnhance.Contrast(image.resize((420, 315))).enhance(0.7), "WEBP", quality=80),
    )
    return ways[number % len(ways)]()


def reworded(question: str, number: int) -> str:
    ways = (question.upper(), question[:-1] + " !", f"Look at the figure. {question}", f"{question[:-1]}, please")
    return ways[number // 4 % len(ways)]


def question(number: int, side: int | None = None) -> str:
    return ASKED[number % len(ASKED)].format(side if side is not None else number + 3)


def planted() -> list[dict[str, Any]]:
    """Twenty problems; a near duplicate of each; and one with other numbers, in the text or in the drawing alone."""
    rows = []
    for number in range(PLANTED):
        image = drawing(number, f"{number}")
        row = pool_row(problem=question(number), answer=str(number + 1), image=encoded(image))
        near = row | {"problem": reworded(question(number), number), "image": changed(image, number)}
        other = row | {"problem": question(number, number + 70), "answer": str(number + 1)}
        relabelled = row | {"image": encoded(drawing(number, f"{number + 1}")), "answer": str(number + 2)}
        rows += [row, near, other if number % 2 else relabelled]
    return rows


def chains(folder: Path, problems: Path) -> Path:
    """A right chain for every problem, and a wrong one for every second."""
    folder.mkdir()
    texts = []
    for number, row in enumerate(read_rows(problems / "problems.parquet", ["id", "gold"])):
        answers = [row["gold"], "-9"][: 1 + number % 2]
        texts += [
            {
                "id": row["id"],
                "sample": sample,
                "text": f"<think>why</think>\\boxed{{{answer}}}",
                "finish_reason": "stop",
            }
            for sample, answer in enumerate(answers)
        ]
    (folder / "part-00000-00000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in texts))
    return folder


def table(path: Path, rows: list[tuple[bytes, str]]) -> Path:
    lines = [f"{index}\t{base64.b64encode(image).decode()}\t{text}\tA" for index, (image, text) in enumerate(rows)]
    path.write_text("\n".join(["index\timage\tquestion\tanswer", *lines]) + "\n")
    return path


def run(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> CurateReport:
    problems = ingested(folder, rows)
    return curate(CurateConfig(**settings), problems, chains(folder / "generations", problems), folder / "out")


def stage(report: CurateReport, name: str) -> dict[str, Any]:
    return next(stage for stage in report.funnel if stage["stage"] == name)


def questions(folder: Path) -> set[str]:
    return {row["messages"][0]["content"] for row in read_rows(folder / "out" / "train.parquet")}


def test_of_near_duplicates_one_is_kept_and_what_only_looks_alike_is_not_touched(tmp_path: Path) -> None:
    report = run(tmp_path, planted(), near_duplicates=True)
    assert stage(report, "near_duplicate") == {
        "stage": "near_duplicate", "in": 60, "out": 40, "reasons": {"near_duplicate": PLANTED},
    }  # fmt: skip
    kept = questions(tmp_path)
    for number in range(1, PLANTED, 2):
        assert len(kept & {question(number), reworded(question(number), number)}) == 1
    assert {question(number, number + 70) for number in range(1, PLANTED, 2)} <= kept
    pairs = read_json(tmp_path / "out" / "duplicates.json")
    assert len([pair for pair in pairs if not pair["contradicts"]]) == PLANTED
    # a drawing with another label asks the same of a near picture, with another answer: who can say which errs?
    assert report.contradicting == len([pair for pair in pairs if pair["contradicts"]]) == PLANTED


def test_without_the_filter_all_are_kept_and_nothing_is_written(tmp_path: Path) -> None:
    report = run(tmp_path, planted())
    assert (report.kept, report.contradicting) == (60, 0)
    assert not {"duplicates.json", "contaminated.json"} & {path.name for path in (tmp_path / "out").iterdir()}


def test_what_a_benchmark_asks_is_left_out_and_what_only_looks_alike_is_kept(tmp_path: Path) -> None:
    rows = [pool_row(problem=question(number), image=encoded(drawing(number))) for number in range(2 * PLANTED)]
    held = [
        (encoded(drawing(number)), "Something else?")
        if number % 2
        else (changed(drawing(number), number), question(number))
        for number in range(PLANTED)
    ]
    alike = [
        (changed(drawing(number), number), question(number, number + 70)) for number in range(PLANTED, 2 * PLANTED)
    ]  # the same drawings with other numbers
    against = table(tmp_path / "Bench.tsv", held + alike)
    report = run(tmp_path, rows, against=[str(against)])
    reasons = {"near_question": PLANTED // 2, "same_image": PLANTED // 2}
    assert stage(report, "contaminated") == {"stage": "contaminated", "in": 40, "out": 20, "reasons": reasons}
    assert questions(tmp_path) == {question(number) for number in range(PLANTED, 2 * PLANTED)}
    found = read_json(tmp_path / "out" / "contaminated.json")
    assert sorted(int(one["index"]) for one in found) == list(range(PLANTED))
    assert {one["table"] for one in found} == {str(against)}


def test_a_picture_of_another_row_and_one_that_does_not_decode_are_looked_up_and_told(
    tmp_path: Path, caplog: Any
) -> None:
    cell = base64.b64encode(encoded(drawing(0))).decode()
    lines = ["index\timage\tquestion", f"1\t{cell}\tWhat?", "2\t1\tWhich?", "3\t['a', 'b']\tWho?"]
    (tmp_path / "Bench.tsv").write_text("\n".join(lines))
    rows = [pool_row(problem="Why 5?", image=encoded(drawing(number))) for number in range(2)]
    assert run(tmp_path, rows, against=[str(tmp_path / "Bench.tsv")]).kept == 1
    assert "Bench.tsv: 1 rows have no single image that decodes" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decontaminate": True}, r"^curate\.decontaminate: a chain gives the tables .* name them in curate\.against"),
        ({"against": ["none.tsv"]}, r"^curate\.against: 'none\.tsv' does not exist; give TSV files"),
    ],
)
def test_tables_that_are_not_there_are_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, [pool_row(0)], **settings)
    assert not list(tmp_path.glob("out*"))


# ------------------------------------------------------------------------------------------- replay


def test_replay_is_no_question_of_a_chain_and_none_of_a_benchmark(tmp_path: Path) -> None:
    rows = [pool_row(problem=question(number), image=encoded(drawing(number))) for number in range(6)]
    fresh = [pool_row(problem=f"Which colour is {n}?", image=encoded(drawing(50 + n)), answer="red") for n in range(8)]
    near = rows[0] | {"problem": question(0).upper(), "image": changed(drawing(0), 0), "answer": "red"}
    source = write_pool(tmp_path / "replay.parquet", [*rows[1:4], near, *fresh])
    bench = table(tmp_path / "Bench.tsv", [(encoded(drawing(50)), "Another?")])
    replay = ReplayConfig(source=str(source), fraction=0.5)
    report = run(tmp_path, rows, near_duplicates=True, against=[str(bench)], replay=replay)
    assert stage(report, "replay") == {
        "stage": "replay", "in": 6, "out": 12, "reasons": {"also_a_chain": 4, "contaminated": 1},
    }  # fmt: skip
    asked = [row for row in read_rows(tmp_path / "out" / "train.parquet") if row["kind"] == "direct"]
    assert {row["messages"][0]["content"] for row in asked} <= {row["problem"] for row in fresh[1:]}
    with pytest.raises(
        DataError, match=r"needs 14 replay rows, but .* has 12, some of them left out \(also_a_chain 3\)"
    ):
        curate(
            CurateConfig(replay=ReplayConfig(source=str(source), fraction=0.7)),
            tmp_path / "problems",
            tmp_path / "generations",
            tmp_path / "other",
        )


def test_the_same_bytes_in_whatever_order_and_folders_the_generations_come(tmp_path: Path) -> None:
    settings = {"near_duplicates": True, "keep": 30, "trace": "random"}
    run(tmp_path, planted(), **settings)
    lines = (tmp_path / "generations" / "part-00000-00000.jsonl").read_text().splitlines(keepends=True)
    random.Random(5).shuffle(lines)
    for name, some in (("a", lines[:33]), ("b", lines[33:])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part-00000-00000.jsonl").write_text("".join(some))
    folders = [tmp_path / "b", tmp_path / "a"]
    curate(CurateConfig(**settings), tmp_path / "problems", folders, tmp_path / "again")
    assert content_sha256(tmp_path / "out") == content_sha256(tmp_path / "again")
    with pytest.raises(DataError, match=r"sample . is there twice \(.*part-00000-00000\.jsonl.*give each folder once"):
        curate(CurateConfig(**settings), tmp_path / "problems", [*folders, tmp_path / "a"], tmp_path / "twice")
