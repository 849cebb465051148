import base64
import csv
import io
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer

from drift.ground.errors import ConfigError
from drift.planning.miniature import data
from drift.planning.miniature.build import BuildReport, build
from drift.weights.modeling import load_processor, load_vlm

csv.field_size_limit(sys.maxsize)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuildReport]:
    out = tmp_path_factory.mktemp("miniature") / "one"
    return out, build(out, seed=3, steps_scale=0.004, progress=False)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["vlm", "teacher"])
def test_vision_language_models_load_with_their_processor(built: tuple[Path, BuildReport], name: str):
    model, processor = load_vlm(built[0] / name), load_processor(built[0] / name)
    assert processor.tokenizer("c2 a3")["input_ids"] == processor.tokenizer.convert_tokens_to_ids(["c2", "a3"])
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id


@pytest.mark.parametrize("name", ["base", "expert"])
def test_text_models_load_with_the_same_tokenizer(built: tuple[Path, BuildReport], name: str):
    model, info = AutoModelForCausalLM.from_pretrained(built[0] / name, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(built[0] / name)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert tokenizer("c2 a3")["input_ids"] == tokenizer.convert_tokens_to_ids(["c2", "a3"])
    assert tokenizer.chat_template and model.config.vocab_size == len(tokenizer)


def test_the_same_seed_gives_the_same_bytes(built: tuple[Path, BuildReport], tmp_path: Path):
    build(tmp_path / "two", seed=3, steps_scale=0.004, progress=False)
    first, second = contents(built[0]), contents(tmp_path / "two")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_everything_is_small_and_nothing_is_left_aside(built: tuple[Path, BuildReport]):
    out, report = built
    assert report.total_bytes == sum(map(len, contents(out).values())) < 7_500_000
    assert [path.name for path in out.parent.iterdir()] == ["one"]


def test_an_existing_directory_is_refused(built: tuple[Path, BuildReport]):
    with pytest.raises(ConfigError, match="exists"):
        build(built[0], seed=0)


def test_the_pool_looks_like_a_real_one_and_is_as_dirty(built: tuple[Path, BuildReport]):
    rows = pq.read_table(built[0] / "pool.parquet").to_pylist()
    assert len(rows) == data.POOL_ROWS
    assert all(row["problem"].startswith("<image>compute ") for row in rows)
    copies = Counter((row["problem"], row["image"]) for row in rows)
    assert sum(count - 1 for count in copies.values()) == data.DIRT["duplicate"]
    assert sum(row["answer"] == "" for row in rows) == data.DIRT["empty answer"]
    assert sum("<|image_pad|>" in row["problem"] for row in rows) == data.DIRT["image token"]
    assert sum(not _decodes(row["image"]) for row in rows) == data.DIRT["broken image"]


def test_benchmarks_are_tables_with_images(built: tuple[Path, BuildReport]):
    for name, (_, count) in data.BENCHMARKS.items():
        with (built[0] / "benchmarks" / f"{name}.tsv").open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        assert len(rows) == count
        assert list(rows[0]) == ["index", "image", "question", "answer", "category"]
        assert Image.open(io.BytesIO(base64.b64decode(rows[0]["image"]))).size == (112, 28)


def _decodes(encoded: bytes) -> bool:
    try:
        Image.open(io.BytesIO(encoded)).convert("RGB")
    except OSError:
        return False
    return True
