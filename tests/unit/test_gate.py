"""The gate: what passes, and a refusal by each of its checks."""

import json
from pathlib import Path

import pytest

from drift.config import GateConfig
from drift.errors import DataError
from drift.evaluate.scores import read_scores
from drift.gate import GateReport, gate
from tests.score_folders import write_score_folder

# 50 questions each: 20 % of the sums and 90 % of the colours are right
BASELINE = {"Sums": "1" * 10 + "0" * 40, "Colours": "1" * 45 + "0" * 5}


def marks(right: int) -> str:
    return "1" * right + "0" * (50 - right)


def decide(
    tmp_path: Path, sums: str, colours: str, *, failed: int = 0, sft: int | None = None, **settings: object
) -> GateReport:
    baseline = write_score_folder(tmp_path / "vlm", BASELINE)
    arms = {"drift": write_score_folder(tmp_path / "drift", {"Sums": sums, "Colours": colours}, failed=failed)}
    if sft is not None:
        arms["sft"] = write_score_folder(tmp_path / "sft", {"Sums": marks(sft), "Colours": colours})
    return gate(GateConfig(candidate="drift", **settings), baseline=baseline, arms=arms, out=tmp_path / "gate")


def refused(report: GateReport) -> list[str]:
    return [check.name for check in report.checks if not check.passed]


def test_a_better_candidate_that_keeps_perception_passes_and_wins(tmp_path: Path) -> None:
    report = decide(tmp_path, marks(30), marks(44), sft=20, beats=("sft",), min_reasoning_gain=5)
    assert report.passed
    assert report.winner == "drift"
    values = {check.name: check.value for check in report.checks}
    assert values["reasoning_gain"] == pytest.approx(40)  # 60 − 20 %
    assert values["perception_loss"] == pytest.approx(2)  # 90 − 88 %, exactly what the default allows
    assert values["beats_sft"] == pytest.approx(20)  # 60 − 40 %
    assert report.metrics()["gate/passed"] == 1


def test_too_small_a_gain_is_refused(tmp_path: Path) -> None:
    report = decide(tmp_path, marks(30), marks(45), min_reasoning_gain=41)
    assert refused(report) == ["reasoning_gain"]
    assert report.winner == ""
    assert report.reasons == ["Reasoning rose by 40.0 points; at least 41.0 are asked for."]


def test_a_gain_that_may_be_chance_is_refused(tmp_path: Path) -> None:
    # two gained, one lost: 2 points, and zero is well inside the interval
    report = decide(tmp_path, "0" + "1" * 11 + "0" * 38, marks(45))
    assert refused(report) == ["reasoning_significant"]
    assert "not above 0 (McNemar p = 1)" in report.reasons[0]


def test_lost_perception_is_refused_and_its_interval_shown(tmp_path: Path) -> None:
    report = decide(tmp_path, marks(30), marks(42))
    assert refused(report) == ["perception_loss"]
    (check,) = [check for check in report.checks if check.name == "perception_loss"]
    assert check.value == pytest.approx(6)  # 90 − 84 %
    assert check.low is not None
    assert check.high is not None
    assert 0 <= check.low < 6 < check.high
    assert report.reasons == ["Perception fell by 6.0 points; a loss of at most 2.0 is allowed."]


def test_an_arm_that_should_be_beaten_and_is_level_refuses(tmp_path: Path) -> None:
    assert refused(decide(tmp_path, marks(30), marks(45), sft=30, beats=("sft",))) == ["beats_sft"]


def test_questions_that_only_the_candidate_failed_refuse(tmp_path: Path) -> None:
    assert refused(decide(tmp_path, marks(30), marks(45), failed=1)) == ["evaluated"]


def test_several_refusals_are_all_listed(tmp_path: Path) -> None:
    report = decide(tmp_path, marks(5), marks(20), sft=20, beats=("sft",))
    assert refused(report) == ["reasoning_gain", "reasoning_significant", "perception_loss", "beats_sft"]
    assert len(report.reasons) == 4


def test_the_decision_is_written_for_machines_and_people(tmp_path: Path) -> None:
    report = decide(tmp_path, marks(30), marks(42), sft=20)
    written = json.loads((tmp_path / "gate" / "gate.json").read_text())
    assert (written["passed"], written["candidate"], written["winner"]) == (False, "drift", "")
    assert written["model_sha256"] == read_scores(tmp_path / "drift").model_sha256
    assert [check["name"] for check in written["checks"]] == [check.name for check in report.checks]
    assert set(written["comparisons"]) == {"drift", "sft"}
    assert written["comparisons"]["sft"]["reasoning"]["points"] == pytest.approx(20)
    text = (tmp_path / "gate" / "gate.md").read_text()
    assert text.startswith("# Gate: drift refused")
    assert "| perception_loss | **refused** | 6.0 |" in text


def test_an_arm_without_scores_is_an_error_that_names_the_nearest(tmp_path: Path) -> None:
    baseline = write_score_folder(tmp_path / "vlm", BASELINE)
    with pytest.raises(DataError, match=r"gate: arm 'drift' has no scores; did you mean 'drift_base'\?"):
        gate(GateConfig(candidate="drift"), baseline=baseline, arms={"drift_base": baseline}, out=tmp_path / "gate")


def test_a_missing_role_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    baseline = write_score_folder(tmp_path / "vlm", {"Sums": "10"})
    with pytest.raises(DataError, match="no benchmark of role 'perception'"):
        gate(GateConfig(candidate="drift"), baseline=baseline, arms={"drift": baseline}, out=tmp_path / "gate")
    assert not (tmp_path / "gate").exists()
