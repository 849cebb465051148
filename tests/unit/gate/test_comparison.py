"""Two score folders in, a table out: `drift compare`."""

import json
from pathlib import Path

import numpy as np
import pytest

from drift.cli.app import main
from drift.gate.comparison import compare
from tests.score_folders import write_score_folder

STEPS = {"WeMath": ["2steps_1", "2steps_2", "2steps_multi"] * 2}
PROBLEMS = {"WeMath": "aaabbb"}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """WeMath: the baseline has problem b by rote (not all steps), the candidate has it whole. Colours: one lost."""
    more = {"groups": PROBLEMS, "parts": STEPS}
    ours = write_score_folder(tmp_path / "drift", {"WeMath": "111111", "Colours": "1011"}, **more)
    return ours, write_score_folder(tmp_path / "vlm", {"WeMath": "111101", "Colours": "1111"}, **more)


def test_both_columns_of_wemath_are_compared_problem_by_problem_and_count_in_the_mean(
    folders: tuple[Path, Path],
) -> None:
    # strict: b from 0 to 1, of two problems: 50 points. loose: 1 and 1 before and after: 0. Mean 25.
    comparison = compare(*folders)
    strict, loose = comparison.columns["WeMath-strict"], comparison.columns["WeMath-loose"]
    assert (strict.points, loose.points) == (50, 0)
    assert (strict.n, strict.gained, strict.lost) == (2, 1, 0)  # two problems; one of six questions gained
    assert comparison.reasoning is not None
    assert (comparison.reasoning.points, comparison.reasoning.n, comparison.reasoning.gained) == (25, 2, 1)


def test_the_columns_of_one_benchmark_vary_together(tmp_path: Path) -> None:
    # with steps all right, strict and loose are the same values: no mean of the two is surer than either
    parts, problems = {"WeMath": STEPS["WeMath"][:3] * 20}, {"WeMath": "".join(c * 3 for c in "abcdefghijklmnopqrst")}
    sides = ("111" * 12 + "110" * 8, "111" * 6 + "110" * 14)
    ours, theirs = (
        write_score_folder(tmp_path / name, {"WeMath": marks}, groups=problems, parts=parts)
        for name, marks in zip(("ours", "theirs"), sides, strict=True)
    )
    comparison = compare(ours, theirs)
    strict = comparison.columns["WeMath-strict"]
    assert np.allclose(comparison.covariance, strict.spread.variance)
    assert comparison.reasoning is not None
    assert comparison.reasoning.spread.variance == pytest.approx(strict.spread.variance)


def run(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code in (0, None)


def test_the_command_shows_a_row_per_column_and_role_and_writes_them(folders, tmp_path: Path, capsys) -> None:
    run(["compare", *map(str, folders), "--out", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    for name in ("WeMath-strict", "WeMath-loose", "Colours", "reasoning mean", "perception mean"):
        assert name in shown
        assert f"| {name} |" in (tmp_path / "out" / "comparison.md").read_text()
    assert "drift against vlm" in shown
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written["perception"]["points"] == -25


def test_as_json_the_confidence_asked_for_is_the_one_of_the_bounds(folders, capsys) -> None:
    wide, narrow = [], []
    for confidence, found in (("0.99", wide), ("0.8", narrow)):
        run(["compare", *map(str, folders), "--json", "--confidence", confidence])
        found.append(json.loads(capsys.readouterr().out))
    assert (wide[0]["confidence"], narrow[0]["confidence"]) == (0.99, 0.8)
    assert wide[0]["reasoning"]["detectable"] > narrow[0]["reasoning"]["detectable"]
    assert wide[0]["perception"]["low"] <= narrow[0]["perception"]["low"]


def test_folders_of_another_protocol_end_with_one_line_and_exit_code_2(folders, tmp_path: Path, capsys) -> None:
    other = write_score_folder(tmp_path / "other", {"Colours": "1111"}, protocol="two")
    with pytest.raises(SystemExit) as end:
        main(["compare", str(folders[0]), str(other)])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
