"""What the pages set, in commands, in blocks of YAML and between backticks, is what the strict schema takes.

Nothing is run: a command is parsed with its options, their types and what it requires; its configuration is read, with
its overrides. `tests/unit/test_pages.py` says what that proves, and runs what can run.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

import drift.cli.app  # noqa: F401  # every command
from drift.cli.options import app
from drift.config.chain import ArmConfig, Config
from drift.config.file import load
from drift.config.models import DeltaConfig, MergeConfig
from drift.config.section import validate
from drift.config.servers import VllmConfig
from drift.config.train import TrainConfig
from drift.planning.ablation.expansion import expand
from pipelines.placement import Resources, read_resources
from tests.pages import PAGES, ROOT, Block, Line, blocks, drift_lines, filled

COMMANDS = typer.main.get_command(app)
SECTIONS = {
    name: Config.model_fields[name].annotation for name in ("ingest", "generate", "curate", "train", "evaluate", "gate")
} | {"delta": DeltaConfig, "merge": MergeConfig, "serve": VllmConfig}
"""Of commands whose overrides begin below a section, not at the whole."""


def _parsed(line: Line) -> tuple[str, dict[str, Any]]:
    """The command's name, and what its options and arguments say. Raises what a person would be shown."""
    at, words = COMMANDS, line.words[1:]
    name = []
    while hasattr(at, "commands"):
        name.append(words.pop(0))
        at = at.commands[name[-1]]
    return " ".join(name), at.make_context("drift", words).params


LINES = [
    pytest.param(Line(filled(line.text), line.needs), id=f"{page.name}: {line.text}")
    for page in PAGES
    for line in drift_lines(page)
]


@pytest.mark.parametrize("line", LINES)
def test_a_command_is_parsed_and_its_configuration_takes_its_overrides(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    name, given = _parsed(line)
    overrides = given.get("overrides") or ()
    for override in overrides:
        _check(SECTIONS.get(name, Config), override)
    if name.startswith("ablate"):
        expand(given["file"], overrides)
    elif "overrides" in given and name not in SECTIONS:
        load(given["config"] if given["config"].exists() else Path("configs/miniature.yaml"), overrides)


BASH = [block for page in PAGES for block in blocks(page) if block.language == "bash"]


@pytest.mark.parametrize("block", BASH, ids=str)
def test_a_block_is_bash_also_where_it_cannot_run_and_names_modules_that_exist(block: Block) -> None:
    read = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")
    assert all(importlib.util.find_spec(name) for name in re.findall(r"^python -m ([\w.]+)", block.text, re.MULTILINE))


# ------------------------------------------------------------------------------------------ single keys


def _check(root: Any, override: str) -> None:
    key, _, value = override.removeprefix("~").partition("=")
    kinds = list(_at([root], key.split(".")))
    assert kinds, f"no such key: {key}"
    assert override.startswith("~") or any(_takes(kind, yaml.safe_load(value)) for kind in kinds), override


def _at(kinds: list[Any], key: list[str]) -> Iterator[Any]:
    """What may stand at a dotted key, below any of these types."""
    if not key:
        yield from kinds
        return
    for kind in (one for above in kinds for one in _alternatives(above)):
        yield from _at(list(_below(kind, key[0])), key[1:])


def _alternatives(kind: Any) -> Iterator[Any]:
    if typing.get_origin(kind) is typing.Annotated:
        yield from _alternatives(typing.get_args(kind)[0])
    elif typing.get_origin(kind) in (typing.Union, types.UnionType):
        for one in typing.get_args(kind):
            yield from _alternatives(one)
    else:
        yield kind


def _below(kind: Any, name: str) -> Iterator[Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for field, about in kind.model_fields.items():
            if name == (about.alias or field):
                yield TrainConfig if (kind, field) == (ArmConfig, "train") else about.annotation
    elif typing.get_origin(kind) is dict:
        yield typing.get_args(kind)[1]


def _takes(kind: Any, value: Any) -> bool:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


OF_SECTIONS = "|".join(
    sorted({about.alias or name for name, about in Config.model_fields.items()} - {"name", "seed", "runs"})
)
KEYED = re.compile(rf"`((?:{OF_SECTIONS})\.(?!(?:jsonl?|md|parquet)`)[a-z_.A-Z]*[a-z_A-Z])(?:[=:][^`]*)?`")
"""`train.save_steps`, also with a value."""
MISTAKEN = {"train.prior.aplha", "curate.min_words"}
"""Shown as what is refused, or as what might be added."""


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_key_between_backticks_is_one_of_the_configuration(page: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    keys = set(KEYED.findall(text)) - MISTAKEN
    assert [key for key in sorted(keys) if not list(_at([Config], key.split(".")))] == []


# ------------------------------------------------------------------------------------------ blocks of YAML

YAML = [block for page in PAGES for block in blocks(page) if block.language == "yaml" and not block.needs]


@pytest.mark.parametrize("block", YAML, ids=str)
def test_a_block_of_yaml_is_read_by_what_reads_such_a_file(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    file, content = tmp_path / "configs" / "deeper" / "block.yaml", yaml.safe_load(block.text)
    file.parent.mkdir(parents=True)
    for example in (ROOT / "configs").glob("*.yaml"):
        for folder in (file.parent, file.parent.parent):
            (folder / example.name).symlink_to(example)
    file.write_text(block.text, encoding="utf-8")
    if "grid" in content:
        expand(file)
    elif content.keys() <= Resources.model_fields.keys():
        read_resources(file)
    elif content.keys() <= ArmConfig.model_fields.keys() - {"train"}:
        validate(ArmConfig, content)
    else:
        parent = "" if "extends" in content else "extends: miniature.yaml\n"
        file.write_text(parent + block.text, encoding="utf-8")
        has_rows = re.search(r"\b(sources|ready):", block.text)
        load(file, ["ingest.source=null"] if has_rows else [])
