"""Checkpoints read lazily: resolving, headers, names of the text decoder, and everything that can be wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from drift.ground.artifacts import write_json, write_provenance
from drift.ground.errors import CheckpointError, ConfigError, PriorError
from drift.weights.naming.configurations import config_differences
from drift.weights.naming.layout import canonical_names, find_partners, match_parameters, select_modules
from drift.weights.storage.checkpoints import Checkpoint, fingerprint, original_vlm_sha256, pair_decoders, resolve
from drift.weights.storage.files import INDEX
from drift.weights.storage.headers import read_header
from tests.tiny_models import Family, tiny_family, tiny_llm, tiny_vlm, tiny_vlm_model

DECODER = {f"layers.{i}.{name}": (4, 4) for i in range(3) for name in ("self_attn.q_proj.weight", "mlp.up_proj.weight")}
EXPERT = {**DECODER, "norm.weight": (4,), "embed_tokens.weight": (9, 4), "lm_head.weight": (9, 4)}
LAYOUTS = {
    "qwen2-vl on disk": ("model.", "lm_head.weight", "visual.blocks.0.attn.qkv.weight"),
    "qwen2-vl at run time": ("model.language_model.", "lm_head.weight", "model.visual.blocks.0.attn.qkv.weight"),
    "llava on disk": (
        "language_model.model.",
        "language_model.lm_head.weight",
        "vision_tower.encoder.layers.0.fc.weight",
    ),
    "idefics": ("model.text_model.", "lm_head.weight", "model.connector.perceiver_resampler.layers.0.norm.weight"),
}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"))


@pytest.fixture
def broken(family: Family, tmp_path: Path) -> Path:
    """A copy of the VLM, to be damaged."""
    return Path(shutil.copytree(family.vlm, tmp_path / "broken"))


def layout(prefix: str, head: str, vision: str) -> dict[str, tuple[int, ...]]:
    names = {prefix + name: shape for name, shape in EXPERT.items() if name != "lm_head.weight"}
    return {vision: (4, 4), **names, head: (9, 4)}


@pytest.mark.parametrize("family_name", LAYOUTS)
def test_the_decoder_is_found_in_every_layout(family_name: str) -> None:
    names = layout(*LAYOUTS[family_name])
    partners = match_parameters(names, EXPERT)
    prefix, head, _ = LAYOUTS[family_name]
    assert partners == {name: head if name == "lm_head.weight" else prefix + name for name in EXPERT}


def test_a_vision_tower_with_layers_of_its_own_does_not_win() -> None:
    names = layout("model.language_model.", "lm_head.weight", "model.vision_tower.layers.0.self_attn.q_proj.weight")
    assert match_parameters(names, EXPERT)["layers.0.self_attn.q_proj.weight"].startswith("model.language_model.")


def test_two_equally_good_decoders_are_none() -> None:
    names = {f"{tower}.{name}": shape for tower in ("left", "right") for name, shape in DECODER.items()}
    assert find_partners(names, DECODER) == {}


def test_a_tensor_without_a_partner_is_named() -> None:
    names = {f"model.{name}": shape for name, shape in EXPERT.items() if name != "layers.1.mlp.up_proj.weight"}
    with pytest.raises(PriorError, match=r"^layers\.1\.mlp\.up_proj\.weight: "):
        match_parameters(names, DECODER)


def test_a_tensor_of_another_shape_is_named_with_both_shapes() -> None:
    names = {f"model.{name}": shape for name, shape in DECODER.items()} | {"model.norm.weight": (5,)}
    with pytest.raises(PriorError, match=r"norm\.weight: shape \[4\] does not fit \[5\] of 'model\.norm\.weight'"):
        match_parameters(names, {**DECODER, "norm.weight": (4,)})


def test_no_match_at_all_is_an_error() -> None:
    with pytest.raises(PriorError):
        match_parameters({"visual.weight": (4, 4)}, EXPERT)


@given(st.text(alphabet="abc_.", max_size=12).filter(lambda text: "layers." not in text))
def test_canonical_names_undo_any_prefix(prefix: str) -> None:
    names = {prefix + name: shape for name, shape in EXPERT.items() if name != "lm_head.weight"}
    assert canonical_names(names) == {name: prefix + name for name in EXPERT if name != "lm_head.weight"}


def test_disk_names_pair_as_the_running_model_names_its_decoder(family: Family) -> None:
    # Oracle: transformers' own get_decoder(). On disk the same tensors hang at `model.`.
    model = tiny_vlm_model()
    runtime = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    expert = Checkpoint(family.expert)
    shapes = {name: expert.shapes[own] for name, own in expert.canonical().items()}
    at_runtime = match_parameters(runtime, shapes)
    for name, parameter in model.get_decoder().named_parameters():
        assert dict(model.named_parameters())[at_runtime[name]] is parameter
    on_disk = pair_decoders(expert, Checkpoint(family.vlm))
    assert set(on_disk) == set(at_runtime) == set(shapes)
    for name, own in on_disk.items():
        assert torch.equal(Checkpoint(family.vlm).tensor(own), dict(model.named_parameters())[at_runtime[name]])


def test_new_disk_names_pair_too(family: Family, broken: Path) -> None:
    tensors = {
        name.replace("model.", "model.language_model.").replace("visual.", "model.visual."): tensor
        for name, tensor in load_file(broken / "model.safetensors").items()
    }
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    partners = pair_decoders(Checkpoint(family.expert), Checkpoint(broken))
    assert partners["layers.1.mlp.up_proj.weight"] == "model.language_model.layers.1.mlp.up_proj.weight"
    assert partners["lm_head.weight"] == "lm_head.weight"


def test_a_sharded_checkpoint_reads_as_the_whole_one(tmp_path: Path, family: Family) -> None:
    sharded = Checkpoint(tiny_vlm(tmp_path / "sharded", shard_size="40KB"))
    whole = Checkpoint(family.vlm)
    assert len(sharded.files) > 2
    assert sharded.shapes.keys() == whole.shapes.keys()
    assert all(torch.equal(sharded.tensor(name), whole.tensor(name)) for name in whole.tensors)


def test_the_header_tells_where_the_bytes_lie(family: Family) -> None:
    checkpoint = Checkpoint(family.vlm)
    info = checkpoint.tensors["model.norm.weight"]
    content = info.file.read_bytes()[info.start : info.end]
    assert torch.equal(
        torch.frombuffer(bytearray(content), dtype=torch.float32), checkpoint.tensor("model.norm.weight")
    )


def test_a_tied_head_is_refused_with_the_way_out(tmp_path: Path) -> None:
    names = list(Checkpoint(tiny_llm(tmp_path / "tied", tie_word_embeddings=True)).canonical())
    assert select_modules(names, ["embed"]) == ["embed_tokens.weight"]
    with pytest.raises(ConfigError, match=r"^modules: 'head' selects no tensor .*select embed"):
        select_modules(names, ["head"])


# ------------------------------------------------------------------------------------------- selections


@pytest.mark.parametrize(
    ("modules", "layers", "include_bias", "count"),
    [
        # A layer has q,k,v,o (3 biases), gate,up,down and two norms; 2 layers; then norm, embed and head.
        (["attn"], None, True, 14),
        (["attn"], None, False, 8),
        (["mlp"], None, True, 6),
        (["attn", "mlp"], None, True, 20),
        (["attn", "mlp"], "1", True, 10),
        (["norm"], None, True, 5),
        (["norm"], "0", True, 3),
        (["head"], None, True, 1),
        (["embed", "head"], "0", True, 2),
        (["re:q_proj"], None, True, 4),
        (["attn", "re:q_proj"], None, True, 14),
    ],
)
def test_modules_select_what_they_say(
    family: Family, modules: list[str], layers: str | None, include_bias: bool, count: int
) -> None:
    names = list(Checkpoint(family.expert).canonical())
    assert len(select_modules(names, modules, layers, include_bias)) == count


def test_attention_norms_are_norms_and_linear_attention_is_attention() -> None:
    names = [
        "layers.0.self_attn.q_norm.weight",
        "layers.0.linear_attn.in_proj_qkv.weight",
        "layers.0.linear_attn.A_log",
    ]
    assert select_modules(names, ["attn"]) == [names[1]]
    assert select_modules(names, ["norm"]) == [names[0]]


@pytest.mark.parametrize(
    ("modules", "layers", "message"),
    [
        (["atn"], None, "modules: 'atn' is unknown"),
        (["re:["], None, "modules: 're:[' is no regular expression"),
        (["re:nothing"], None, "modules: 're:nothing' selects no tensor"),
        ([], None, "modules: empty"),
        (["attn"], "2", "layers: '2' names layer 2, but the decoder has layers 0-1"),
    ],
)
def test_a_selection_of_nothing_names_its_key(
    family: Family, modules: list[str], layers: str | None, message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        select_modules(list(Checkpoint(family.expert).canonical()), modules, layers)
    assert str(raised.value).startswith(message)


# ------------------------------------------------------------------------------------------- bad models


def remove_config(path: Path) -> None:
    (path / "config.json").unlink()


def break_config(path: Path) -> None:
    (path / "config.json").write_text("{")


def list_config(path: Path) -> None:
    (path / "config.json").write_text("[]")


def quantise(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    write_json(path / "config.json", {**config, "quantization_config": {"quant_method": "gptq"}})


def only_bin(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def shards_alone(path: Path) -> None:
    shard(path)


def mistral_format(path: Path) -> None:
    (path / "model.safetensors").rename(path / "consolidated.safetensors")


def no_weights(path: Path) -> None:
    (path / "model.safetensors").unlink()


def adapter(path: Path) -> None:
    (path / "adapter_config.json").write_text("{}")
    (path / "model.safetensors").rename(path / "adapter_model.safetensors")


def cut_data(path: Path) -> None:
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[:-10])


def cut_header(path: Path) -> None:
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[:100])


def git_lfs_pointer(path: Path) -> None:
    (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def empty_file(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"")


def shard(path: Path) -> None:
    """The single file, which comes before any index, becomes the first shard."""
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")


def missing_shard(path: Path) -> None:
    shard(path)
    write_json(path / INDEX, {"weight_map": {"norm.weight": "model-00002-of-00002.safetensors"}})


def lying_index(path: Path) -> None:
    shard(path)
    write_json(path / INDEX, {"weight_map": {"model.ghost.weight": "model-00001-of-00002.safetensors"}})


def index_of_elsewhere(path: Path) -> None:
    shard(path)
    write_json(path / INDEX, {"weight_map": {"model.norm.weight": "../model-00001-of-00002.safetensors"}})


def trailing_bytes(path: Path) -> None:
    with (path / "model.safetensors").open("ab") as stream:
        stream.write(bytes(16))


def quantise_text(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    text = {**config["text_config"], "quantization_config": {"quant_method": "awq"}}
    write_json(path / "config.json", {**config, "text_config": text})


def compress(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    write_json(path / "config.json", {**config, "compression_config": {"quant_method": "compressed-tensors"}})


def own_weights_name(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    write_json(path / "config.json", {**config, "transformers_weights": "other.safetensors"})


def empty_index(path: Path) -> None:
    shard(path)
    write_json(path / INDEX, {"metadata": {}})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no such model directory"),
        (remove_config, "no config.json"),
        (break_config, "missing or not JSON"),
        (list_config, "not a JSON object"),
        (quantise, "quantised (gptq)"),
        (only_bin, "no safetensors, only pytorch_model.bin"),
        (shards_alone, "model-00001-of-00002.safetensors without model.safetensors.index.json"),
        (mistral_format, "only consolidated.safetensors"),
        (no_weights, "no weights"),
        (adapter, "only an adapter"),
        (cut_data, "cut off"),
        (cut_header, "cut off in its header"),
        (git_lfs_pointer, "no safetensors file"),
        (empty_file, "no safetensors file"),
        (missing_shard, "shard 'model-00002-of-00002.safetensors' is missing"),
        (lying_index, "'model.ghost.weight' is in 'model-00001-of-00002.safetensors', but it is not"),
        (index_of_elsewhere, "no file below it"),
        (trailing_bytes, "foreign bytes after the tensors"),
        (quantise_text, "quantised (awq)"),
        (compress, "quantised (compressed-tensors)"),
        (own_weights_name, "transformers_weights: other.safetensors"),
        (empty_index, "has no weight_map"),
    ],
)
def test_a_broken_model_directory_is_refused_on_one_line(broken: Path, damage: object, message: str) -> None:
    damage(broken)  # type: ignore[operator]
    with pytest.raises(CheckpointError) as raised:
        Checkpoint(broken)
    assert message in str(raised.value)
    assert str(broken) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_hidden_layers": 3}, "num_hidden_layers: 3 in"),
        ({"hidden_size": 64}, "hidden_size: 64 in"),
        ({"num_key_value_heads": 4}, "num_key_value_heads: 4 in"),
        ({"intermediate_size": 40}, "intermediate_size: 40 in"),
    ],
)
def test_models_of_different_shape_are_refused_with_both_numbers(
    family: Family, tmp_path: Path, overrides: dict[str, int], message: str
) -> None:
    expert = Checkpoint(tiny_llm(tmp_path / "expert", **overrides))
    with pytest.raises(CheckpointError, match="not of one base") as raised:
        pair_decoders(expert, Checkpoint(family.vlm))
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [({"num_hidden_layers": 3}, "has 3 layers"), ({"hidden_size": 64}, "no text decoder like the expert's")],
)
def test_the_tensors_tell_where_the_configuration_is_silent(
    family: Family, tmp_path: Path, overrides: dict[str, int], message: str
) -> None:
    path = tiny_llm(tmp_path / "expert", **overrides)
    write_json(path / "config.json", {"model_type": "qwen2"})
    with pytest.raises(CheckpointError, match=message):
        pair_decoders(Checkpoint(path), Checkpoint(family.vlm))


def test_a_model_without_layers_is_no_text_decoder(broken: Path) -> None:
    save_file({"weight": torch.zeros(2)}, broken / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"multimodal model without a text decoder known here: .* width 32"):
        Checkpoint(broken).canonical()
    write_json(broken / "config.json", {"model_type": "qwen2"})
    with pytest.raises(CheckpointError, match="not a text decoder known here"):
        Checkpoint(broken).canonical()


def test_integer_weights_are_refused(broken: Path) -> None:
    save_file({"layers.0.weight": torch.zeros(2, dtype=torch.int8)}, broken / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"'layers\.0\.weight' is I8"):
        Checkpoint(broken).require_float("layers.0.weight")


def test_differences_in_rope_and_vocabulary_are_told() -> None:
    old = {"rope_theta": 10000.0, "vocab_size": 100}
    new = {"rope_parameters": {"rope_theta": 1e6}, "vocab_size": 108}
    assert config_differences(old, new) == ["vocab_size: 100 against 108", "rope_theta: 10000.0 against 1000000.0"]


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
DIFFERENCES = {
    "family": ({"model_type": "llama"}, {"model_type": "mistral"}, ["model_type: llama against mistral"]),
    "a VLM's text part is of its family": ({"model_type": "qwen2"}, {"model_type": "qwen2_5_vl_text"}, []),
    "a VLM of one configuration": ({"model_type": "llama"}, {"model_type": "llava", "image_token_index": 9}, []),
    "scaling": ({"rope_scaling": LLAMA3}, {}, [f"rope_scaling: {LLAMA3} against {{}}"]),
    "scaling, two ways to write it": (
        {"rope_theta": 1e4, "rope_scaling": {"type": "yarn", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}},
        [],
    ),
    "sections of an image": ({}, {"rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}}, []),
    "window": ({"sliding_window": 4096}, {"sliding_window": None}, ["sliding_window: 4096 against None"]),
    "window that is off": ({"sliding_window": 4096, "use_sliding_window": False}, {"sliding_window": None}, []),
    "multiplier": ({"residual_multiplier": 0.2}, {"residual_multiplier": 1}, ["residual_multiplier: 0.2 against 1"]),
    "norms of queries": ({"use_qk_norm": True}, {"use_qk_norm": False}, ["use_qk_norm: True against False"]),
}


@pytest.mark.parametrize("kind", DIFFERENCES)
def test_what_matters_of_a_configuration_is_told_by_name(kind: str) -> None:
    expert, other, told = DIFFERENCES[kind]
    assert config_differences(expert, other) == told


# ------------------------------------------------------------------------------------------- references


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("reference", ["/nowhere/model", "runs/some/model", "with space", ""])
def test_what_is_no_directory_and_no_hub_id_is_refused(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no such directory"):
        resolve(reference or "")


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="a file; give the model's directory"):
        resolve(str(tmp_path / "model.safetensors"))


def test_a_hub_id_that_is_not_to_be_had_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="no such model on the hub or the hub is out of reach") as raised:
        resolve("drift-tests/no-such-model@main")
    assert "\n" not in str(raised.value)


def test_the_fingerprint_follows_the_weights_and_not_the_side_files(broken: Path) -> None:
    before = fingerprint(broken)
    write_json(broken / "generation_config.json", {})
    assert fingerprint(broken) == before
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    assert fingerprint(broken) != before


def test_a_model_with_provenance_keeps_the_fingerprint_of_its_original(broken: Path) -> None:
    assert original_vlm_sha256(broken) == fingerprint(broken)
    write_provenance(broken, "merge", config={}, inputs={}, original_vlm_sha256="f00d")
    assert original_vlm_sha256(broken) == "f00d"


def test_reading_a_header_of_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_header(tmp_path / "none.safetensors")
