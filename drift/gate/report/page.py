"""The report: one HTML page that needs no other file, its tables as CSV, and the summary beside it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drift.evaluate.samples import read_examples
from drift.evaluate.scores import ROLES
from drift.gate.report.browser import Questions, pack, pack_page, questions
from drift.gate.report.contrasts import contrasts, in_words
from drift.gate.report.exports import tables
from drift.gate.report.models import Model, read_models
from drift.gate.report.render import render
from drift.gate.report.replies import categories, lengths
from drift.gate.report.sections import (
    delta_sections,
    funnel,
    named_deltas,
    provenance_row,
    results_figures,
    training_figures,
)
from drift.gate.report.setup import setup
from drift.gate.report.summary import Folders, Summary, summarize
from drift.gate.report.verdict import headlines, sentence
from drift.ground.artifacts import read_json, staged, write_json, write_provenance, write_text
from drift.tracking.facts import run_facts

__all__ = ["Summary", "make_report", "summarize", "write_report"]

PAGE = "report.html"
SUMMARY = "summary.json"
TABLES = "tables"
ANSWERS = "answers"
PAGE_OF_ANSWERS = "{}.answers.html"


def make_report(
    *,
    baseline: Path,
    arms: Mapping[str, Folders],
    gate: Path,
    out: Path,
    training_set: Path | None = None,
    deltas: Path | None = None,
) -> Summary:
    """`summarize`, then `write_report`; the summary."""
    summary = summarize(baseline, arms, gate)
    write_report(out, summary, baseline=baseline, arms=arms, gate=gate, training_set=training_set, deltas=deltas)
    return summary


def write_report(
    out: Path,
    summary: Summary,
    *,
    baseline: Path,
    arms: Mapping[str, Folders],
    gate: Path,
    training_set: Path | None = None,
    deltas: Path | None = None,
    title: str = "DRIFT",
    copy: Path | None = None,
) -> None:
    """Write `report.html`, which needs no other file, `tables/*.csv` and `summary.json` into ``out``.

    Answers that the page has no room for are whole in `answers/BENCHMARK.answers.html`. Sections whose input is not
    given are left out, and what is not known of the run that this process is a step of, if it is one. ``copy``: where
    the page goes once more. Raises DataError for an input that cannot be read.
    """
    named = named_deltas(deltas)
    folders = {"baseline": baseline, **{f"scores {name}": scores for name, (scores, _) in arms.items()}, "gate": gate}
    folders |= {"training set": training_set} if training_set else {}
    folders |= {f"delta {path.name}": path for path in named}
    models = read_models(baseline, arms)
    asked = questions(models, summary.candidate, read_examples(arms[summary.candidate][0]))
    content = {
        "title": title,
        "summary": summary,
        **_decided(summary, read_json(gate / "gate.json")),
        **_measured(summary, models),
        "answers": pack_page(asked),
        "setup": setup(folders, arms, run_facts(), summary.registered),
        "training_figures": training_figures(arms),
        "funnel": funnel(training_set) if training_set else None,
        "deltas": delta_sections(named),
        "provenance": [provenance_row(name, path) for name, path in folders.items()],
    }
    with staged(out) as folder:
        content["beside"] = _write_answers(folder, asked, content)
        write_text(folder / PAGE, render("page.html.jinja", content))
        (folder / TABLES).mkdir()
        for name, text in content["tables"].items():
            write_text(folder / TABLES / name, text)
        write_json(folder / SUMMARY, summary.to_json())
        write_provenance(folder, "report", config={"title": title}, inputs=folders)
    if copy:
        shutil.copyfile(out / PAGE, copy)


def _decided(summary: Summary, decision: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "decision": decision,
        "headlines": headlines(summary, decision),
        "sentence": sentence(summary, decision),
        "results_figures": results_figures(summary, decision),
    }


def _measured(summary: Summary, models: Sequence[Model]) -> dict[str, Any]:
    """What comes from all models' answers."""
    found, by_category, by_length = contrasts(models), categories(models), lengths(models)
    return {
        "models": models,
        "scores": models[0].scores,
        "contrasts": found,
        "contrast_words": [words for role in ROLES if (words := in_words(found, summary.candidate, role))],
        "categories": by_category,
        "lengths": by_length,
        "tables": tables(models, found, by_category, by_length),
    }


def _write_answers(folder: Path, asked: Questions, content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """All answers to each benchmark, where the page does not hold all of them: (benchmark, address)."""
    if content["answers"].whole:
        return []
    (folder / ANSWERS).mkdir()
    beside = []
    for benchmark in asked.benchmarks:
        mine, name = asked.of(benchmark), PAGE_OF_ANSWERS.format(benchmark)
        packed = pack(mine, len(mine.answers))
        page = render("answers.html.jinja", {"title": content["title"], "benchmark": benchmark, "answers": packed})
        write_text(folder / ANSWERS / name, page)
        beside.append((benchmark, f"{ANSWERS}/{name}"))
    return beside
