"""The gate: what passes, and a refusal by each of its checks."""

import json
from pathlib import Path

import numpy as np
import pytest

from drift.config.gate import GateConfig
from drift.evaluate.scores import read_scores
from drift.gate.decision import NO_CHAMPION, GateReport, decide
from drift.gate.operating import chance, paper_gains
from drift.gate.rules import against_baseline
from drift.gate.statistics import Pair, compare_pairs
from drift.ground.errors import ConfigError, DataError
from tests.score_folders import write_score_folder

# 100 questions each: 20 % of the sums and 90 % of the colours are right
SUMS, COLOURS = 20, 90


def marks(right: int) -> str:
    return "1" * right + "0" * (100 - right)


BASELINE = {"Sums": marks(SUMS), "Colours": marks(COLOURS)}


def decided(
    tmp_path: Path,
    sums: str,
    colours: str,
    *,
    failed: int = 0,
    sft: int | None = None,
    champion: int | None = None,
    **settings: object,
) -> GateReport:
    baseline = write_score_folder(tmp_path / "vlm", BASELINE)
    arms = {"drift": write_score_folder(tmp_path / "drift", {"Sums": sums, "Colours": colours}, failed=failed)}
    if sft is not None:
        arms["sft"] = write_score_folder(tmp_path / "sft", {"Sums": marks(sft), "Colours": colours})
    before = (
        write_score_folder(tmp_path / "champion", {"Sums": marks(champion), "Colours": colours}) if champion else None
    )
    config = GateConfig(candidate="drift", **{"max_perception_loss": 8.0, **settings})
    return decide(config, baseline=baseline, arms=arms, champion=before, out=tmp_path / "gate")


def refused(report: GateReport) -> list[str]:
    return [check.name for check in report.checks if not check.passed]


def test_a_better_candidate_that_keeps_perception_passes_and_wins(tmp_path: Path) -> None:
    report = decided(tmp_path, marks(60), marks(88), sft=40, beats=("sft",), min_reasoning_gain=5)
    assert report.passed
    assert report.winner == "drift"
    values = {check.name: check.value for check in report.checks}
    assert values["reasoning_gain"] == pytest.approx(40)  # 60 − 20 %
    assert values["perception_loss"] == pytest.approx(2)  # 90 − 88 %
    assert values["beats_sft"] == pytest.approx(20)  # 60 − 40 %
    assert report.metrics()["gate/passed"] == 1


def test_too_small_a_gain_is_refused(tmp_path: Path) -> None:
    # 40 points with SE √(0.4·0.6/100) = 4.9: the lower bound is 40 − 1.645·4.9 = 32
    report = decided(tmp_path, marks(60), marks(90), min_reasoning_gain=35)
    assert refused(report) == ["reasoning_gain"]
    assert report.winner == ""
    assert report.reasons[0].startswith("Reasoning rose by 40.0 points; with 95% confidence by at least +32.")
    assert report.reasons[0].endswith("not above the 35.0 asked for.")


def test_a_gain_that_may_be_chance_is_refused(tmp_path: Path) -> None:
    # two gained, one lost: 1 point, and zero is well inside the interval
    report = decided(tmp_path, "0" + "1" * 21 + "0" * 78, marks(90))
    assert refused(report) == ["reasoning_gain"]


def test_lost_perception_is_refused_and_its_interval_shown(tmp_path: Path) -> None:
    report = decided(tmp_path, marks(60), marks(84))
    assert refused(report) == ["perception_loss", "perception_each"]
    (check,) = [check for check in report.checks if check.name == "perception_loss"]
    assert check.value == pytest.approx(6)  # 90 − 84 %: within 8, but not for certain
    assert check.low is not None and check.high is not None
    assert 0 <= check.low < 6 < check.high
    assert "Colours fell significantly (nearest Colours: -6.0 points, Holm-adjusted p = 0.0" in report.reasons[1]


def test_a_loss_on_one_perception_benchmark_is_found_although_the_mean_is_kept(tmp_path: Path) -> None:
    before = {"Sums": marks(20), "Colours": marks(90), "Words": marks(50)}
    after = {"Sums": marks(60), "Colours": marks(80), "Words": marks(61)}
    folders = {name: write_score_folder(tmp_path / name, one) for name, one in (("vlm", before), ("drift", after))}
    config = GateConfig(candidate="drift", max_perception_loss=8.0)
    report = decide(config, baseline=folders["vlm"], arms={"drift": folders["drift"]}, out=tmp_path / "gate")
    assert refused(report) == ["perception_each"]


def test_an_arm_that_should_be_beaten_and_is_level_refuses(tmp_path: Path) -> None:
    assert refused(decided(tmp_path, marks(60), marks(90), sft=60, beats=("sft",))) == ["beats_sft"]


def test_too_many_questions_that_could_not_be_asked_refuse(tmp_path: Path) -> None:
    report = decided(tmp_path, marks(60), marks(90), failed=3)  # 3 of 200 are 1.5 %
    assert refused(report) == ["failed"]
    assert report.reasons == ["3 of 200 questions could not be asked (1.5%); at most 1.0% are allowed."]


def test_several_refusals_are_all_listed(tmp_path: Path) -> None:
    report = decided(tmp_path, marks(10), marks(40), sft=40, beats=("sft",))
    assert refused(report) == ["reasoning_gain", "perception_loss", "perception_each", "beats_sft"]
    assert len(report.reasons) == 4


@pytest.mark.parametrize(("champion", "stopped"), [(58, []), (75, ["champion_reasoning_loss"])])
def test_a_candidate_may_not_be_worse_than_the_champion(tmp_path: Path, champion: int, stopped: list[str]) -> None:
    report = decided(tmp_path, marks(60), marks(90), champion=champion)
    assert refused(report) == stopped
    names = [check.name for check in report.checks]
    assert names[-3:] == ["champion_reasoning_loss", "champion_perception_loss", "champion_perception_each"]
    assert NO_CHAMPION not in (tmp_path / "gate" / "gate.md").read_text()


def test_the_champion_itself_as_the_candidate_passes(tmp_path: Path) -> None:
    report = decided(tmp_path, marks(60), marks(90), champion=60)
    assert report.passed
    assert report.champion is not None and report.champion.reasoning is not None
    assert report.champion.reasoning.points == 0


def test_without_a_champion_its_rule_is_left_out_and_said_to_be(tmp_path: Path) -> None:
    report = decided(tmp_path, marks(60), marks(90))
    assert not [check for check in report.checks if check.name.startswith("champion")]
    assert NO_CHAMPION in (tmp_path / "gate" / "gate.md").read_text()
    assert json.loads((tmp_path / "gate" / "gate.json").read_text())["champion"] is None


def test_a_margin_below_the_detectable_effect_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    # one lost of 100: SE = √(0.01·0.99/100) = 1 point, detectable 2.5
    with pytest.raises(
        ConfigError, match=r"gate\.max_perception_loss: 2 points is below .* effect .*, 2\.[45]\d points"
    ):
        decided(tmp_path, marks(60), marks(89), max_perception_loss=2.0)
    assert not (tmp_path / "gate").exists()


def test_perception_that_fell_by_more_than_the_margin_for_certain_is_refused(tmp_path: Path) -> None:
    report = decided(tmp_path, marks(60), marks(50), max_perception_loss=2.0)
    assert "perception_loss" in refused(report)


@pytest.mark.parametrize("change", [{"protocol": "two"}, {"data": "two"}])
def test_a_champion_measured_otherwise_is_an_error_that_names_both(tmp_path: Path, change: dict[str, str]) -> None:
    baseline = write_score_folder(tmp_path / "vlm", BASELINE)
    champion = write_score_folder(tmp_path / "champion", BASELINE, **change)
    config = GateConfig(candidate="drift")
    with pytest.raises(DataError, match=r"vlm and .*champion: measured with different"):
        decide(config, baseline=baseline, arms={"drift": baseline}, champion=champion, out=tmp_path / "gate")


def test_a_champion_without_scores_is_named(tmp_path: Path) -> None:
    baseline = write_score_folder(tmp_path / "vlm", BASELINE)
    config = GateConfig(candidate="drift")
    with pytest.raises(DataError, match=r"none/scores\.json: missing"):
        decide(config, baseline=baseline, arms={"drift": baseline}, champion=tmp_path / "none", out=tmp_path / "gate")


def test_the_decision_is_written_for_machines_and_people(tmp_path: Path) -> None:
    report = decided(tmp_path, marks(60), marks(84), sft=40)
    written = json.loads((tmp_path / "gate" / "gate.json").read_text())
    assert (written["passed"], written["candidate"], written["winner"]) == (False, "drift", "")
    assert written["model_sha256"] == read_scores(tmp_path / "drift").model_sha256
    assert [check["name"] for check in written["checks"]] == [check.name for check in report.checks]
    assert set(written["comparisons"]) == {"drift", "sft"}
    assert written["comparisons"]["sft"]["reasoning"]["points"] == pytest.approx(20)
    assert written["operating"]["equal"] == report.operating.equal
    text = (tmp_path / "gate" / "gate.md").read_text()
    assert text.startswith("# Gate: drift refused")
    assert "| perception_loss | **refused** | 6.0 |" in text
    assert "| passes a model equal to vlm |" in text


def test_an_arm_without_scores_is_an_error_that_names_the_nearest(tmp_path: Path) -> None:
    baseline = write_score_folder(tmp_path / "vlm", BASELINE)
    with pytest.raises(DataError, match=r"gate: arm 'drift' has no scores; did you mean 'drift_base'\?"):
        decide(GateConfig(candidate="drift"), baseline=baseline, arms={"drift_base": baseline}, out=tmp_path / "gate")


def test_a_missing_role_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    baseline = write_score_folder(tmp_path / "vlm", {"Sums": "10"})
    with pytest.raises(DataError, match="no benchmark of role 'perception'"):
        decide(GateConfig(candidate="drift"), baseline=baseline, arms={"drift": baseline}, out=tmp_path / "gate")
    assert not (tmp_path / "gate").exists()


# ------------------------------------------------------------------------------ operating characteristics


def pairs(rows: int) -> dict[str, Pair]:
    """Two benchmarks on which two equal models differ in 20 of 100 questions."""
    d = np.resize([1.0, -1, 0, 0, 0, 0, 0, 0, 0, 0], rows)
    one = {"reasoning": "Sums", "perception": "Colours"}
    return {name: Pair(role, {name: d}, np.arange(rows), rows // 10, rows // 10) for role, name in one.items()}


def test_an_equal_model_passes_reasoning_in_one_of_twenty_and_perception_by_the_power_of_its_margin() -> None:
    # SE = √(0.2/4000) = 0.707 points. A margin of 2.486 SE is passed in 80 %; Holm over one column stops 5 % of them,
    # all of which the margin lets pass only if d > −0.84 SE: none. 0.05 · 0.8 = 0.04.
    comparison = compare_pairs(pairs(4000), resamples=4000)
    assert comparison.perception is not None
    config = GateConfig(candidate="drift", max_perception_loss=comparison.perception.detectable)
    assert chance(config, comparison, {}) == pytest.approx(0.04, abs=0.006)
    assert all(check.name for check in against_baseline(config, comparison))


def test_the_papers_gains_are_looked_up_by_column_and_others_take_the_mean_of_their_role() -> None:
    # (2.0 + 1.6 + 2.5 + 4.2 + 7.4 + 0.5)/6 = 3.033 and (0.53 + 0.90 + 4.40)/3 = 1.943
    assert paper_gains(compare_pairs(pairs(20))) == pytest.approx({"Sums": 3.033, "Colours": 1.943}, abs=1e-3)
    named = {"MMStar": pairs(20)["Colours"]}
    assert paper_gains(compare_pairs({"MMStar": Pair("perception", {"MMStar": named["MMStar"].differences["Colours"]},
                                                      named["MMStar"].clusters, 2, 2)})) == {
                                                      "MMStar": pytest.approx(0.9)}  # fmt: skip
