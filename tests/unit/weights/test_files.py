"""Which files of a model directory are read: those that transformers loads, which is asked in each case."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from drift.config.models import DeltaConfig, MergeConfig
from drift.ground.artifacts import read_json, write_json
from drift.ground.errors import CheckpointError
from drift.planning.reach import sampled_ratio
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import load_delta
from drift.weights.merging.merge import merge
from drift.weights.pairing import plan
from drift.weights.storage.checkpoints import Checkpoint
from drift.weights.storage.files import INDEX, SINGLE
from tests.tiny_models import Family, tiny_family, tiny_llm, tiny_vlm

import peft  # isort: skip  # after tiny_models has made torchvision importable
from transformers import Qwen2ForCausalLM  # isort: skip

UP = "model.layers.1.mlp.up_proj.weight"
NUMBER = "model.layers.0.mlp.up_proj.bias"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"))


def assert_reads_what_transformers_loads(folder: Path) -> None:
    loaded = Qwen2ForCausalLM.from_pretrained(folder).state_dict()
    checkpoint = Checkpoint(folder)
    assert loaded.keys() == checkpoint.tensors.keys()
    assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in loaded.items())


@pytest.fixture
def both(family: Family, tmp_path: Path) -> Path:
    """An expert that was saved in shards, and over them once more in one file, with other weights."""
    folder = Path(shutil.copytree(family.base, tmp_path / "both"))
    Qwen2ForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="40KB")
    shutil.copy(family.expert / SINGLE, folder)
    assert (folder / INDEX).is_file() and len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


def test_a_single_file_comes_before_an_index(both: Path, family: Family, tmp_path: Path) -> None:
    # transformers 5.23, modeling_utils.py, lines 591-605, _get_resolved_checkpoint_files: the single file first.
    assert_reads_what_transformers_loads(both)
    report = compute_delta(DeltaConfig(), expert=str(both), vlm=str(family.vlm), base=None, out=tmp_path / "delta")
    expected = load_file(family.expert / SINGLE)[UP] - load_file(family.vlm / SINGLE)[UP]
    assert torch.equal(load_delta(tmp_path / "delta").tensor(UP.removeprefix("model.")), expected)
    (warning,) = report.warnings
    assert warning.startswith(f"{both}: model-00001-of-") and warning.endswith(
        "not read: transformers loads model.safetensors"
    )
    assert INDEX in warning


def test_an_index_whose_shards_are_gone_does_not_matter_beside_a_single_file(both: Path) -> None:
    # So transformers itself leaves a folder that is saved into twice.
    for shard in both.glob("model-*.safetensors"):
        shard.unlink()
    assert_reads_what_transformers_loads(both)
    assert Checkpoint(both).warnings == [f"{both}: {INDEX} not read: transformers loads {SINGLE}"]


def test_a_shard_that_nothing_names_is_told(tmp_path: Path) -> None:
    vlm = tiny_vlm(tmp_path / "vlm", shard_size="40KB")
    assert Checkpoint(vlm).warnings == []
    shutil.copy(Checkpoint(vlm).files[0], vlm / "model-00001-of-00099.safetensors")
    (warning,) = Checkpoint(vlm).warnings
    assert warning.startswith(f"{vlm}: model-00001-of-00099.safetensors not read")


def test_tensors_of_a_shard_that_the_index_does_not_name_are_read(both: Path) -> None:
    # transformers 5.23, modeling_utils.py, line 4568: all keys of every file, whatever weight_map says of them.
    (both / SINGLE).unlink()
    index = read_json(both / INDEX)
    index["weight_map"].pop(UP)
    write_json(both / INDEX, index)
    assert_reads_what_transformers_loads(both)


def test_an_adapter_that_transformers_loads_on_top_is_refused(both: Path) -> None:
    # transformers 5.23, integrations/peft.py, line 684: an adapter_config.json beside a whole model is not passed over.
    before = Qwen2ForCausalLM.from_pretrained(both)
    peft.get_peft_model(before, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(both)
    assert any("lora" in name for name in Qwen2ForCausalLM.from_pretrained(both).state_dict())
    with pytest.raises(CheckpointError, match="an adapter beside the model, which transformers loads on top"):
        Checkpoint(both)
    (both / "adapter_config.json").unlink()
    assert_reads_what_transformers_loads(both)


def in_mistrals_layout(folder: Path) -> None:
    (folder / SINGLE).rename(folder / "consolidated.safetensors")


def in_shards_that_nothing_names(folder: Path) -> None:
    tensors = load_file(folder / SINGLE)
    for place, part in enumerate((list(tensors)[::2], list(tensors)[1::2]), 1):
        save_file({name: tensors[name] for name in part}, folder / f"model-0000{place}-of-00002.safetensors")
    (folder / SINGLE).unlink()


@pytest.mark.parametrize(
    ("arrange", "remedy"),
    [
        (in_mistrals_layout, "only consolidated.safetensors, .*; take the files of its layout"),
        (in_shards_that_nothing_names, "model-00001-of-00002.safetensors without .*; download it again"),
    ],
)
def test_what_transformers_finds_no_weights_in_is_refused_with_the_remedy(
    family: Family, tmp_path: Path, arrange: Callable[[Path], None], remedy: str
) -> None:
    # transformers 5.23, modeling_utils.py, lines 591-630, _get_resolved_checkpoint_files: only its own names; else
    # OSError "no file named model.safetensors, or pytorch_model.bin".
    folder = Path(shutil.copytree(family.expert, tmp_path / "expert"))
    arrange(folder)
    with pytest.raises(OSError, match=r"no file named model[.]safetensors"):
        Qwen2ForCausalLM.from_pretrained(folder)
    with pytest.raises(CheckpointError, match=remedy):
        Checkpoint(folder)


def in_a_folder(model: Path) -> Path:
    """The weights in a sub-folder that the index names."""
    (model / "weights").mkdir()
    (model / SINGLE).rename(model / "weights" / "part.safetensors")
    names = load_file(model / "weights" / "part.safetensors")
    write_json(model / INDEX, {"metadata": {}, "weight_map": dict.fromkeys(names, "./weights/part.safetensors")})
    return model


def test_an_index_may_name_files_in_sub_folders(family: Family, tmp_path: Path) -> None:
    expert = in_a_folder(Path(shutil.copytree(family.expert, tmp_path / "expert")))
    vlm = in_a_folder(Path(shutil.copytree(family.vlm, tmp_path / "vlm")))
    assert_reads_what_transformers_loads(expert)
    models = {"expert": str(expert), "vlm": str(vlm), "base": None}
    compute_delta(DeltaConfig(), **models, out=tmp_path / "delta")
    compute_delta(DeltaConfig(), **family.references, out=tmp_path / "flat")
    name = UP.removeprefix("model.")
    assert torch.equal(load_delta(tmp_path / "delta").tensor(name), load_delta(tmp_path / "flat").tensor(name))
    merge(MergeConfig(method="linear"), **models, out=tmp_path / "merged")
    merge(MergeConfig(method="linear"), **{**family.references, "base": None}, out=tmp_path / "flat_merged")
    merged = load_file(tmp_path / "merged" / "weights" / "part.safetensors")
    assert all(
        torch.equal(tensor, merged[name]) for name, tensor in load_file(tmp_path / "flat_merged" / SINGLE).items()
    )


def with_odd_ones(model: Path, value: float) -> str:
    """With a tensor of no elements, and one that is a number."""
    odd = {NUMBER: torch.tensor(value), "model.layers.0.mlp.empty_proj.weight": torch.zeros(0, 32)}
    save_file(load_file(model / SINGLE) | odd, model / SINGLE, {"format": "pt"})
    return str(model)


def test_empty_tensors_are_left_out_and_numbers_are_not(tmp_path: Path) -> None:
    expert = with_odd_ones(tiny_llm(tmp_path / "expert", fine_tune=1), 2.0)
    models = {"expert": expert, "vlm": with_odd_ones(tiny_vlm(tmp_path / "vlm"), 1.0), "base": None}
    compute_delta(DeltaConfig(), **models, out=tmp_path / "delta")
    delta = load_delta(tmp_path / "delta")
    assert len(delta.names) == 21 and not [name for name in delta.names if "empty" in name]
    assert delta.tensor(NUMBER.removeprefix("model.")).item() == 1
    assert sampled_ratio(plan(DeltaConfig(), **models)) > 0
    assert merge(MergeConfig(method="linear"), **models, out=tmp_path / "merged").merged == 26
