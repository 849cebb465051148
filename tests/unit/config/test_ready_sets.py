"""A teacher or a ready set of chains: exactly one, and what the steps are told of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from drift.config.chain import Config
from drift.config.file import load
from drift.config.plan import plan
from drift.config.section import validate
from drift.ground.errors import ConfigError


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, Any]:
    """The miniature's configuration, with a ready set in place of its teacher."""
    (tmp_path / "train.json").write_text("[]")
    raw: dict[str, Any] = yaml.safe_load(Path("configs/miniature.yaml").read_text())
    raw["generate"] = None
    raw["ingest"] = {"max_rejected": 0.2}
    raw["curate"]["ready"] = str(tmp_path / "train.json")
    return raw


def test_the_steps_read_the_set_as_problems_and_ask_no_teacher(raw):
    config = validate(Config, raw)
    parameters = {name: json.loads(text) for name, text in plan(config).steps.items()}
    ingest = parameters["ingest"]
    assert (ingest["config"]["source"], ingest["config"]["ready"]) == (raw["curate"]["ready"], True)
    assert ingest["config"]["max_rejected"] == 0.2 and list(ingest["inputs"]) == ["curate.ready"]
    teacher = {"kind": "ready", "model": f"ready: {raw['curate']['ready']}"}
    assert parameters["generate"]["config"]["teacher"] == teacher
    assert parameters["generate"]["inputs"] == {}


def test_what_a_run_writes_down_of_its_configuration_is_the_same_configuration(raw):
    config = validate(Config, raw)
    assert validate(Config, config.model_dump(mode="json", by_alias=True)) == config


def test_a_section_that_is_left_out_is_as_good_as_null(raw):
    del raw["generate"], raw["ingest"]
    assert validate(Config, raw).ingest.ready


WRONG = {
    "both": ({"generate": {"teacher": {"kind": "local", "model": "m"}}}, "curate.ready: the chains are there"),
    "neither": ({"curate": {}}, "generate: null asks no teacher; name one, or set curate.ready"),
    "a kind without a set": ({"curate": {}, "generate": {"teacher": {"kind": "ready"}}}, "set curate.ready"),
    "two pools": ({"ingest": {"source": "pool.parquet"}}, "ingest.source: curate.ready brings its own problems"),
    "another pool beside": ({"ingest": {"sources": [{"source": "a.parquet"}]}}, "curate.ready brings its own problems"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_teacher_and_a_set_or_neither_are_told_on_one_line(raw, case):
    changes, message = WRONG[case]
    with pytest.raises(ConfigError, match=message) as raised:
        validate(Config, raw | changes)
    assert "\n" not in str(raised.value)


def test_a_set_that_is_not_there_is_named_by_its_own_key(raw):
    raw["curate"]["ready"] += "l"
    with pytest.raises(ConfigError, match=r"curate\.ready: '.*train\.jsonl' does not exist"):
        plan(validate(Config, raw))


def test_files_of_a_glob_are_each_part_of_the_parameters(raw, tmp_path):
    (tmp_path / "more.json").write_text("[]")
    raw["curate"]["ready"] = str(tmp_path / "*.json")
    inputs = json.loads(plan(validate(Config, raw)).steps["ingest"])["inputs"]
    assert list(inputs) == [f"curate.ready: {tmp_path / name}" for name in ("more.json", "train.json")]


def test_the_paper_from_its_published_data_is_the_paper_s_configuration_without_a_teacher():
    published, paper = load("configs/paper_published_data.yaml"), load("configs/paper_equation.yaml")
    assert published.generate.teacher.kind == "ready" and published.ingest.ready
    same = ("models", "deltas", "train", "arms", "evaluate", "gate", "register_")
    assert [getattr(published, name) for name in same] == [getattr(paper, name) for name in same]
