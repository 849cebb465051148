"""Every code block of README, CONTRIBUTING and docs/ is run by a test, or says what it needs (`# needs: a GPU`).

What each level proves:

- **run**, here: the lines of a `bash` block that need nothing end with 0, in a shell, in a folder with what the page
  speaks of: tiny models, a training set, scores, registered versions. What they print is read by nobody. Lines that
  write the same folder are alternatives: each finds it absent. `python` runs as it stands.
- **read**, in `tests/unit/test_page_settings.py`: all commands, also those with a mark, those that take minutes or wait
  for a person (`LONG`) and those of transcripts (`console`), are parsed with their options, types and requirements;
  each override, `yaml` block and key in a sentence is taken by the strict schema. That such a command does what the
  page says, the tests of the chain prove.
- **text**: trees, formulas and outputs are looked at by nobody.

`make` targets, links, paths and names are held by `tests/unit/test_docs.py`.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path

import pytest

from drift.config.gate import GateConfig
from drift.config.models import DeltaConfig
from drift.gate.decision import decide
from drift.ground.artifacts import write_json
from drift.tracking.models.registration import register
from drift.weights.delta.delta import compute_delta
from tests.mlflow_store import fresh_store
from tests.pages import NEEDS, PAGES, ROOT, Block, Line, blocks, filled
from tests.run_folders import do_step, past_run, task_folder
from tests.score_folders import write_score_folder
from tests.shell import Shell
from tests.unit.tracking.test_registry import CONFIG, gate
from tests.unit.weights.test_adapters import adapt
from tests.world import BASE, EXPERT, VLM, training_set

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

LONG = ("drift run ", "drift retrain ", "drift rehearse ", "drift ablate run ", "drift doctor ", "drift ui", "make ")
LONG += ("python -m ", "bash .ci/run", "drift init", "drift ask --model drift-vlm@champion")
"""Commands that take minutes, look at the machine, or, the last two in this whole form, wait for somebody."""

ELSEWHERE = {
    "docs/own-data.md": ("bash python", "tests/unit/planning/test_own_data_page.py"),
    "docs/prior.md": ("python", "tests/unit/test_docs.py"),
    "docs/a-change.md": ("diff", "tests/unit/test_docs.py"),
    "docs/delta.md": ("python", "tests/unit/test_docs.py"),
    "docs/sources.md": ("json csv tar tsv", "tests/unit/data/test_sources_page.py"),
}
"""Pages, and languages of their blocks, which a test of their own runs."""

SAYS_NOTHING = {"text", "console", "dockerfile"}


def of_pages(languages: str) -> pytest.MarkDecorator:
    """Every block in one of the languages that no other test runs."""
    wanted = [
        block
        for page in PAGES
        for block in blocks(page)
        if block.language in languages.split() and block.language not in ELSEWHERE.get(str(page), ("",))[0].split()
    ]
    return pytest.mark.parametrize("block", wanted, ids=str)


# ------------------------------------------------------------------------------------------ the convention


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_block_is_fenced_names_a_language_that_is_tested_and_needs_what_is_known(page: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    outside = re.sub(r"^```.*?^```$", "```", text, flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"^\s*\n {4}(?![-*] |\d+\. )\S.*$", outside, re.MULTILINE) == [], "indented: fence it"
    by_others = set(ELSEWHERE.get(str(page), ("",))[0].split())
    assert {block.language for block in blocks(page)} <= {"bash", "yaml", "python"} | SAYS_NOTHING | by_others
    assert {need for block in blocks(page) for need in block.needs} <= NEEDS


def test_what_is_left_to_another_test_is_read_there() -> None:
    for page, (_, test) in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


# -------------------------------------------------------------------------------------- commands that are run


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that pages take for granted, by the names that they use."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("configs", "drift", "docker"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "mine.yaml").write_text(f"extends: {ROOT / 'configs' / 'miniature.yaml'}\nname: mine\n")
    compute_delta(DeltaConfig(rank=4), expert=str(EXPERT), vlm=str(VLM), base=None, out=folder / "delta")
    training_set(folder / "training_set", 2)
    adapt(BASE, folder / "lora")
    _measured(folder)
    _asked(folder)
    _registered(folder)
    run = past_run(folder / "runs", started="2026-01-01T01:00:00+00:00", model=CONFIG.model)
    do_step(folder / "cache", run, "report", "")
    report = task_folder(run.path, "report") / "report"
    report.mkdir(parents=True)
    (report / "report.html").write_text("<p>It passed.</p>")
    return folder


def _measured(folder: Path) -> None:
    half, most = "10" * 100, "1110" * 50
    for name, sums in {"scores": most, "scores_drift": most, "scores_vlm": half, "scores_champion": half}.items():
        write_score_folder(folder / name, {"Sums": sums, "Colours": "1" * 1000})
    (folder / "record_drift").mkdir()
    write_json(folder / "record_drift" / "arm.json", {"arm": "drift", "metrics": {}})
    arms = {"drift": folder / "scores_drift"}
    decide(GateConfig(candidate="drift", resamples=200), baseline=folder / "scores_vlm", arms=arms, out=folder / "gate")


def _asked(folder: Path) -> None:
    (folder / "pairs.jsonl").write_text(json.dumps({"gold": "5", "response": "\\boxed{5}"}) + "\n")
    shutil.copy(next((ROOT / "docs" / "pictures").glob("*.png")), folder / "page.png")
    turns = [
        {"role": "user", "content": "<image>How many?"},
        {"role": "assistant", "content": "<think>I count.</think> \\boxed{3}"},
    ]
    (folder / "train.json").write_text(json.dumps([{"messages": turns, "images": ["page.png"]}]))


def _registered(folder: Path) -> None:
    """Three versions of `drift-vlm`, of which the second is champion."""
    (folder / "runs").mkdir()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_URI", fresh_store(folder / "runs"))
        before = None
        for name in ("one", "two", "three"):
            made = Path(shutil.copytree(VLM, folder / name))
            (made / "README.md").write_text(name)
            decided = gate(folder / f"gate_{name}", made, against=before)
            register(CONFIG, model=str(made), gate=decided)
            before = made


def test_a_command_that_fails_is_noticed(tmp_path: Path) -> None:
    with Shell(tmp_path) as shell, pytest.raises(AssertionError, match=r"drift: none\.jsonl: not readable"):
        shell.run("drift verify none.jsonl\ntrue")


def _is_long(line: Line) -> bool:
    said = " ".join(line.words)
    return bool(line.needs) or said.startswith(LONG[:-2]) or said in LONG


RUN = [
    page for page in PAGES if "bash" not in ELSEWHERE.get(str(page), ("",))[0] and any(
        not _is_long(line) for block in blocks(page) if block.language == "bash" for line in block.lines
    )
]  # fmt: skip


@pytest.mark.parametrize("page", RUN, ids=str)
def test_the_commands_of_a_page_run(page: Path, world: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world, tmp_path / "here", symlinks=True))
    with Shell(folder) as shell:
        for block in blocks(page):
            if block.language == "bash" and (text := "\n".join(one.text for one in block.lines if not _is_long(one))):
                shell.run(filled(text))


# ------------------------------------------------------------------------------------------ Python


@of_pages("python")
def test_a_block_of_python_runs_as_it_stands(
    block: Block, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = ast.parse(filled(block.text), str(block))
    monkeypatch.chdir(world)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{world / 'runs' / 'mlflow.db'}")
    if not block.needs:
        exec(compile(code, str(block), "exec"), {})
