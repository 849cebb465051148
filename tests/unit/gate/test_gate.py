"""The gate: what passes, and a refusal by each of its checks."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from drift.config.gate import GateConfig
from drift.evaluate.samples import Sample, read_examples, read_samples, write_samples
from drift.evaluate.scores import read_scores
from drift.gate.champion import ChampionScores
from drift.gate.decision import decide
from drift.gate.outcome import GateReport
from drift.gate.sheet import NO_CHAMPION
from drift.ground.errors import DataError
from drift.tracking.models.ledger import FileLedger, Ledger
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
    best: int | None = None,
    ledger: Ledger | None = None,
    **settings: object,
) -> GateReport:
    baseline = write_score_folder(tmp_path / "vlm", BASELINE)
    arms = {"drift": write_score_folder(tmp_path / "drift", {"Sums": sums, "Colours": colours}, failed=failed)}
    if sft is not None:
        arms["sft"] = write_score_folder(tmp_path / "sft", {"Sums": marks(sft), "Colours": colours})
    before = {
        name: write_score_folder(tmp_path / name, {"Sums": marks(sums), "Colours": colours})
        for name, sums in (("champion", champion), ("best", best))
        if sums
    }
    config = GateConfig(candidate="drift", **{"max_perception_loss": 8.0, "max_reasoning_loss": 8.0, **settings})
    champions = ChampionScores(before.get("champion"), before.get("best"))
    return decide(config, baseline=baseline, arms=arms, champions=champions, out=tmp_path / "gate", ledger=ledger)


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
    # in points: V = 0.4·0.6/99 = 4.92², q = 1; h(0.05) = √(1.645²·4.92² + 2.996²) = 8.63, SE = 8.63/1.645 = 5.25,
    # detectable 2.486·5.25 = 13.05. The skewness of gains would move the lower bound up, which is not taken: 40 − 8.6
    report = decided(tmp_path, marks(60), marks(90), min_reasoning_gain=32, looks=1)
    assert refused(report) == ["reasoning_gain"]
    assert report.winner == ""
    assert report.reasons[0] == (
        "Reasoning rose by 40.0 points; with 95% confidence by at least +31.4, not above the 32.0 asked for: the least "
        "that shows here is 13.1 more."
    )


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
    assert report.reasons == ["Could not be asked: drift 1.5%, vlm 0.0%; at most 1.0% are allowed."]


def test_several_refusals_are_all_listed(tmp_path: Path) -> None:
    report = decided(tmp_path, marks(10), marks(40), sft=40, beats=("sft",))
    assert refused(report) == ["reasoning_gain", "perception_loss", "perception_each", "beats_sft"]
    assert len(report.reasons) == 4


def rewritten(folder: Path, change: Callable[[int, Sample], Sample]) -> Path:
    """The folder with each sample changed, by its place."""
    changed = [change(place, sample) for place, sample in enumerate(read_samples(folder))]
    write_samples(folder, changed, read_examples(folder))
    return folder


def gate_of(tmp_path: Path, baseline: Path, candidate: Path, **settings: object) -> GateReport:
    config = GateConfig(candidate="drift", **{"max_perception_loss": 8.0, **settings})
    return decide(config, baseline=baseline, arms={"drift": candidate}, out=tmp_path / "gate")


def test_a_baseline_whose_replies_were_cut_is_no_gain(tmp_path: Path) -> None:
    def cut(place: int, sample: Sample) -> Sample:
        return replace(sample, finish_reason="length", status="unparsed", correct=False) if place % 3 == 0 else sample

    baseline = rewritten(write_score_folder(tmp_path / "vlm", {"Sums": marks(60), "Colours": marks(90)}), cut)
    candidate = write_score_folder(tmp_path / "drift", {"Sums": marks(60), "Colours": marks(90)})
    report = gate_of(tmp_path, baseline, candidate)
    assert refused(report) == ["truncated", "unreadable", "reasoning_form"]
    assert report.reasons[0] == "Cut at max_new_tokens: drift 0.0%, vlm 33.5%; at most 10.0% are allowed."


def unread(right_only: bool) -> Callable[[int, Sample], Sample]:
    """A model that writes every second answer of `Sums` in a form that nobody reads."""

    def change(place: int, sample: Sample) -> Sample:
        hit = sample.benchmark == "Sums" and place % 2 == 0 and (sample.correct or not right_only)
        return replace(sample, status="unparsed", answer=None, correct=False) if hit else sample

    return change


def test_the_same_knowledge_in_a_form_that_is_read_is_refused_as_a_gain(tmp_path: Path) -> None:
    right = {"Sums": marks(80), "Colours": marks(90)}
    baseline = rewritten(write_score_folder(tmp_path / "vlm", right), unread(right_only=False))
    report = gate_of(tmp_path, baseline, write_score_folder(tmp_path / "drift", right), max_unreadable=0.5)
    assert refused(report) == ["reasoning_form"]
    (check,) = [check for check in report.checks if check.name == "reasoning_gain"]
    assert check.value == 40
    assert report.reasons == [
        "Reasoning answers were read in 100.0% of drift's replies and 50.0% of vlm's; over the 50 that were read of "
        "both, reasoning rose by 0.0 points, with 95% confidence over 60 looks by at least -14.2, not above the 0.0 "
        "asked for: a gain of form."
    ]
    assert "| vlm, reasoning | 50 | 50 |" in (tmp_path / "gate" / "gate.md").read_text()


def test_a_gain_that_holds_over_what_both_wrote_readably_passes_although_the_forms_differ(tmp_path: Path) -> None:
    baseline = rewritten(write_score_folder(tmp_path / "vlm", BASELINE), unread(right_only=False))
    candidate = write_score_folder(tmp_path / "drift", {"Sums": marks(80), "Colours": marks(90)})
    report = gate_of(tmp_path, baseline, candidate, max_unreadable=0.5)
    assert report.passed
    (check,) = [check for check in report.checks if check.name == "reasoning_form"]
    assert check.value == 60  # of the 50 read of both, 40 right and 10
    assert check.detail.endswith("above the 0.0 asked for: no gain of form.")


def test_a_perception_that_only_reads_better_is_no_perception_kept(tmp_path: Path) -> None:
    def unread_colours(place: int, sample: Sample) -> Sample:
        hit = sample.benchmark == "Colours" and place % 5 == 0
        return replace(sample, status="unparsed", answer=None, correct=False) if hit else sample

    right = {"Sums": marks(20), "Colours": "1" * 200}
    baseline = rewritten(write_score_folder(tmp_path / "vlm", right), unread_colours)
    lost = {"Sums": marks(60), "Colours": ("11111" * 6 + "11110" * 4) * 4}  # 16 of 160 that were read, and 40 gained
    report = gate_of(tmp_path, baseline, write_score_folder(tmp_path / "drift", lost), max_unreadable=0.5)
    assert refused(report) == ["perception_form"]


def test_one_question_of_each_role_is_refused_with_what_would_be_enough(tmp_path: Path) -> None:
    folders = [
        write_score_folder(tmp_path / name, {"Sums": m, "Colours": m}) for name, m in (("vlm", "0"), ("drift", "1"))
    ]
    report = gate_of(tmp_path, *folders)
    assert refused(report) == ["clusters", "reasoning_gain", "perception_loss"]
    assert report.reasons[0] == (
        "Reasoning rests on 1 and perception on 1 independent groups of questions; at least 30 each are asked for: "
        "29 more of reasoning would be enough and 29 more of perception would be enough."
    )


def test_many_questions_on_one_image_are_one_group(tmp_path: Path) -> None:
    group = {"groups": {"Sums": "a" * 100}}
    baseline = write_score_folder(tmp_path / "vlm", BASELINE, **group)
    candidate = write_score_folder(tmp_path / "drift", {"Sums": marks(60), "Colours": marks(90)}, **group)
    assert refused(gate_of(tmp_path, baseline, candidate)) == ["clusters", "reasoning_gain"]


@pytest.mark.parametrize("n", [20, 30, 50])
def test_a_loss_of_5_points_of_perception_never_passes_a_margin_of_2_on_few_questions(tmp_path: Path, n: int) -> None:
    # however it turns out, here as well as it can: none of n lost
    sums = {"Sums": marks(20)}, {"Sums": marks(60)}
    folders = [
        write_score_folder(tmp_path / name, one | {"Colours": "1" * n})
        for name, one in zip(("vlm", "drift"), sums, strict=True)
    ]
    report = gate_of(tmp_path, *folders, max_perception_loss=2.0, min_clusters=1)
    assert refused(report) == ["perception_loss"]
    assert "questions instead of" in report.reasons[0]


# --------------------------------------------------------------------------------------------- champions


@pytest.mark.parametrize(("champion", "stopped"), [(58, []), (75, ["champion_reasoning_loss"])])
def test_a_candidate_may_not_be_worse_than_the_champion(tmp_path: Path, champion: int, stopped: list[str]) -> None:
    report = decided(tmp_path, marks(60), marks(90), champion=champion)
    assert refused(report) == stopped
    names = [check.name for check in report.checks]
    assert names[-3:] == ["champion_reasoning_loss", "champion_perception_loss", "champion_perception_each"]
    assert NO_CHAMPION not in (tmp_path / "gate" / "gate.md").read_text()


def test_the_champion_itself_as_the_candidate_passes_and_keeps_its_place(tmp_path: Path) -> None:
    baseline = write_score_folder(tmp_path / "vlm", BASELINE)
    itself = write_score_folder(tmp_path / "drift", {"Sums": marks(60), "Colours": marks(90)})
    report = decide(
        GateConfig(candidate="drift", max_perception_loss=8.0),
        baseline=baseline,
        arms={"drift": itself},
        champions=ChampionScores(itself),
        out=tmp_path / "gate",
    )
    assert report.passed
    assert (report.succession.promotes, report.succession.alias) == (False, "drift is the reigning champion itself.")
    assert report.champion_sha256 == report.model_sha256


@pytest.mark.parametrize(
    ("champion", "rule", "promotes", "alias"),
    [
        (60, "better", False, "drift's reasoning is +0.0 points from the reigning champion's and must be above to"),
        (61, "better", False, "drift's reasoning is -1.0 points from the reigning champion's and must be above to"),
        (59, "better", True, "drift's reasoning is +1.0 points from the reigning champion's; it becomes champion"),
        (
            61,
            "not_worse",
            True,
            "drift's reasoning is -1.0 points from the reigning champion's, over 60 looks at most 12.",
        ),
        (
            64,
            "not_worse",
            False,
            "drift's reasoning is -4.0 points from the reigning champion's, over 60 looks at most 16.",
        ),
        (None, "better", True, "There is no champion yet; drift becomes it."),
    ],
)
def test_a_tie_is_no_reason_to_replace_a_champion(
    tmp_path: Path, champion: int | None, rule: str, promotes: bool, alias: str
) -> None:
    settings = {"champion": rule}
    baseline = write_score_folder(tmp_path / "vlm", BASELINE)
    arms = {"drift": write_score_folder(tmp_path / "drift", {"Sums": marks(60), "Colours": marks(90)})}
    reigning = champion and write_score_folder(tmp_path / "champion", {"Sums": marks(champion), "Colours": marks(90)})
    config = GateConfig(candidate="drift", max_perception_loss=8.0, max_reasoning_loss=14.0, **settings)
    champions = ChampionScores(reigning or None)
    report = decide(config, baseline=baseline, arms=arms, champions=champions, out=tmp_path / "gate")
    assert report.passed, "it is registered as candidate either way"
    assert report.succession.promotes is promotes
    assert report.succession.alias.startswith(alias)
    assert report.succession.best_ever is (promotes and champion in (59, None))
    assert f"Alias champion: {alias}" in (tmp_path / "gate" / "gate.md").read_text()


def test_steps_cannot_add_up_below_the_best_champion_ever(tmp_path: Path) -> None:
    # 2 points below the reigning champion is within 8, 12 below the best one is not
    report = decided(tmp_path, marks(60), marks(90), champion=62, best=72)
    assert refused(report) == ["best_champion_reasoning_loss"]
    assert report.reasons[0].startswith("Reasoning fell by 12.0 points against the best champion;")


def test_a_model_above_the_reigning_champion_but_not_the_best_takes_the_alias_and_not_the_title(tmp_path: Path) -> None:
    report = decided(tmp_path, marks(62), marks(90), champion=60, best=63)
    assert (report.passed, report.succession.promotes, report.succession.best_ever) == (True, True, False)


# --------------------------------------------------------------------------------------------- looks


def test_looks_are_counted_once_each_and_refused_when_the_chance_is_spent(tmp_path: Path) -> None:
    ledger = FileLedger(tmp_path / "looks.jsonl", "drift-vlm")
    for number, sums in enumerate((60, 61, 60, 62), 1):
        report = decided(tmp_path / str(number), marks(sums), marks(90), ledger=ledger, looks=2)
        (check,) = [check for check in report.checks if check.name == "looks"]
        assert (check.value, check.passed) == [(1, True), (2, True), (1, True), (3, False)][number - 1]
    assert refused(report) == ["looks"]
    assert report.reasons[0].startswith("Look 3 of 2 at these questions (drift-vlm in ")
    written = ledger.looks(read_scores(tmp_path / "1" / "drift").data_fingerprint)
    assert [look.passed for look in written] == [True, True, False]


def test_a_gain_that_one_look_would_show_is_not_shown_to_sixty(tmp_path: Path) -> None:
    # 8 gained, none lost of 100: at 95% a lower bound above 0, at 1 − 0.05/60 not
    alone, of_many = (decided(tmp_path / str(looks), marks(30), marks(90), looks=looks) for looks in (1, 60))
    assert alone.passed
    assert refused(of_many) == ["reasoning_gain"]
    assert "with 95% confidence over 60 looks by at least -" in of_many.reasons[0]


def test_without_a_champion_its_rule_is_left_out_and_said_to_be(tmp_path: Path) -> None:
    report = decided(tmp_path, marks(60), marks(90))
    assert not [check for check in report.checks if check.name.startswith("champion")]
    assert NO_CHAMPION in (tmp_path / "gate" / "gate.md").read_text()
    assert json.loads((tmp_path / "gate" / "gate.json").read_text())["champion"] is None


def test_a_margin_that_cannot_be_resolved_is_refused_and_says_what_would_resolve_it(tmp_path: Path) -> None:
    # one lost of 100: V = 0.01·0.99/99 = 1, q = (1 + 1)/2/100² = 1: SE² = 1 + (2.996/1.645)² = 4.32, SE = 2.08 points,
    # detectable 2.486·2.08 = 5.2. A margin of 2 needs SE² = (2/(1.645 + 1.175))² = 0.503 = x + 3.32 x², x = 100/n:
    # x = 0.267
    report = decided(tmp_path, marks(60), marks(89), max_perception_loss=2.0)
    assert refused(report) == ["perception_loss"]
    assert report.reasons[0].endswith(
        "not within the 2.0 allowed: the least that shows here is 5.2; 375 questions instead of 100 would show 2.0."
    )


def test_perception_that_fell_by_more_than_the_margin_for_certain_is_refused(tmp_path: Path) -> None:
    report = decided(tmp_path, marks(60), marks(50), max_perception_loss=2.0)
    assert "perception_loss" in refused(report)


@pytest.mark.parametrize("change", [{"protocol": "two"}, {"data": "two"}])
def test_a_champion_measured_otherwise_is_an_error_that_names_both(tmp_path: Path, change: dict[str, str]) -> None:
    baseline = write_score_folder(tmp_path / "vlm", BASELINE)
    champion = write_score_folder(tmp_path / "champion", BASELINE, **change)
    config = GateConfig(candidate="drift")
    champions = ChampionScores(champion)
    with pytest.raises(DataError, match=r"vlm and .*champion: measured with different"):
        decide(config, baseline=baseline, arms={"drift": baseline}, champions=champions, out=tmp_path / "gate")


def test_a_champion_without_scores_is_named(tmp_path: Path) -> None:
    baseline = write_score_folder(tmp_path / "vlm", BASELINE)
    config = GateConfig(candidate="drift")
    champions = ChampionScores(tmp_path / "none")
    with pytest.raises(DataError, match=r"none/scores\.json: missing"):
        decide(config, baseline=baseline, arms={"drift": baseline}, champions=champions, out=tmp_path / "gate")


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
