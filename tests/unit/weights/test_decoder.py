"""The text decoder of a model, whatever stands beside it: a vision tower, more layers than it has, rotary buffers."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from drift.config.models import DeltaConfig, MergeConfig
from drift.ground.artifacts import read_json, write_json
from drift.ground.errors import CheckpointError, ConfigError
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import load_delta
from drift.weights.merging.merge import merge
from drift.weights.naming.decoder import decoder_names
from drift.weights.naming.layout import layers_without, module_of, select_modules
from drift.weights.pairing import plan
from drift.weights.storage.checkpoints import Checkpoint, pair_decoders
from tests.model_families import CLIP, FAMILIES
from tests.tiny_models import TEXT, Family, related, tiny_family

import transformers  # isort: skip  # after tiny_models has made torchvision importable

SINGLE = "model.safetensors"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"))


def changed(model: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], object], **config: object) -> Path:
    """A copy with other tensors, and keys of its configuration."""
    copy = Path(shutil.copytree(model, folder))
    tensors = load_file(copy / SINGLE)
    change(tensors)
    save_file(tensors, copy / SINGLE, {"format": "pt"})
    write_json(copy / "config.json", {**read_json(copy / "config.json"), **config})
    return copy


# ------------------------------------------------------------------------------------------- a VLM as expert


@dataclasses.dataclass(frozen=True)
class TwoVlms:
    """φ_VL and a fine-tune of all of it, vision tower included, whose vision tower has more layers than the decoder."""

    vlm: Path
    expert: Path

    @property
    def references(self) -> dict[str, str | None]:
        return {"expert": str(self.expert), "vlm": str(self.vlm), "base": None}


def two_vlms(name: str, folder: Path, **vision: object) -> TwoVlms:
    shape = FAMILIES[name]
    deep = dataclasses.replace(shape, vision={**shape.vision, **vision})
    model = deep.build_vlm()
    vlm = deep.save_vlm(model, folder / "vlm")
    return TwoVlms(vlm, deep.save_vlm(related(model, seed=5, scale=0.2), folder / "expert"))


@pytest.mark.parametrize(
    ("name", "vision"),
    [
        ("LLaVA-1.5", {"num_hidden_layers": 6}),
        ("LLaVA-1.5", {"num_hidden_layers": 6, "hidden_size": 32, "intermediate_size": 48}),  # as wide as the decoder
        ("PaliGemma", {"num_hidden_layers": 6}),
        ("Idefics3", {"num_hidden_layers": 6}),
        ("Qwen3-VL", {"depth": 6}),
    ],
)
def test_of_a_vlm_given_as_expert_the_text_decoder_is_taken(name: str, vision: dict[str, int], tmp_path: Path) -> None:
    models = two_vlms(name, tmp_path, **vision)
    report = merge(MergeConfig(method="linear"), **models.references, out=tmp_path / "merged")
    before, after = Checkpoint(models.vlm), Checkpoint(tmp_path / "merged")
    moved = {own for own in before.tensors if not torch.equal(before.tensor(own), after.tensor(own))}
    text = transformers.AutoModelForImageTextToText.from_pretrained(models.vlm).get_decoder()
    assert len(moved) == report.merged == len(dict(text.named_parameters())) - 1  # the embeddings stay
    assert not [own for own in moved if "vision" in own or "visual" in own]
    assert f"{models.expert}: a multimodal model as expert; its text decoder alone is taken" in report.warnings


def test_its_delta_is_that_of_the_decoders(tmp_path: Path) -> None:
    models = two_vlms("LLaVA-1.5", tmp_path, num_hidden_layers=6)
    compute_delta(DeltaConfig(), **models.references, out=tmp_path / "delta")
    delta, (expert, vlm) = load_delta(tmp_path / "delta"), (Checkpoint(models.expert), Checkpoint(models.vlm))
    assert len(delta.names) == 14  # q, k, v, o, gate, up and down of two layers
    prefix = "language_model.model."
    assert all(torch.equal(delta.tensor(n), expert.tensor(prefix + n) - vlm.tensor(prefix + n)) for n in delta.names)


def original_llava(tensors: dict[str, torch.Tensor]) -> None:
    """The layout of the original LLaVA: vision tower and projector below the decoder's own prefix, and deeper."""
    generator = torch.Generator().manual_seed(0)
    for name in [own for own in tensors if own.startswith("visual.")]:
        tensors.pop(name)
    tensors["model.mm_projector.0.weight"] = torch.randn(32, 16, generator=generator)
    tensors |= {
        f"model.vision_tower.vision_model.encoder.layers.{layer}.self_attn.q_proj.weight": torch.randn(
            16, 16, generator=generator
        )
        for layer in range(4)
    }


def test_a_vision_tower_below_the_decoders_prefix_is_neither_counted_nor_merged(family: Family, tmp_path: Path) -> None:
    vlm = changed(family.vlm, tmp_path / "vlm", original_llava)
    partners = pair_decoders(Checkpoint(family.expert), Checkpoint(vlm))
    assert len(partners) == 27
    both = {"expert": str(vlm), "vlm": str(vlm)}  # an expert of the same layout, and nothing but the decoder of it
    assert set(Checkpoint(vlm).canonical()) == set(partners)
    todo = plan(DeltaConfig(modules=("re:.",)), **both, base=None)
    assert not [source.vlm for source in todo.sources if "vision" in source.vlm or "mm_" in source.vlm]


def test_a_vlm_whose_text_decoder_is_not_known_is_refused_as_an_expert(tmp_path: Path) -> None:
    # GIT's text layers are `git.encoder.layer.N`: the only `layers.N` are those of its vision tower.
    text = {key: TEXT[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
    config = transformers.GitConfig(vision_config={**CLIP, "hidden_size": 32}, intermediate_size=48, **text)
    transformers.GitForCausalLM(config).save_pretrained(tmp_path / "git")
    assert any("image_encoder" in own and ".layers.1." in own for own in Checkpoint(tmp_path / "git").tensors)
    with pytest.raises(CheckpointError, match="multimodal model without a text decoder known here"):
        Checkpoint(tmp_path / "git").canonical()


def stack(prefix: str, layers: int, width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a decoder of its own, embeddings included."""
    inside = {f"layers.{layer}.input_layernorm.weight": (width,) for layer in range(layers)}
    return {prefix + name: shape for name, shape in {**inside, "embed_tokens.weight": (64, width)}.items()}


def test_of_thinker_and_talker_the_one_that_the_configuration_describes_is_taken() -> None:
    # As Qwen2.5-Omni: the talker has embeddings beside more layers, and hangs at a `model.` just the same.
    heads = {"thinker.lm_head.weight": (64, 32), "talker.code_predictor.lm_head.0.weight": (8, 16)}
    shapes = stack("thinker.model.", 2, 32) | stack("talker.model.", 4, 16) | heads
    text = {"num_hidden_layers": 2, "hidden_size": 32}
    config = {"thinker_config": {"text_config": text, "audio_config": {}}, "talker_config": {"hidden_size": 16}}
    names = decoder_names(shapes, config)
    assert {own.partition(".")[0] for own in names.values()} == {"thinker"}
    assert set(names) == {*stack("", 2, 32), "lm_head.weight"}


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_expert_and_vlm_swapped_are_refused(family: Family, tmp_path: Path, method: str) -> None:
    swapped = {"expert": str(family.vlm), "vlm": str(family.expert), "base": str(family.base)}
    message = f"{family.expert}: given as the VLM, but a text model"
    for call in (
        lambda **more: compute_delta(DeltaConfig(**more), **swapped, out=tmp_path / "out"),
        lambda **more: merge(MergeConfig(method=method, **more), **swapped, out=tmp_path / "out"),
    ):
        with pytest.raises(CheckpointError, match=message):
            call()
        assert list(tmp_path.iterdir()) == []
        call(force=True)
        shutil.rmtree(tmp_path / "out")


# ------------------------------------------------------------------------------------- layers and buffers


def predict_more(tensors: dict[str, torch.Tensor]) -> None:
    """A layer past the decoder's, as GLM-4.5 and DeepSeek-V3 store the one for multi-token prediction."""
    last = {name: tensor for name, tensor in tensors.items() if "model.layers.1." in name}
    tensors |= {name.replace("layers.1.", "layers.2."): tensor.clone() for name, tensor in last.items()}
    tensors["model.layers.2.eh_proj.weight"] = torch.zeros(32, 64)


def rotary(tensors: dict[str, torch.Tensor]) -> None:
    tensors |= {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.arange(4.0) for layer in (0, 1)}


@pytest.mark.parametrize("role", ["expert", "vlm"])
@pytest.mark.parametrize("change", [predict_more, rotary])
def test_what_is_no_layer_of_the_decoder_changes_nothing(
    family: Family, tmp_path: Path, role: str, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    model = changed(getattr(family, role), tmp_path / role, change)
    models = {**family.references, role: str(model)}
    section = DeltaConfig(modules=("re:.",))
    delta = compute_delta(section, **models, out=tmp_path / "delta")
    plain = compute_delta(section, **family.references, out=tmp_path / "plain")
    assert (delta.l2, delta.tensors) == (plain.l2, plain.tensors)
    report = merge(MergeConfig(method="linear"), **models, out=tmp_path / "merged")
    assert report.merged == 25
    merged, before = load_file(tmp_path / "merged" / SINGLE), load_file(Path(models["vlm"]) / SINGLE)
    assert merged.keys() == before.keys()
    more = [name for name in merged if "layers.2." in name or "inv_freq" in name]
    assert bool(more) == (role == "vlm") and all(torch.equal(merged[name], before[name]) for name in more)
    said = f"{model}: layers 2 from num_hidden_layers on (multi-token prediction) are left out"
    assert (said in delta.warnings, said in report.warnings) == (change is predict_more, change is predict_more)


def test_two_equal_decoders_are_told_by_their_places(family: Family, tmp_path: Path) -> None:
    def twice(tensors: dict[str, torch.Tensor]) -> None:
        tensors |= {f"talker.{name}": tensors[name].clone() for name in [n for n in tensors if n.startswith("model.")]}

    vlm = changed(family.vlm, tmp_path / "vlm", twice)
    with pytest.raises(CheckpointError, match=r"decoders at 'model\.' and 'talker\.model\.' fit the expert equally"):
        pair_decoders(Checkpoint(family.expert), Checkpoint(vlm))


def second_decoder(tensors: dict[str, torch.Tensor]) -> None:
    """As PI0: another decoder of the same kind, which has no embeddings."""
    tensors |= {f"action.{name}": one.clone() for name, one in tensors.items() if name.startswith("model.layers.")}


def test_a_delta_that_fits_two_decoders_is_refused_before_training_has_to(family: Family, tmp_path: Path) -> None:
    models = {"expert": str(family.expert), "vlm": str(changed(family.vlm, tmp_path / "vlm", second_decoder))}
    with pytest.raises(CheckpointError, match=r"decoders at 'action\.model\.' and 'model\.' fit Δ equally .*embed"):
        plan(DeltaConfig(), **models, base=None)
    todo = plan(DeltaConfig(modules=("attn", "mlp", "embed")), **models, base=None)
    assert all(source.vlm.startswith("model.") for source in todo.sources)


# ------------------------------------------------------------------------------------------- selections

HYBRID = [
    *(f"layers.{layer}.self_attn.q_proj.weight" for layer in (0, 2)),
    *(f"layers.{layer}.conv.in_proj.weight" for layer in (1, 3)),
    *(f"layers.{layer}.feed_forward.w1.weight" for layer in range(4)),
]


def test_layers_that_a_module_leaves_out_are_listed() -> None:
    assert layers_without(HYBRID, ["attn"]) == ["layers 1,3 have no tensor of 'attn'"]
    assert layers_without(HYBRID, ["attn"], "0-1") == ["layers 1 have no tensor of 'attn'"]
    assert layers_without(HYBRID, ["attn"], "0,2") == layers_without(HYBRID, ["re:conv"]) == []


def test_a_module_that_selects_nothing_names_what_there_is() -> None:
    names = ["layers.0.mixer.up_proj.weight", "layers.0.mixer.A_log", "layers.0.norm.weight", "embeddings.weight"]
    there = r"'mlp' finds none of its names: the layers hold mixer \(A_log, up_proj\), norm; name them by re:<pattern>"
    with pytest.raises(ConfigError, match=there):
        select_modules(names, ["mlp"])
    with pytest.raises(ConfigError, match=r"'re:w1' selects no tensor of the text decoder, whose layers hold mixer"):
        select_modules(names, ["re:w1"])


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("mlp", ["fc1.weight", "fc2.bias"]),  # OPT
        ("mlp", ["ffn.fc1.weight"]),  # Kosmos-2
        ("mlp", ["feed_forward.w3.weight"]),  # LFM2
        ("mlp", ["mlp.dense_h_to_4h.weight", "mlp.dense_4h_to_h.bias"]),  # Persimmon
        ("attn", ["self_attn.query_key_value.weight", "self_attn.dense.bias"]),
    ],
)
def test_the_names_of_other_families_are_attention_and_mlp_too(module: str, names: list[str]) -> None:
    others = ["ffn.ffn_layernorm.weight", "self_attn_layer_norm.weight", "conv.in_proj.weight", "mlp.gate.weight"]
    inside = [f"layers.3.{name}" for name in (*names, *others)]
    assert select_modules(inside, [module]) == inside[: len(names)]


def test_embeddings_and_heads_of_other_names_are_no_part_of_a_merge() -> None:
    found = [module_of(f"{name}.weight") for name in ("embed_tokens", "embeddings", "tok_embeddings", "embed")]
    assert found == ["embed"] * 4
    assert [module_of(f"{name}.weight") for name in ("unembed", "output", "lm_head")] == ["head"] * 3


def test_projections_of_other_names_are_attention_and_mlp() -> None:
    phi, bias = "layers.0.self_attn.dense.weight", "layers.0.mlp.experts.gate_up_proj_bias"
    assert select_modules([phi, bias], ["attn"]) == [phi]
    assert select_modules([phi, bias], ["mlp"]) == [bias]
    with pytest.raises(ConfigError):
        select_modules([phi, bias], ["mlp"], include_bias=False)


def test_what_one_decoder_has_alone_is_told(family: Family, tmp_path: Path) -> None:
    def with_norms(tensors: dict[str, torch.Tensor]) -> None:
        tensors |= {f"model.layers.{layer}.self_attn.q_norm.weight": torch.ones(8) for layer in (0, 1)}

    expert = changed(family.expert, tmp_path / "expert", with_norms)
    todo = plan(DeltaConfig(), expert=str(expert), vlm=str(family.vlm), base=None)
    assert f"{expert} alone has layers.N.self_attn.q_norm.weight: not in Δ" in todo.warnings
