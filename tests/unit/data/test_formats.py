"""Formats in: each gives the same problems; placeholders keep their places; bad rows are counted, not the end."""

import base64
import hashlib
import json

import pytest

from drift.config.data import IngestConfig
from drift.config.section import validate
from drift.data.problems.ingestion import IngestReport, ingest
from drift.data.tables import read_rows
from drift.ground.errors import ConfigError, DataError
from tests import sources_written as written
from tests.pool_rows import png

ENCODED = base64.b64encode(png()).decode()
OTHER = base64.b64encode(png(shade=7)).decode()


def problems_of(tmp_path, **config):
    report = ingest(IngestConfig(**config), tmp_path / "problems")
    return report, list(read_rows(tmp_path / "problems" / "problems.parquet"))


def of_lines(tmp_path, *rows, **config) -> tuple[IngestReport, list, list]:
    source = written.lines(tmp_path / "pool.jsonl", list(rows))
    report, problems = problems_of(tmp_path, source=str(source), **{"max_rejected": 1, **config})
    return report, problems, list(read_rows(tmp_path / "problems" / "rejects.parquet"))


def row(**changes):
    return {"problem": "what?", "answer": "1", "image": ENCODED} | changes


@pytest.mark.parametrize("form", written.WRITTEN)
def test_every_format_gives_the_same_problems(tmp_path, form):
    report, problems = problems_of(tmp_path, source=str(written.WRITTEN[form](tmp_path)))
    numbers = range(written.COUNT)
    ids = [hashlib.sha256(written.image(n) + written.question(n).encode()).hexdigest()[:16] for n in numbers]
    assert [one["id"] for one in problems] == ids
    assert [(one["problem"], one["gold"]) for one in problems] == [
        (written.question(n), written.gold(n)) for n in numbers
    ]
    assert [one["images"] for one in problems] == [[{"bytes": written.image(n), "path": None}] for n in numbers]
    assert (report.read, report.rejected) == (written.COUNT, {})


PLACED = {
    "two placeholders, one image": ({"problem": "<image><image>who?"}, "placeholders"),
    "none": ({"problem": "who?"}, "who?"),
    "in front, whatever the blanks": ({"problem": " <image>\n<image> who?", "image": [ENCODED, OTHER]}, "who?"),
    "between words": (
        {"problem": "compare <image> with <image> please", "image": [ENCODED, OTHER]},
        "compare <image> with <image> please",
    ),
    "at the end": ({"problem": "who?\n<image>"}, "who?\n<image>"),
    "numbered": ({"problem": "see <image 1> and <image_2>", "image": [ENCODED, OTHER]}, "see <image> and <image>"),
    "numbered twice": ({"problem": "a <image 1> b <image 1>", "image": [ENCODED, OTHER]}, "placeholders"),
    "ImageHere": ({"problem": "<ImageHere>what"}, "what"),
    "capitals": ({"problem": "see <IMAGE> here"}, "see <image> here"),
    "in backticks": ({"problem": "the tag `<image>` in HTML"}, "the tag `<image>` in HTML"),
    "nothing else": ({"problem": "<image>"}, "empty_problem"),
    "video": ({"problem": "<video>clip"}, "other_media"),
    "in an option": ({"ch": ["<image 1>", "2"]}, "placeholders"),
}


@pytest.mark.parametrize("case", PLACED)
def test_placeholders_are_held_against_the_images_and_keep_their_places(tmp_path, case):
    changes, expected = PLACED[case]
    report, problems, _ = of_lines(tmp_path, row(**changes), row(problem="another", ch=None), choices_column="ch")
    if expected in ("placeholders", "empty_problem", "other_media"):
        assert (report.rejected, len(problems)) == ({expected: 1}, 1)
    else:
        assert (report.rejected, problems[0]["problem"]) == ({}, expected)


def test_numbered_placeholders_say_which_image_stands_where(tmp_path):
    _, problems, _ = of_lines(tmp_path, row(problem="first <image 2>, then <image 1>", image=[ENCODED, OTHER]))
    assert [one["bytes"] for one in problems[0]["images"]] == [png(shade=7), png()]


def test_a_message_of_blocks_keeps_its_images_between_its_texts(tmp_path):
    url = f"data:image/png;base64,{ENCODED}"
    blocks = [
        {"type": "text", "text": "what is "},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": " worth?"},
    ]
    turns = [{"role": "user", "content": blocks}, {"role": "assistant", "content": "5"}]
    _, problems, _ = of_lines(tmp_path, {"messages": turns})
    assert (problems[0]["problem"], problems[0]["gold"]) == ("what is <image> worth?", "5")


def test_options_of_a_table_come_with_their_columns_and_an_image_from_the_row_it_refers_to(tmp_path):
    rows = [
        {"index": 7, "image": ENCODED, "question": "which?", "answer": "B", "A": "x", "B": "y", "C": ""},
        {"index": 8, "image": "7", "question": "and here?", "answer": "A", "A": "x", "B": "y", "C": "z"},
    ]
    source = written.table(tmp_path / "bench.tsv", rows, "\t")
    _, problems = problems_of(tmp_path, source=str(source))
    assert [(one["choices"], one["gold"]) for one in problems] == [(["x", "y"], "B"), (["x", "y", "z"], "A")]
    assert problems[1]["images"] == problems[0]["images"] == [{"bytes": png(), "path": None}]


def test_text_alone_is_a_problem_only_where_the_switch_says_so(tmp_path):
    report, problems, _ = of_lines(tmp_path, row(), row(problem="2+2?", image=None))
    assert report.rejected == {"missing_image": 1}
    (tmp_path / "on").mkdir()
    report, problems, _ = of_lines(
        tmp_path / "on",
        row(),
        row(problem="2+2?", image=None),
        row(problem="where is <image>?", image=None),
        row(problem="lost", image="lost.png"),
        text_only=True,
    )
    assert report.rejected == {"missing_image": 1, "placeholders": 1}
    assert (problems[1]["problem"], problems[1]["images"], problems[1]["width"]) == ("2+2?", [], None)


def test_options_tell_problems_apart_and_a_contradicting_duplicate_names_both_rows(tmp_path):
    rows = [
        row(answer="A", ch=["1", "2"]),
        row(answer="B", ch=["3", "4"]),
        row(answer="B", ch=["1", "2"]),
        row(answer="1", ch=["1", "2"]),
    ]
    report, problems, rejects = of_lines(tmp_path, *rows, choices_column="ch")
    assert len({one["id"] for one in problems}) == len(problems) == 2
    assert report.rejected == {"contradicts": 1, "duplicate": 1}
    assert rejects[0]["row"] == 2 and "gold 'B', but 'A' in row 0" in rejects[0]["detail"]


REJECTED = {
    "half a character": (json.dumps(row(problem="bad \ud83d text")), "bad_text"),
    "half a character in the gold": (json.dumps(row(answer="\ud83d")), "bad_text"),
    "NUL": (json.dumps(row(answer="1\0")), "bad_text"),
    "a torn line": (json.dumps(row())[:30], "broken_row"),
    "no object": ("[1]", "broken_row"),
    "bytes that are no UTF-8": ('{"problem": "\udcff"}', "broken_row"),
    "an address": (json.dumps(row(image="https://example.org/a.png")), "image_address"),
    "an infinite gold": ('{"problem": "q", "image": "' + ENCODED + '", "answer": Infinity}', "sentinel_answer"),
    "a letter beyond the options": (json.dumps(row(answer="C", ch=["1", "2"])), "gold_not_an_option"),
    "a gold that is no option": (json.dumps(row(answer="z", ch=["x", "y"])), "gold_not_an_option"),
    "several golds": (json.dumps(row(answer=["1", "2"])), "several_answers"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_a_row_that_no_file_or_problem_can_hold_is_one_reject_and_not_the_end(tmp_path, case):
    line, reason = REJECTED[case]
    good = json.dumps(row(problem="another", ch=["1", "2"]))
    (tmp_path / "pool.jsonl").write_bytes(f"{good}\n{line}\n".encode("utf-8", "surrogateescape"))
    config = {"source": str(tmp_path / "pool.jsonl"), "choices_column": "ch"}
    report, _ = problems_of(tmp_path, **config, max_rejected=0.5)
    assert (report.kept, report.rejected) == (1, {reason: 1})
    with pytest.raises(DataError, match=f"ingest.max_rejected: 1 of 2 rows .*{reason} 1"):
        ingest(IngestConfig(**config), tmp_path / "strict")


def test_a_torn_line_of_a_table_is_one_reject_too(tmp_path):
    (tmp_path / "pool.csv").write_text(f"problem,answer,image\nq,1,{ENCODED}\ntorn,2\n")
    report, _ = problems_of(tmp_path, source=str(tmp_path / "pool.csv"), max_rejected=0.5)
    assert report.rejected == {"broken_row": 1}


@pytest.mark.parametrize("gold", ["B", "(b)", "y", "B. y", "A, B", r"\text{y}"])
def test_a_gold_names_its_option_in_any_usual_way(tmp_path, gold):
    report, _, _ = of_lines(tmp_path, row(answer=gold, ch=["x", "y"]), choices_column="ch")
    assert report.rejected == {}


TURNS = {
    "several turns": ["user", "assistant", "user", "assistant"],
    "no question": ["assistant"],
    "a tool's turn": ["user", "tool"],
}


@pytest.mark.parametrize("case", TURNS)
def test_turns_that_are_not_one_question_and_its_answer_are_rejected(tmp_path, case):
    turns = [{"role": role, "content": "what? 5"} for role in TURNS[case]]
    good = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "5"}], "images": [ENCODED]}
    report, _, _ = of_lines(tmp_path, good, {"messages": turns, "images": [ENCODED]})
    assert report.rejected == {"turns": 1}


def pools(tmp_path):
    one = [row(problem=f"a {number}") for number in range(60)]
    two = [row(problem=f"b {number}") for number in range(60)]
    return [str(written.lines(tmp_path / f"{name}.jsonl", rows)) for name, rows in (("one", one), ("two", two))]


def test_several_sources_are_read_one_after_the_other_and_counted(tmp_path):
    one, two = pools(tmp_path)
    report, problems = problems_of(tmp_path, sources=[{"source": one}, {"source": two}], limit=70)
    assert report.sources == {one: 60, two: 10}
    assert {"data/rows/" + name.strip("/").replace("/", "_") for name in (one, two)} <= set(report.metrics())
    assert [problems[0]["source"], problems[-1]["source"]] == ["one", "two"]


def test_sources_with_weights_are_drawn_in_their_proportion_until_one_is_empty_and_the_same_again(tmp_path):
    one, two = pools(tmp_path)
    sources = [{"source": one, "weight": 3}, {"source": two, "weight": 1}]
    report, problems = problems_of(tmp_path, sources=sources, seed=5)
    assert report.sources[one] == 60 and 8 <= report.sources[two] <= 36
    again = ingest(IngestConfig(sources=sources, seed=5), tmp_path / "again")
    assert again.sources == report.sources
    assert list(read_rows(tmp_path / "again" / "problems.parquet")) == problems
    other = ingest(IngestConfig(sources=sources, seed=6, limit=60), tmp_path / "other")
    assert list(read_rows(tmp_path / "other" / "problems.parquet")) != problems[: other.kept]


def test_a_source_of_several_may_have_its_own_columns(tmp_path):
    one = written.lines(tmp_path / "one.jsonl", [row()])
    two = written.lines(tmp_path / "two.jsonl", [{"q": "who?", "a": {"gold": "2"}, "image": OTHER}])
    own = {"source": str(two), "problem_column": "q", "answer_column": "a.gold"}
    _, problems = problems_of(tmp_path, sources=[{"source": str(one)}, own])
    assert [(one["problem"], one["gold"]) for one in problems] == [("what?", "1"), ("who?", "2")]


SECTIONS = {
    "both": ({"source": "a", "sources": [{"source": "b"}]}, "ingest.source: give source or sources"),
    "neither": ({}, "ingest.source: required, but not set"),
    "half weights": (
        {"sources": [{"source": "a", "weight": 1}, {"source": "b"}]},
        "ingest.sources: give a weight to each source, or to none",
    ),
    "an unknown format": ({"source": "a", "format": "llava"}, "ingest.format: "),
}


@pytest.mark.parametrize("case", SECTIONS)
def test_a_section_that_does_not_say_where_from_is_one_line(case):
    raw, message = SECTIONS[case]
    with pytest.raises(ConfigError, match=message) as raised:
        validate(IngestConfig, raw, where="ingest")
    assert "\n" not in str(raised.value)
