"""The table of an ablation from score folders: means over seeds, paired differences, Holm, what is missing."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from drift.config.published import MADE_WITH
from drift.gate.comparison import compare
from drift.ground.errors import DataError
from drift.planning.ablation.expansion import expand
from drift.planning.ablation.plots import write_plots
from drift.planning.ablation.results import Found, paired
from drift.planning.ablation.schema import PublishedConfig
from drift.planning.ablation.table import Measure, beside_published, tabulate
from drift.planning.ablation.writing import csv as as_csv
from drift.planning.ablation.writing import latex, markdown, missing, write_tables
from tests.score_folders import write_score_folder

MINIATURE = Path("configs/miniature.yaml").resolve()
MINI = ("MiniMath2", "MiniMath3", "MiniDigit", "MiniRead")
BENCHMARKS = {"Sums": {"role": "reasoning"}, "Colours": {"role": "perception"}}


@pytest.fixture
def ablation(tmp_path):
    """Two seeds of `sft`, and of two scales by two strengths."""
    raw = {
        "name": "scan",
        "base": str(MINIATURE),
        "arms": ["sft"],
        "changes": {
            "evaluate": {"benchmarks": {**dict.fromkeys(MINI), **BENCHMARKS}}
        },
        "grid": [
            {
                "name": "{scale}_{alpha}",
                "axes": {"scale": ["grad_norm", "adaptive"], "alpha": {"half": -0.5, "one": -1.0}},
                "arm": {"train.prior.scale": "{scale}", "train.prior.alpha": "{alpha}", "delta": "base"},
            }
        ],
        "seeds": [0, 1],
        "table": {
            "title": "A scan",
            "against": "sft",
            "published": {"source": "Table 9", "columns": ["Sums"], "rows": {"sft": [50.0]}},
        },
    }  # fmt: skip
    (tmp_path / "scan.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return expand(tmp_path / "scan.yaml")


def scores(folder, cell, row, sums, colours="1111", **more):
    return Found(write_score_folder(folder / cell / row, {"Sums": sums, "Colours": colours}, **more))


@pytest.fixture
def found(tmp_path):
    """`sft` at 25 and 50 % of four sums; `adaptive_one` at 75 and 100 %; one of the others in one seed, one failed."""
    return {
        ("seed0", "sft"): scores(tmp_path, "seed0", "sft", "1000"),
        ("seed1", "sft"): scores(tmp_path, "seed1", "sft", "1100"),
        ("seed0", "adaptive_one"): scores(tmp_path, "seed0", "adaptive_one", "1110", "1110"),
        ("seed1", "adaptive_one"): scores(tmp_path, "seed1", "adaptive_one", "1111"),
        ("seed1", "adaptive_half"): scores(tmp_path, "seed1", "adaptive_half", "0110"),
        ("seed0", "grad_norm_one"): Found(None, "arm: TrainingError: loss is NaN at step 3"),
    }


def test_a_row_is_the_mean_over_seeds_with_its_deviation(ablation, found):
    rows = {row.name: row for row in tabulate(ablation, found).rows}
    sft = rows["sft"].columns["Sums"]
    assert (sft.mean, sft.seeds) == (37.5, 2)
    assert sft.deviation == pytest.approx(12.5 * 2**0.5)  # of 25 and 50: each is 12.5 away, over n − 1 = 1
    assert rows["adaptive_half"].columns["Sums"].deviation is None


def test_what_seeds_share_has_no_deviation(ablation, found, tmp_path):
    shared = scores(tmp_path, "any", "vlm", "1000")
    rows = tabulate(ablation, found | {("seed0", "vlm"): shared, ("seed1", "vlm"): shared}).rows
    assert (rows[0].name, rows[0].columns["Sums"].seeds, rows[0].columns["Sums"].deviation) == ("vlm", 2, None)


def test_the_difference_is_that_of_every_question_paired_within_its_seed(ablation, found):
    rows = {row.name: row for row in tabulate(ablation, found).rows}
    reasoning = rows["adaptive_one"].effects["reasoning"]
    assert reasoning.points == 50.0  # 75 − 25 and 100 − 50
    assert reasoning.deviation == 0.0 and reasoning.seeds == 2
    assert rows["adaptive_one"].effects["perception"].points == -12.5  # one of four colours in one of two seeds
    assert rows["adaptive_half"].effects["reasoning"].points == 0.0  # 50 − 50, of seed 1 alone
    assert rows["sft"].effects == {}, "nothing differs from itself"


def test_one_seed_is_compared_as_the_gate_compares(found):
    ours, theirs = found["seed0", "adaptive_one"].folder, found["seed0", "sft"].folder
    pooled, gate = paired([ours], [theirs], (), 0.95), compare(ours, theirs)
    assert pooled.reasoning == gate.reasoning and pooled.perception == gate.perception


def test_another_seed_of_the_same_answers_tells_nothing_new_about_the_questions(found):
    ours, theirs = found["seed0", "adaptive_one"].folder, found["seed0", "sft"].folder
    once, twice = paired([ours], [theirs], (), 0.95), paired([ours, ours], [theirs, theirs], (), 0.95)
    assert (twice.reasoning.low, twice.reasoning.high) == (once.reasoning.low, once.reasoning.high)


def test_only_the_columns_asked_for_count(tmp_path):
    right = {"Sums": "1111", "Angles": "0000", "Colours": "11"}
    ours = write_score_folder(tmp_path / "ours", right)
    theirs = write_score_folder(tmp_path / "theirs", right | {"Sums": "0000"})
    assert paired([ours], [theirs], (), 0.95).reasoning.points == 50
    assert paired([ours], [theirs], ("Sums",), 0.95).reasoning.points == 100
    assert paired([ours], [theirs], ("Sums",), 0.95).perception is None


def test_seeds_that_were_asked_other_questions_are_not_pooled(tmp_path):
    ours = [write_score_folder(tmp_path / f"ours{n}", {"Sums": "1" * n}) for n in (3, 4)]
    theirs = [write_score_folder(tmp_path / f"theirs{n}", {"Sums": "0" * n}) for n in (3, 4)]
    with pytest.raises(DataError, match="Sums: not every cell asked the same questions"):
        paired(ours, theirs, (), 0.95)


@pytest.mark.parametrize(("right", "wrong"), [("1" * 40, "1" * 20 + "0" * 20), ("0" * 6 + "1" * 34, "1" * 40)])
def test_the_p_is_the_level_at_which_the_interval_touches_nothing(tmp_path, right, wrong):
    ours, theirs = (
        write_score_folder(tmp_path / "a", {"Sums": right}),
        write_score_folder(tmp_path / "b", {"Sums": wrong}),
    )
    p = compare(ours, theirs).reasoning.clustered_p
    at = compare(ours, theirs, confidence=1 - p).reasoning
    assert 0 < p < 0.05
    assert min(abs(at.low), abs(at.high)) == pytest.approx(0, abs=1e-6)


def test_no_difference_has_a_p_of_one(tmp_path):
    same = [write_score_folder(tmp_path / name, {"Sums": "1100"}) for name in ("a", "b")]
    assert compare(*same).reasoning.clustered_p == 1


def test_holm_is_over_the_rows_of_a_role(ablation, found):
    rows = tabulate(ablation, found).rows
    p, holm = zip(*((one.p, one.holm) for row in rows if (one := row.effects.get("reasoning"))), strict=True)
    assert len(p) == 2 and max(p) == 1
    assert min(holm) == pytest.approx(min(1, 2 * min(p)))  # the least of two is doubled


def test_what_is_missing_is_a_dash_and_says_why(ablation, found):
    table = tabulate(ablation, found)
    said = missing(table)
    assert "seed0, grad_norm_one: arm: TrainingError: loss is NaN at step 3" in said
    assert "seed1, vlm, grad_norm_half, grad_norm_one: not made yet" in said
    text = markdown(table)
    assert "| grad_norm_one | — | — | — | — | — | — | — | — |" in text
    assert "| adaptive_half | 50.0 (1/2) |" in text
    assert "| sft | 37.5 ± 17.7 |" in text


def test_a_table_can_be_written_before_anything_has_run(ablation, tmp_path):
    table = tabulate(ablation, {})
    assert all(path.read_text() for path in write_tables(tmp_path / "out", table))
    assert write_plots(tmp_path / "out", ablation, table) == []


def test_a_published_number_says_why_it_cannot_be_compared(ablation, found):
    (beside,) = next(row for row in tabulate(ablation, found).rows if row.name == "sft").published
    assert (beside.ours, beside.published) == (37.5, 50.0)
    assert beside.verdict == "not comparable: Sums is not the published benchmark"
    assert "**Not comparable: Sums is not the published benchmark.**" in markdown(tabulate(ablation, found))


def test_the_csv_has_a_line_for_each_row_and_column_and_numbers_in_full(ablation, found):
    lines = list(csv.DictReader(io.StringIO(as_csv(tabulate(ablation, found)))))
    assert len(lines) == 6 * (2 + 2), "vlm, sft and four arms; two columns and two roles"
    line = next(one for one in lines if (one["method"], one["column"]) == ("adaptive_one", "reasoning"))
    assert (float(line["mean"]), float(line["difference"]), line["seeds"], line["of"]) == (87.5, 50.0, "2", "2")


def test_the_latex_is_a_tabular_without_raw_underscores(ablation, found):
    text = latex(tabulate(ablation, found))
    assert r"\begin{tabular}{lrrrrrrrr}" in text and r"\toprule" in text and r"adaptive\_one" in text
    assert r"37.5 $\pm$ 17.7" in text
    body = text[text.index(r"\toprule") :]
    assert not [line for line in body.splitlines() if "_" in line.replace(r"\_", "")]


def test_the_plots_are_pictures_with_something_on_them(ablation, found, tmp_path):
    paths = write_plots(tmp_path, ablation, tabulate(ablation, found))
    heatmaps = [f"heatmap-scale-alpha-{role}.png" for role in ("reasoning", "perception")]
    assert [path.name for path in paths] == ["forest.png", "scatter.png", *heatmaps]
    for path in paths:
        assert np.asarray(Image.open(path).convert("L")).std() > 5


STEPS = ("2steps_1", "2steps_2", "2steps_multi")
PROTOCOL = {**MADE_WITH, "prompts": {"WeMath": "{question}"}}


@pytest.mark.parametrize(
    ("number", "protocol", "verdict"),
    [
        (98.5, PROTOCOL, "reproduced"),
        (103.0, PROTOCOL, "-3.0 points away"),
        (98.5, {**PROTOCOL, "limit": 5}, "not comparable: made with another limit 5 (published None)"),
    ],
)
def test_only_a_number_that_was_made_as_the_papers_is_held_against_it(tmp_path, number, protocol, verdict):
    folder = write_score_folder(tmp_path / "vlm", {"WeMath": "111"}, groups={"WeMath": "aaa"}, parts={"WeMath": STEPS})
    content = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps(content | {"protocol": protocol}))
    found = Found(folder)
    (column, *_) = found.scores.columns()
    published = PublishedConfig(source="Table 9", columns=(column,), rows={"vlm": (number,)})
    (beside,) = beside_published(published, "vlm", {column: Measure(100.0, None, 1)}, [found.scores])
    assert beside.verdict == verdict
