"""Our scores beside the paper's: which compare, and what is said of those that are far off."""

from dataclasses import replace
from pathlib import Path

import pytest

from drift.cli.show import show_scores
from drift.config.catalog import KNOWN, ROLES
from drift.config.evaluate import EvaluateConfig
from drift.config.published import COLUMNS, MADE_WITH, ROWS
from drift.config.section import validate
from drift.evaluate.evaluation import EvaluateReport, check_published
from drift.evaluate.scores import BenchmarkScore, Mean, Scores
from drift.evaluate.table import comparable, deviations, differences, write_table
from drift.ground.errors import ConfigError, DataError


def scores(percent: dict[str, float], **made: object) -> Scores:
    """Scores of published benchmarks with these headline columns, made as the published ones but for ``made``."""
    table: dict[str, BenchmarkScore] = {}
    for name, known in KNOWN.items():
        columns = {key: Mean(value, value - 1, value + 1) for key, value in percent.items() if key.startswith(name)}
        if columns:
            table[name] = BenchmarkScore(known.role, name, columns, 10, 0, 1, 2)
    described = {**MADE_WITH, "prompts": dict.fromkeys(table, MADE_WITH["prompts"]), **made}
    return Scores("vlm", described, "p", "d" * 64, "m", 0.95, table, Mean(40, 39, 41), None, "qwen2_5_vl_7b")


def test_the_papers_rows_are_in_the_catalogs_columns() -> None:
    assert COLUMNS[3:5] == ["WeMath-strict", "WeMath-loose"]
    assert ROWS["drift_vl_7b"].percent["WeMath-loose"] == 60.2
    assert ROWS["r1_onevision"].percent["LogicVista"] == 61.8
    assert "WeMath-strict" not in ROWS["r1_vl"].percent
    assert {name for row in ROWS.values() for name in row.percent} == set(COLUMNS)
    assert set(ROLES) == {known.role for known in KNOWN.values()}


def test_judged_whole_unambiguous_columns_compare_and_far_ones_are_named() -> None:
    measured = scores({"WeMath-strict": 34.0, "WeMath-loose": 49.0, "MMStar": 66.8, "HallusionBench": 10.0})
    assert comparable(measured) == {"WeMath-strict": 34.3, "WeMath-loose": 52.8, "MMStar": 64.7}
    assert deviations(measured) == [
        "WeMath-loose is 49.0, -3.8 from the published 52.8",
        "MMStar is 66.8, +2.1 from the published 64.7",
    ]


def test_a_far_column_is_a_warning_or_stops_the_run_where_that_is_asked_for() -> None:
    far = scores({"MMStar": 60.0})
    config = EvaluateConfig(data="x", benchmarks={"MMStar": {}}, published="qwen2_5_vl_7b")
    assert EvaluateReport(far, 1.0).warnings == ["MMStar is 60.0, -4.7 from the published 64.7"]
    check_published(far, config)
    stop = config.model_copy(update={"on_deviation": "stop"})
    with pytest.raises(DataError, match=r"evaluate\.published: MMStar is 60\.0.*on_deviation: warn"):
        check_published(far, stop)
    check_published(scores({"MMStar": 64.0}), stop)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"name": "rule"}, "name rule (published judge)"),
        ({"limit": 100}, "limit 100 (published None)"),
        ({"judge": "some-1B-judge"}, "judge some-1B-judge (published gpt-4o-mini)"),
        ({"image_max_pixels": 3136}, "image_max_pixels 3136 (published 12845056)"),
        ({"image_min_pixels": None}, "image_min_pixels None (published 1003520)"),
        ({"max_new_tokens": 1}, "max_new_tokens 1 (published 2048)"),
        ({"prompts": {"MMStar": "{question} In French."}}, "prompts {question} In French. (published {question})"),
        ({"instruction": "Box it."}, "instruction Box it. (published None)"),
        ({"decoding": {"seed": 1}}, "decoding {'seed': 1} (published greedy)"),
        ({"neutral": False}, "neutral False (published True)"),
    ],
)
def test_numbers_made_another_way_stand_beside_the_published_ones_do_not_compare_and_it_is_said_why(
    tmp_path: Path, made: dict[str, object], said: str
) -> None:
    measured = scores({"MMStar": 20.0}, **made)
    assert differences(measured) == [said]
    assert deviations(measured) == []
    write_table(tmp_path, measured)
    text = (tmp_path / "scores.md").read_text()
    assert "| MMStar | 20.0 | 19.0 to 21.0 | 10 | 0 | 1 | 2 | 64.7 | -44.7 |" in text
    assert f"**Not comparable**: made with another {said}." in text


def test_without_a_published_row_the_table_has_no_such_columns(tmp_path: Path) -> None:
    write_table(tmp_path, replace(scores({"MMStar": 20.0}), published=None))
    text = (tmp_path / "scores.md").read_text()
    assert "published" not in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {8}


def test_an_unknown_row_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.published: no row 'r1_vll'; did you mean 'r1_vl'"):
        validate(EvaluateConfig, {"data": "x", "benchmarks": {"MMStar": {}}, "published": "r1_vll"}, where="evaluate")


def test_a_table_of_a_judge_says_how_often_the_rule_agrees_and_which_questions_other_tables_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = {"agreement": 66.666, "failed": 0.0, "random": 0.0}
    mmstar = BenchmarkScore(
        "perception", "MMStar", {"MMStar": Mean(50, 40, 60)}, 40, 0, 1, 2, judge=judged, samples=4, overlaps={"Mine": 3}
    )
    made = scores({"MMStar": 1.0})
    write_table(tmp_path, replace(made, benchmarks={"MMStar": mmstar}, published=None))
    text = (tmp_path / "scores.md").read_text()
    assert "| MMStar | 50.0 | 40.0 to 60.0 | 10×4 | 0 | 1 | 2 | 66.7 |" in text
    assert "- MMStar: 3 of 10 questions are in Mine too" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    show_scores(EvaluateReport(replace(made, benchmarks={"MMStar": mmstar}, published=None), 1.0), tmp_path, False)
    shown = capsys.readouterr().out
    assert ["MMStar", "50.0", "(40–60)", "10×4", "0", "1", "2"] in [line.split() for line in shown.splitlines()]
    assert "MMStar: judge and rule agree on 66.7 % of the answers; the judge left 0 undecided" in shown
    assert "warning: MMStar: 3 of 10 questions are in Mine too" in shown
