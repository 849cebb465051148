"""The summary, and the page with all and with the fewest of its inputs."""

import base64
import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from drift.config.gate import GateConfig
from drift.gate.decision import decide
from drift.gate.report.page import make_report, summarize, write_report
from drift.ground.artifacts import write_json
from drift.ground.errors import DataError
from tests.score_folders import write_score_folder


class Sources(HTMLParser):
    """Every address a page refers to, and whether its tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


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
        write_json(record / "arm.json", {"arm": name, "projection": {"base": 0.8}, "metrics": metrics})
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
        folder = self.folder / "deltas" / "base"
        folder.mkdir(parents=True)
        names = ["layers.0.self_attn.q_proj.weight", "layers.0.self_attn.q_proj.bias", "layers.1.mlp.up_proj.weight"]
        tensors = {name: {"l2": 3.0, "vlm_l2": 4.0} for name in [*names, "lm_head.weight"]}
        write_json(folder / "delta_stats.json", {"direction": "expert-minus-base", "tensors": tensors})
        return folder.parent


def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


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


def test_the_page_shows_everything_it_was_given_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    run = Run(tmp_path)
    out = tmp_path / "report"
    make_report(
        baseline=run.baseline,
        arms=run.arms,
        gate=run.gate,
        out=out,
        training_set=run.training_set(),
        deltas=run.deltas(),
    )
    sources = Sources()
    sources.feed(page(out))
    assert sources.open == []
    assert all(address.startswith("data:image/") for address in sources.addresses)
    assert not re.search(r"https?://", page(out))
    headings = re.findall(r"<h2>(.*?)</h2>", page(out))
    assert headings == ["Results", "Gate", "Training", "Data", "The prior Δ", "Samples", "Provenance"]
    assert json.loads((out / "summary.json").read_text())["winner"] == "drift"


def test_every_figure_is_a_whole_svg_and_the_same_each_time(tmp_path: Path) -> None:
    run = Run(tmp_path)
    inputs = {"training_set": run.training_set(), "deltas": run.deltas()}
    for name in ("first", "second"):
        make_report(baseline=run.baseline, arms=run.arms, gate=run.gate, out=tmp_path / name, **inputs)
    figures = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page(tmp_path / "first"))
    assert len(figures) == 5  # results, loss, projection, funnel, Δ
    for figure in figures:
        assert ElementTree.fromstring(base64.b64decode(figure)).tag.endswith("svg")
    assert page(tmp_path / "first") == page(tmp_path / "second")


def test_without_records_training_set_and_deltas_their_sections_are_left_out(tmp_path: Path) -> None:
    run = Run(tmp_path)
    arms = {name: (scores, None) for name, scores in run.scores.items()}
    summary = summarize(run.baseline, arms, run.gate)
    write_report(tmp_path / "report", summary, baseline=run.baseline, arms=arms, gate=run.gate)
    headings = re.findall(r"<h2>(.*?)</h2>", page(tmp_path / "report"))
    assert headings == ["Results", "Gate", "Samples", "Provenance"]


def test_what_a_model_wrote_is_text_and_never_markup(tmp_path: Path) -> None:
    run = Run(tmp_path, colours="0" * 50)
    make_report(baseline=run.baseline, arms=run.arms, gate=run.gate, out=tmp_path / "report")
    assert "&lt;think&gt; 2 + 3" in page(tmp_path / "report")
    assert "<think>" not in page(tmp_path / "report")
    assert "drift was refused by the gate" in page(tmp_path / "report")


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
