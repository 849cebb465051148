"""The documentation is true: its code runs as it stands there, and what it names exists."""

import itertools
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import grimp
import pytest
import torch
import typer

import drift.cli.app  # noqa: F401  # every command
from drift.cli.options import app
from drift.config.models import DeltaConfig
from drift.data import tables
from drift.evaluate import samples
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import load_delta
from drift.weights.modeling import load_processor, load_vlm
from tests.unit.prior.test_callback import conversations
from tests.world import EXPERT, VLM, training_set

PAGE = Path("docs/prior.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

SITE = sorted(page for page in Path("docs").rglob("*") if page.suffix in (".md", ".ipynb"))
PAGES = [Path("README.md"), Path("CONTRIBUTING.md"), Path("CHANGELOG.md"), *SITE]
BESIDE = [*sorted(Path("configs").rglob("*.yaml")), *sorted(Path("docker").rglob("Dockerfile"))]
WINGS = {folder.name for folder in Path("drift").iterdir() if (folder / "__init__.py").is_file()}
PLACES = re.compile(
    r"(?<![\w./-])(?:drift|pipelines|components|configs|docker|docs|tests|benchmarks)/(?:[\w.*-]+/)*[\w.*-]*\w"
)
COMMANDS = typer.main.get_command(app)
PLACEHOLDER = re.compile(r"/[A-Z]+$")  # configs/resources/FILE


def of_pages(pages):
    return pytest.mark.parametrize("page", pages, ids=str)


def text(page):
    return page.read_text(encoding="utf-8")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with Δ in `delta`, as the page has it."""
    compute_delta(DeltaConfig(), expert=str(EXPERT), vlm=str(VLM), base=None, out=tmp_path / "delta")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_plain_loop_of_the_page_moves_towards_the_expert(here, capsys):
    model = load_vlm(VLM, dtype="float32")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tokens = torch.arange(3, 15).reshape(2, 6)
    names = {"torch": torch, "model": model, "optimizer": optimizer}
    exec(BLOCKS[0], names | {"batches": [{"input_ids": tokens, "labels": tokens}] * 3})
    assert float(re.search(r"'projection': ([-\d.e]+)", capsys.readouterr().out)[1]) > 0


def test_the_trl_block_of_the_page_trains_with_the_prior(here):
    from trl import SFTConfig

    training_set(here, 8)
    args = SFTConfig(
        output_dir=str(here / "out"), max_steps=2, max_length=None, bf16=False, use_cpu=True, report_to="none",
        activation_checkpointing=False, logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    names = {"model": load_vlm(VLM, dtype="float32"), "args": args, "processor": load_processor(VLM)}
    names["dataset"] = conversations(here)
    exec(BLOCKS[1], names)
    assert names["trainer"].state.log_history[0]["prior_ratio"] > 0


@pytest.mark.parametrize("form", [{}, {"rank": 4}, {"dtype": "int8"}, {"dtype": "float8_e4m3fn"}], ids=str)
def test_the_reader_of_the_page_reads_every_form_of_delta(tmp_path, form):
    names = {}
    exec(re.findall(r"^```python\n(.*?)^```", text(Path("docs/delta.md")), re.MULTILINE | re.DOTALL)[0], names)
    config = DeltaConfig.model_validate(form)
    compute_delta(config, expert=str(EXPERT), vlm=str(VLM), base=None, out=tmp_path / "delta")
    read, prior = names["read_delta"](tmp_path / "delta" / "delta.safetensors"), load_delta(tmp_path / "delta")
    assert read.keys() == set(prior.names)
    assert all(torch.equal(read[name], prior.tensor(name)) for name in prior.names)


def test_each_way_into_another_trainer_is_about_ten_lines():
    assert [len(block.splitlines()) <= 15 for block in BLOCKS] == [True, True, True]


@of_pages(PAGES)
def test_a_link_leads_to_a_file_that_exists_and_to_a_heading_in_it(page):
    links = re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]*))?\)", text(page))
    for place, anchor in links:
        target = page.parent / place if place else page
        assert target.exists(), f"{page}: {place}"
        assert not anchor or anchor in anchors(target), f"{page}: {place}#{anchor}"


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@of_pages([*PAGES, *BESIDE])
def test_a_path_that_is_named_exists(page):
    named = {place for place in PLACES.findall(text(page)) if not PLACEHOLDER.search(place)}
    assert [place for place in sorted(named) if not any(Path().glob(place))] == []


@of_pages(PAGES)
def test_a_test_that_is_named_is_there(page):
    named = re.findall(r"(tests/[\w/]+\.py)?::(\w+)", text(page))
    places = itertools.accumulate((place for place, _ in named), lambda before, place: place or before)
    for place, name in zip(places, (name for _, name in named), strict=True):
        assert f"def {name}(" in text(Path(place)), f"{page}: {place}::{name}"


@of_pages(PAGES)
def test_a_public_name_that_is_shown_can_be_imported(page):
    for line in re.findall(r"from drift[\w.]* import [\w, ]+", text(page)):
        exec(line)


@of_pages(PAGES)
def test_a_command_in_a_sentence_exists_with_the_options_it_is_shown_with(page):
    for shown in re.findall(r"(?<!`)`drift\s([^`]+)`", text(page)):
        at, words = COMMANDS, shown.split()
        while words and words[0] in getattr(at, "commands", ()):
            at = at.commands[words.pop(0)]
        assert not hasattr(at, "commands") or not words or words[0].startswith("-"), f"no command: drift {shown}"
        known = {option for one in at.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
        assert set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", shown)) <= known, f"no such option: drift {shown}"


@of_pages(PAGES)
def test_a_make_target_that_is_shown_exists(page):
    targets = set(re.findall(r"^([\w./-]+):", text(Path("Makefile")), re.MULTILINE))
    shown = re.findall(r"(?:^|(?<!`)`)make ([\w./-]+)", text(page), re.MULTILINE)
    assert set(shown) - targets == set()


def test_the_change_that_is_walked_through_can_be_made_and_does_what_it_says(tmp_path):
    for part in ("drift", "tests"):
        shutil.copytree(part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", "assets", "recorded"))
    for page in ("docs/filters.md", "pyproject.toml"):
        (tmp_path / page).parent.mkdir(exist_ok=True)
        shutil.copy(page, tmp_path / page)
    diffs = re.findall(r"^```diff\n(.*?)^```", text(Path("docs/a-change.md")), re.MULTILINE | re.DOTALL)
    apply = ["git", "apply", "-C1"]
    subprocess.run(apply, cwd=tmp_path, input="".join(diffs), text=True, check=True)
    tests = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/unit/data/test_filters.py"]
    ended = subprocess.run(
        [*tests, "-k", "fewer_words or row_in_the_documentation"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert "4 passed" in ended.stdout, ended.stdout


def test_every_page_has_its_one_place_on_the_site():
    places = re.findall(r": (\S+\.(?:md|ipynb))$", text(Path("mkdocs.yml")), re.MULTILINE)
    assert sorted(places) == sorted(str(page.relative_to("docs")) for page in SITE)


def test_a_link_to_a_file_that_is_not_on_the_site_becomes_its_path():
    told = runpy.run_path("docs/.site/outside.py")["on_page_markdown"]
    page = SimpleNamespace(file=SimpleNamespace(src_uri="reference/commands.md"))
    shown = "[here](../gate.md#x), [the house](../../README.md#the-house), [drift/prior](../../drift/prior)"
    expected = "[here](../gate.md#x), the house (`README.md`), `drift/prior`"
    assert told(shown, page=page, config={"docs_dir": "docs"}) == expected


def test_the_readme_fits_on_a_few_screens():
    assert len(text(Path("README.md")).splitlines()) <= 150


def test_the_tree_of_the_readme_names_folders_that_exist_and_every_wing_from_the_top_layer_to_the_ground():
    path, named = [], []
    for indent, name in re.findall(r"^( *)(\w+)/ {2}", text(Path("README.md")), re.MULTILINE):
        path[len(indent) // 2 :] = [name]
        assert Path(*path).is_dir(), "/".join(path)
        named.append("/".join(path))
    contracts = tomllib.loads(text(Path("pyproject.toml")))["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one.get("containers") == ["drift"])
    assert [place for place in named if re.fullmatch(r"drift/\w+", place)] == [f"drift/{wing}" for wing in layers]
    assert set(layers) == WINGS


def test_the_table_of_wings_says_what_is_imported():
    graph = grimp.build_graph("drift", cache_dir=None)
    imported = {wing: set() for wing in WINGS}
    for module in graph.modules - {"drift", "drift.__main__"}:
        for other in graph.find_modules_directly_imported_by(module):
            imported[module.split(".")[1]] |= set(other.split(".")[1:2]) - {module.split(".")[1]}
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", text(Path("docs/architecture.md")), re.MULTILINE)
    written = {wing: set(re.findall(r"`(\w+)`", row)) for wing, row in rows if wing in WINGS}
    assert written == imported


def test_the_columns_of_the_page_of_files_are_those_that_are_written():
    rows = re.findall(r"^\| `(\w+)\.parquet`(?: of `(\w+)`)? \| (`.+`) \|$", text(Path("docs/files.md")), re.MULTILINE)
    said = {(name, step): re.findall(r"`(\w+)`", columns) for name, step, columns in rows}
    assert said == {
        ("problems", ""): list(tables.PROBLEMS),
        ("rejects", "ingest"): list(tables.PROBLEM_REJECTS),
        ("train", ""): list(tables.TRAINING_SET),
        ("rejects", "curate"): list(tables.GENERATION_REJECTS),
        ("samples", ""): samples.SCHEMA.names,
        ("examples", ""): samples.EXAMPLES_SCHEMA.names,
    }
