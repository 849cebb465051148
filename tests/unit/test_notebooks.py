"""The notebooks run from their first cell to the last, and show what they drew."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.report_inputs import published
from tests.run_folders import ARMS, measured_run

NOTEBOOKS = sorted(Path("docs/notebooks").glob("*.ipynb"))
of_notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
LARGEST = 200_000
"""Bytes of a notebook with its outputs."""


def a_run(folder: Path) -> None:
    """`runs/` with one that has measured what a report is made of."""
    made = published(folder / "made", questions=10, words=8)
    outputs = {
        ("curate", ""): {"training_set": made["training_set"]},
        ("evaluate_vlm", ""): {"scores": made["baseline"]},
        ("gate", ""): {"gate": made["gate"]},
    }
    for arm in ARMS:
        scores, record = made["arms"][arm]
        outputs |= {("arm", arm): {"record": record}, ("evaluate_arm", arm): {"scores": scores}}
    measured_run(folder / "runs", outputs)


NEEDED: dict[str, Callable[[Path], None]] = {"read_a_run": a_run}


def pictures(notebook: nbformat.NotebookNode) -> list[int]:
    """How many pictures each cell shows."""
    outputs = [cell.get("outputs", ()) for cell in notebook.cells]
    return [sum("image/png" in one.get("data", ()) for one in shown) for shown in outputs]


@of_notebooks
def test_a_notebook_runs_and_draws_what_it_is_kept_with(path: Path, tmp_path: Path):
    NEEDED.get(path.stem, lambda _: None)(tmp_path)
    kept = nbformat.read(path, as_version=4)
    ran = nbformat.from_dict(kept)
    NotebookClient(ran, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert sum(pictures(ran)) > 0
    assert pictures(ran) == pictures(kept)


@of_notebooks
def test_a_notebook_is_kept_as_one_run_left_it_without_a_warning_and_small(path: Path):
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    shown = [output for cell in code for output in cell.outputs]
    assert [one for one in shown if one.output_type == "error" or one.get("name") == "stderr"] == []
    assert path.stat().st_size < LARGEST


@of_notebooks
def test_a_page_of_the_site_has_what_a_notebook_says_and_shows(path: Path):
    notebook = nbformat.read(path, as_version=4)
    page = runpy.run_path("docs/.site/notebooks.py")["markdown"](json.loads(path.read_text(encoding="utf-8")))
    assert [cell.source for cell in notebook.cells if cell.source not in page] == []
    assert page.count("](data:image/png;base64,") == sum(pictures(notebook))
    assert page.count("<table>") == page.count("</table>") > 0
    assert "<style" not in page
