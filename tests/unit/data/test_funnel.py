"""The funnel adds up for any generations, and what an answer does to a run depends on whether it counts."""

import itertools
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from drift.config.data import CurateConfig
from drift.data.selection.curation import curate
from drift.data.tables import read_rows
from drift.ground.artifacts import read_json
from drift.ground.errors import DataError
from tests.pool_rows import ingested, pool_row

GOLDS = ("1", "2", "red", "A", "3")
ANYTHING = st.text(st.characters(exclude_categories=()), max_size=12)  # lone surrogates too: JSON can hold them
TEXTS = st.one_of(
    ANYTHING,
    st.builds("<think>{}</think> \\boxed{{{}}}".format, st.just("why") | ANYTHING, st.sampled_from([*GOLDS, "", "9"])),
)
GENERATION = st.fixed_dictionaries(
    {"problem": st.integers(0, 4), "sample": st.integers(-1, 5), "text": TEXTS},
    optional={
        "finish_reason": st.sampled_from(["stop", "length", None]),
        "reasoning": st.none() | ANYTHING,
        "usage": st.none() | st.just({"completion_tokens": 7}),
    },
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "require_format": st.booleans(),
        "require_correct": st.booleans(),
        "max_pass_rate": st.sampled_from([0.0, 0.5, 1.0]),
        "trace": st.sampled_from(["median", "shortest", "longest", "random"]),
        "keep": st.sampled_from([1, 3, None]),
        "near_duplicates": st.booleans(),
    },
)


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [pool_row(number, answer=gold) for number, gold in enumerate(GOLDS)]
    return ingested(tmp_path_factory.mktemp("pool"), rows)


def write(folder: Path, problems: Path, rows: list[dict[str, Any]]) -> Path:
    """The generations of the numbered problems."""
    ids = [row["id"] for row in read_rows(problems / "problems.parquet", ["id"])]
    folder.mkdir()
    lines = [json.dumps({"id": ids[row["problem"]], **row}) + "\n" for row in rows]
    (folder / "part-00000-00000.jsonl").write_text("".join(lines))
    return folder


@limits(deadline=None, max_examples=60)
@given(
    rows=st.lists(GENERATION, max_size=12, unique_by=lambda row: (row["problem"], row["sample"])),
    settings=SETTINGS,
    data=st.data(),
)
def test_every_generation_has_one_fate_and_the_counts_add_up(problems: Path, rows, settings, data) -> None:
    folder = Path(tempfile.mkdtemp())
    config = CurateConfig(**settings)
    try:
        generations = write(folder / "generations", problems, rows)
        shuffled = write(folder / "shuffled", problems, data.draw(st.permutations(rows)))
        try:
            report = curate(config, problems, generations, folder / "out")
        except DataError as error:
            assert str(error).startswith("curate.min_kept: 0 chains left")
            return
        curate(config, problems, shuffled, folder / "again")
        files = [(folder / name / file).read_bytes() for name in ("out", "again") for file in FILES]
        assert files[:3] == files[3:]
        adds_up(folder / "out", len(rows), report.kept)
    finally:
        shutil.rmtree(folder)


FILES = ("train.parquet", "rejects.parquet", "funnel.json")


def adds_up(out: Path, generations: int, kept: int) -> None:
    stages = read_json(out / "funnel.json")
    assert stages[0]["in"] == generations and stages[-2]["out"] == kept
    for stage, following in itertools.pairwise(stages):
        assert stage["in"] - stage["out"] == sum(stage["reasons"].values()) and stage["out"] == following["in"]
    rejects = list(read_rows(out / "rejects.parquet"))
    assert Counter((row["stage"], row["reason"]) for row in rejects) == {
        (stage["stage"], reason): count for stage in stages for reason, count in stage["reasons"].items()
    }
    assert len(rejects) + sum(1 for _ in read_rows(out / "train.parquet")) == generations


def test_an_answer_that_another_filter_rejects_stops_no_run_though_nobody_can_verify_it(tmp_path: Path) -> None:
    pool = ingested(tmp_path, [pool_row(0, answer="x^2"), pool_row(1)])
    odd = r"\boxed{\sqrt{x^4}+9^{9^{9^9}}}"
    rows = [
        {"problem": 0, "sample": 0, "text": odd},  # no reasoning: the stage `format` has it
        {"problem": 1, "sample": 0, "text": r"<think>why</think>\boxed{2}"},
    ]
    config = CurateConfig(verify_timeout_seconds=0.5, max_undetermined=0)
    report = curate(config, pool, write(tmp_path / "generations", pool, rows), tmp_path / "out")
    assert (report.undetermined, report.kept) == (1, 1)
    rows[0]["text"] = f"<think>why</think>{odd}"
    with pytest.raises(DataError, match=r"curate\.max_undetermined: 1 of 2 answers .*gold 'x\^2', answer '.*sqrt"):
        curate(config, pool, write(tmp_path / "reasoned", pool, rows), tmp_path / "other")


@pytest.mark.parametrize("changes", [{"text": None}, {"sample": "0"}, {"id": 7}])
def test_a_line_whose_values_are_of_other_kinds_is_named(tmp_path: Path, problems: Path, changes) -> None:
    rows = [{"problem": 0, "sample": 0, "text": "a"}, {"problem": 1, "sample": 0, "text": "b", **changes}]
    generations = write(tmp_path / "generations", problems, rows)
    name = next(iter(changes))
    with pytest.raises(
        DataError, match=rf"part-00000-00000\.jsonl: line 2: {name} .* is no (str|int); correct the line"
    ):
        curate(CurateConfig(), problems, generations, tmp_path / "out")
