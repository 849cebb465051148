"""The card of a curated folder: what a hub reads, what a person reads, and the same bytes each time."""

import json
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset

from drift.config.data import CurateConfig
from drift.data.exports.card import write_card
from drift.data.selection.curation import curate
from drift.ground.artifacts import content_sha256, write_provenance
from tests.pool_rows import ingested
from tests.unit.data.test_curate import generations
from tests.world import training_set

TEACHER = {
    "kind": "endpoint", "model": "/models/teacher-7b", "base_url": "http://10.0.0.7/v1", "api_key_env": "KEY",
    "concurrency": 8, "temperature": 0.7,
}  # fmt: skip


@pytest.fixture
def data(tmp_path) -> tuple[Path, Path]:
    problems = ingested(tmp_path, 4)
    chains = generations(tmp_path / "generations", problems)
    write_provenance(chains, "generate", config={"teacher": TEACHER, "prompt": "Think. {problem}"}, inputs={})
    return problems, chains


def front(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_hub_finds_rows_licence_and_size_in_the_cards_header(tmp_path, data):
    curate(CurateConfig(license="cc-by-4.0"), *data, tmp_path / "out")
    header = front((tmp_path / "out" / "README.md").read_text(encoding="utf-8"))
    assert (header["license"], header["size_categories"]) == ("cc-by-4.0", ["n<1K"])
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "train.parquet"}]
    assert load_dataset(str(tmp_path / "out"), split="train").num_rows == 3
    assert load_dataset(str(tmp_path / "out"), "rejects", split="train").num_rows == 9


def test_a_person_reads_settings_funnel_samples_and_rejects(tmp_path, data):
    curate(CurateConfig(), *data, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "3 rows for supervised fine-tuning of a vision-language model: 3 chains" in card
    assert "prompt: Think. {problem}" in card and "drift generate -c settings.yaml" in card
    assert "| format | 11 | 8 | text_around_answer 1, think_tags 2 |" in card
    assert "| correct | incorrect | 3 |" in card
    assert "<think>\nbecause\n</think>" in card
    for picture in ("pass_rate.svg", "n_tokens.svg", "sample-0-0.jpg"):
        assert f"(card/{picture})" in card and (tmp_path / "out" / "card" / picture).stat().st_size > 300
    assert "license" not in front(card) and "Not stated." in card


def test_the_card_names_no_server_no_key_and_no_place_of_this_machine(tmp_path, data):
    curate(CurateConfig(), *data, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "model: teacher-7b" in card and "temperature: 0.7" in card
    for hidden in ("10.0.0.7", "api_key_env", "concurrency", "/models", str(tmp_path)):
        assert hidden not in card


def test_the_same_rows_give_the_same_card_and_pictures(tmp_path, data):
    for name in ("one", "two"):
        curate(CurateConfig(), *data, tmp_path / name)
    assert content_sha256(tmp_path / "one") == content_sha256(tmp_path / "two")


def test_text_of_a_model_changes_neither_the_cards_tables_nor_its_page(tmp_path, data):
    problems, chains = data
    rows = [json.loads(line) for line in (chains / "part-00000-00000.jsonl").read_text().splitlines()]
    rows[0]["text"] = "<script>alert(1)</script> | ![x](http://a) `code` \n\n# no heading"
    (chains / "part-00000-00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curate(CurateConfig(), problems, chains, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "<script>" not in card and "![x]" not in card and "\n# no heading" not in card
    assert all(line.count("|") == 5 for line in card.splitlines() if line.startswith("| format | "))


def test_an_old_folder_of_few_columns_has_a_card_too(tmp_path):
    folder = training_set(tmp_path / "old", 4)
    write_card(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "4 rows" in card and "1 questions about perception" in card
    assert "## Samples" in card and "## Funnel" not in card and "How it was made" not in card
