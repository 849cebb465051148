"""The summary, and the page with all and with the fewest of its inputs."""

import base64
import csv
import dataclasses
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from drift.config.gate import GateConfig
from drift.gate.decision import decide
from drift.gate.report.page import make_report, summarize, write_report
from drift.gate.report.render import figure
from drift.gate.report.setup import flat
from drift.ground.artifacts import write_json, write_provenance
from drift.ground.errors import DataError
from drift.tracking.telling.journal import append, make_event
from tests.score_folders import write_score_folder


class Page(HTMLParser):
    """What a page refers to and says, and whether its tags are closed."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.html = (folder / "report.html").read_text(encoding="utf-8")
        self.sources: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "xlink:href", "data", "srcset"):
                self.sources.append(value or "")
            elif name == "href":
                self.links.append(value or "")
        if tag not in ("meta", "img", "link", "br", "wbr", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    @property
    def headings(self) -> list[str]:
        return re.findall(r"<h2.*?>(.*?)</h2>", self.html)

    def part(self, name: str) -> str:
        """The text of a section, without its tags."""
        inner = self.html.partition(f'<section id="{name}"')[2].partition("</section>")[0]
        text = re.sub(r"<[^>]*>", " ", re.sub(r"</?(span|strong|wbr)\b[^>]*>", "", inner))
        return html.unescape(" ".join(text.split()))


class Run:
    """Score folders, records and a gate of a baseline and two arms."""

    def __init__(self, folder: Path, colours: str = "1" * 44 + "0" * 6) -> None:
        self.folder = folder
        self.baseline = write_score_folder(folder / "vlm", {"Sums": "1" * 10 + "0" * 40, "Colours": "1" * 45 + "0" * 5})
        self.scores = {
            "drift": write_score_folder(folder / "drift", {"Sums": "1" * 30 + "0" * 20, "Colours": colours}),
            "merged": write_score_folder(
                folder / "merged", {"Sums": "1" * 5 + "0" * 45, "Colours": "1" * 20 + "0" * 30}
            ),
        }
        self.gate = folder / "gate"
        decide(
            GateConfig(candidate="drift", max_perception_loss=12.0),
            baseline=self.baseline,
            arms=self.scores,
            out=self.gate,
        )
        self.arms = {name: (scores, self.record(name)) for name, scores in self.scores.items()}

    def record(self, name: str) -> Path:
        record = self.folder / "records" / name
        record.mkdir(parents=True)
        metrics = {"train/seconds": 12.5} if name == "drift" else {}
        train = {"learning_rate": 3e-5, "seed": 7} if name == "drift" else None
        write_json(record / "arm.json", {"arm": name, "projection": {"base": 0.8}, "metrics": metrics, "train": train})
        if name == "drift":
            rows = [{"step": step, "loss": 1 / step, "projection": step / 10} for step in range(1, 8)]
            (record / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return record

    def training_set(self) -> Path:
        folder = self.folder / "training"
        folder.mkdir()
        stages = [{"stage": "format", "in": 90, "out": 80, "reasons": {"no box": 10}}]
        write_json(folder / "funnel.json", [*stages, {"stage": "correct", "in": 80, "out": 60, "reasons": {}}])
        return folder

    def deltas(self) -> Path:
        names = ["layers.0.self_attn.q_proj.weight", "layers.0.self_attn.q_proj.bias", "layers.1.mlp.up_proj.weight"]
        for delta, size in (("base", 3.0), ("paper", 1.0)):
            folder = self.folder / "deltas" / delta
            folder.mkdir(parents=True)
            tensors = {name: {"l2": size, "vlm_l2": 4.0} for name in [*names, "lm_head.weight"]}
            write_json(folder / "delta_stats.json", {"direction": "expert-minus-base", "tensors": tensors})
        return self.folder / "deltas"

    def report(self, name: str = "report", **more: object) -> Page:
        out = self.folder / name
        make_report(baseline=self.baseline, arms=self.arms, gate=self.gate, out=out, **more)  # type: ignore[arg-type]
        return Page(out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page with all of its inputs."""
    run = Run(tmp_path_factory.mktemp("whole"))
    page = run.report(training_set=run.training_set(), deltas=run.deltas())
    again = run.report("again", training_set=run.folder / "training", deltas=run.folder / "deltas")
    assert page.html == again.html, "the same inputs give the same page"
    return page


def test_the_summary_has_a_row_per_model_and_says_who_kept_perception(tmp_path: Path) -> None:
    run = Run(tmp_path)
    summary = summarize(run.baseline, run.arms, run.gate)
    vlm, drift, merged = summary.rows
    assert [row.label for row in summary.rows] == ["vlm", "drift", "merged"]
    assert list(summary.benchmarks.items()) == [("Sums", "reasoning"), ("Colours", "perception")]
    assert (vlm.retained, vlm.perception_difference) == (None, None)
    assert drift.perception_difference == pytest.approx(-2)  # 88 − 90 %; its lower bound −6 lies within the margin
    assert drift.retained is True
    assert merged.perception_difference == pytest.approx(-50)
    assert merged.retained is False
    assert drift.reasoning is not None
    assert drift.reasoning.mean == 60
    assert (drift.projection, drift.train_seconds, merged.train_seconds) == ({"base": 0.8}, 12.5, None)
    assert summary.verdict.startswith("drift passed: ")
    assert summary.metrics()["merged/perception"] == 40


def test_the_run_is_found_by_the_verdict_of_its_gate(tmp_path: Path) -> None:
    run = Run(tmp_path)
    summary = summarize(run.baseline, run.arms, run.gate)
    reasons = " ".join(summary.reasons)
    assert summary.run_tags() == {"drift.gate": "passed", "drift.gate_reasons": reasons, "drift.winner": "drift"}
    refused = dataclasses.replace(summary, passed=False, winner="")
    assert refused.run_tags() == {"drift.gate": "refused", "drift.gate_reasons": reasons}


def test_the_page_shows_everything_it_was_given_and_needs_nothing_from_outside(whole: Page) -> None:
    assert whole.open == []
    assert all(source.startswith(("data:image/", "#")) for source in whole.sources)
    assert all(link.startswith(("data:text/csv", "#")) for link in whole.links)
    assert "default-src 'none'" in whole.html
    asked = [
        "Results",
        "Model against model",
        "Gate",
        "Training",
        "Data",
        "The prior Δ",
        "Replies",
        "Answers",
        "Set-up",
    ]
    assert whole.headings == [*asked, "Provenance"]


def test_the_verdict_is_two_numbers_with_their_intervals_and_a_sentence(whole: Page) -> None:
    said = whole.part("verdict")
    assert "drift passed the gate. It reasons better than vlm and has kept its perception." in said
    assert re.search(r"Reasoning gain \+40.0 points \+\d+\.\d to \+\d+\.\d, 95 % interval gain shown", said)
    assert re.search(r"Perception change −2.0 points −\d+\.\d to \+\d+\.\d, 95 % interval retained", said)


def test_a_refusal_says_its_first_reason_and_how_many_there_are(tmp_path: Path) -> None:
    run = Run(tmp_path, colours="0" * 50)
    said = run.report().part("verdict")
    assert "drift was refused by the gate. Perception fell by 90.0 points" in said
    assert "And 1 more; see the gate's checks." in said
    assert "Perception change −90.0 points" in said and "not shown to be retained" in said
    assert json.loads((tmp_path / "report" / "summary.json").read_text())["winner"] == ""


def test_means_come_before_benchmarks_and_every_model_is_held_against_every_other(whole: Page) -> None:
    results = whole.part("results")
    assert (
        results.index("retained") < results.index("reasoning") < results.index("By benchmark") < results.index("Sums")
    )
    differences = whole.part("differences")
    assert "In reasoning, drift is better than vlm, merged." in differences
    assert "In perception, drift is better than merged; not to be told apart from vlm." in differences
    # 30 − 5 of 50 questions, and the other way round
    assert "+50.0" in differences and "−50.0" in differences


def test_every_figure_is_a_whole_svg_that_follows_the_colours_of_the_page(whole: Page) -> None:
    figures = re.findall(r"<svg.*?</svg>", whole.html, re.DOTALL)
    assert len(figures) == 7  # reasoning, perception, loss, projection, funnel, two Δ
    for drawing in figures:
        assert ElementTree.fromstring(drawing.replace("xlink:href", "href")).tag == "svg"
        assert "<style" not in drawing and "<metadata" not in drawing
    maps = [drawing for drawing in figures if "decoder layer" in drawing]
    scales = [re.findall(r">(0\.\d+)</text>", drawing) for drawing in maps]
    assert len(maps) == 2 and scales[0] == scales[1] != [], "both Δ on one scale"


def test_without_records_training_set_and_deltas_their_sections_are_left_out(tmp_path: Path) -> None:
    run = Run(tmp_path)
    arms = {name: (scores, None) for name, scores in run.scores.items()}
    summary = summarize(run.baseline, arms, run.gate)
    write_report(tmp_path / "report", summary, baseline=run.baseline, arms=arms, gate=run.gate)
    page = Page(tmp_path / "report")
    assert page.headings == ["Results", "Model against model", "Gate", "Replies", "Answers", "Set-up", "Provenance"]
    assert "#training" not in page.links


def test_what_a_model_wrote_is_text_and_never_markup(tmp_path: Path) -> None:
    run = Run(tmp_path)
    arms = run.arms | {"<b>x</b>": run.arms.pop("drift")}
    with pytest.raises(DataError, match="did not compare arm '<b>x</b>'"):
        make_report(baseline=run.baseline, arms=arms, gate=run.gate, out=tmp_path / "report")
    page = Run(tmp_path / "other").report()
    assert "<think>" not in page.html and "<b>4</b>" not in page.html, "answers are packed, and set as text"
    assert "<script>alert" not in figure(
        '<svg width="1pt" height="2pt"><metadata><script>alert(1)</script></metadata></svg>'
    )


def test_the_tables_are_there_to_calculate_with(tmp_path: Path, whole: Page) -> None:
    Run(tmp_path).report()
    tables = {
        path.name: list(csv.DictReader(path.read_text().splitlines()))
        for path in (tmp_path / "report" / "tables").iterdir()
    }
    assert set(tables) == {"results.csv", "differences.csv", "categories.csv", "replies.csv"}
    found = {(row["model"], row["column"]): float(row["percent"]) for row in tables["results.csv"]}
    assert found["drift", "reasoning mean"] == found["drift", "Sums"] == 60
    against = {(row["model"], row["against"], row["column"]): float(row["points"]) for row in tables["differences.csv"]}
    assert against["drift", "merged", "reasoning"] == pytest.approx(50) == -against["merged", "drift", "reasoning"]
    linked = [link.partition(",")[2] for link in whole.links if link.startswith("data:text/csv;base64,")]
    assert base64.b64decode(linked[0]).decode() == (tmp_path / "report" / "tables" / "results.csv").read_text()


def test_how_the_run_was_made_is_said_as_far_as_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    unknown = run.report().part("setup")
    assert "arms.drift.train.learning_rate 3e-05" in unknown and "arms.drift.train.seed=7" in unknown
    assert "gate.max_perception_loss 12.0" in unknown and "gate.confidence" not in unknown
    assert "command" not in unknown and "cost" not in unknown and "machine" not in unknown
    write_json(tmp_path / "run.json", {"started": "2026-01-01", "mlflow": "http://tracking/#/experiments/1/runs/2"})
    append(tmp_path, make_event("1", "pipeline", "", "begun", tags={"mlflow.source.name": "drift run -c a.yaml"}))
    cost = [["data/generate/cost", 3.5, 0, 0]]
    append(tmp_path, make_event("1/generate", "generate", "", "cached", seconds=7200.0, metrics=cost))
    append(tmp_path, make_event("1/arm/drift", "arm", "drift", "ended", seconds=60.0))
    monkeypatch.setenv("DRIFT_RUN_DIR", str(tmp_path))
    page = run.report("known")
    assert "command drift run -c a.yaml" in page.part("setup") and "2.0 h of work in 2 steps" in page.part("setup")
    assert "generate 2.0 h 3.50 yes" in page.part("setup") and "arm drift 60 s –" in page.part("setup")
    assert "http://tracking/#/experiments/1/runs/2" in page.links


def test_a_section_that_another_version_wrote_is_named_and_not_guessed_at(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write_provenance(run.baseline, "evaluate", config={"data": "tables", "invented": 1}, inputs={})
    said = run.report().part("setup")
    assert "Written by another version, so that their defaults are not known: evaluate." in said


def test_a_password_in_an_address_is_not_shown() -> None:
    assert flat("evaluate", {"judge": {"base_url": "http://ada:secret@judge/v1"}, "vllm": {}}) == {
        "evaluate.judge.base_url": "http://judge/v1"
    }


def test_an_arm_the_gate_did_not_compare_is_an_error(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(DataError, match="did not compare arm 'other'"):
        summarize(run.baseline, {**run.arms, "other": run.arms["drift"]}, run.gate)


def test_a_broken_history_is_an_error_that_names_it(tmp_path: Path) -> None:
    run = Run(tmp_path)
    (tmp_path / "records" / "drift" / "history.jsonl").write_text('{"step": 1')
    with pytest.raises(DataError, match=r"drift/history\.jsonl: not JSON lines"):
        make_report(baseline=run.baseline, arms=run.arms, gate=run.gate, out=tmp_path / "report")
    assert not (tmp_path / "report").exists()
