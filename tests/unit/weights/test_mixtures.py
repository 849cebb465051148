"""Mixtures of experts: Δ, merges and the prior against what transformers makes of the same files.

The oracle is `from_pretrained`: transformers' own conversion (`conversion_mapping.py`, "qwen2_moe": MergeModulelist(0)
and Concatenate(1), lines 1297-1311 of 5.23; "qwen3_vl_moe": Transpose(1, 2, check_dims=True), lines 1361-1372).
"""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from drift.config.models import DeltaConfig, MergeConfig
from drift.config.train import PriorConfig
from drift.ground.errors import CheckpointError
from drift.prior.gradient import guide
from drift.prior.prior import Prior
from drift.training.safety.effect import weights_changed
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import load_delta, projection
from drift.weights.merging.merge import merge
from drift.weights.pairing import plan
from drift.weights.storage.checkpoints import Checkpoint
from drift.weights.storage.mixture import AT_RUN_TIME, layout_of, opened
from tests.model_families import MIXTURES

import transformers  # isort: skip  # after model_families has made torchvision importable
from peft import LoraConfig, get_peft_model  # isort: skip

WEIGHTS = "model.safetensors"
TOKENS, RATE = torch.arange(3, 19).view(2, 8), 0.1
BOTH = [(name, fused) for name in MIXTURES for fused in (False, True)]
IDS = [f"{name}, expert {'fused' if fused else 'unfused'}" for name, fused in BOTH]


@functools.cache
def folders(name: str) -> tempfile.TemporaryDirectory[str]:
    """The family's VLM, its expert as published, the same expert with its experts fused, and a base."""
    family, folder = MIXTURES[name], tempfile.TemporaryDirectory()
    vlm = family.build_vlm()
    family.save_vlm(vlm, Path(folder.name) / "vlm")
    family.build_expert(vlm).save_pretrained(Path(folder.name) / "expert")
    expert = transformers.AutoModelForCausalLM.from_pretrained(f"{folder.name}/expert")
    expert.save_pretrained(f"{folder.name}/fused", save_original_format=False)
    for parameter in expert.parameters():
        parameter.data *= 0.99
    expert.save_pretrained(f"{folder.name}/base")
    return folder


def references(name: str, fused: bool = False) -> dict[str, str | None]:
    folder = folders(name).name
    return {"expert": f"{folder}/{'fused' if fused else 'expert'}", "vlm": f"{folder}/vlm", "base": f"{folder}/base"}


@functools.cache
def at_run_time(name: str, role: str) -> Any:
    """A model as transformers loads it, and its decoder's parameters by canonical name."""
    kind = "AutoModelForImageTextToText" if role == "vlm" else "AutoModelForCausalLM"
    return load(kind, Path(folders(name).name) / role)


def load(kind: str, folder: Path) -> dict[str, torch.Tensor]:
    model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return dict(model.get_decoder().state_dict())


def test_the_files_of_these_families_are_of_all_three_layouts() -> None:
    layouts = {name: layout_of(Checkpoint(str(references(name)["vlm"]))) for name in MIXTURES}
    turned = layouts["Qwen3-VL-MoE (hub)"]
    assert turned and turned.fused and turned.turned == {"gate_up_proj", "down_proj"}
    assert layouts["Qwen3-VL-MoE (saved by transformers 5)"] == AT_RUN_TIME
    assert all(layouts[name].fused is False for name in ("GLM-4.5V", "Qwen3.5-MoE", "Qwen3-Omni (thinker)"))
    assert layout_of(Checkpoint(str(references("GLM-4.5V", fused=True)["expert"]))) == AT_RUN_TIME


@pytest.mark.parametrize(("name", "fused"), BOTH, ids=IDS)
def test_delta_is_the_difference_at_run_time_bit_for_bit(name: str, fused: bool, tmp_path: Path) -> None:
    compute_delta(DeltaConfig(), **references(name, fused), out=tmp_path / "delta")
    prior, expert, vlm = load_delta(tmp_path / "delta"), at_run_time(name, "expert"), at_run_time(name, "vlm")
    assert {own for own in expert if "experts." in own and "proj" in own} <= set(prior.names)
    assert all(torch.equal(prior.tensor(own), expert[own] - vlm[own]) for own in prior.names)


@pytest.mark.parametrize(("name", "fused"), BOTH, ids=IDS)
def test_a_merge_has_the_vlms_names_and_loads_as_the_mean_of_the_two(name: str, fused: bool, tmp_path: Path) -> None:
    models = references(name, fused)
    merge(MergeConfig(method="linear"), **models, out=tmp_path / "merged")
    before, after = (load_file(Path(folder) / WEIGHTS) for folder in (models["vlm"], tmp_path / "merged"))
    assert {own: tensor.shape for own, tensor in before.items()} == {own: t.shape for own, t in after.items()}
    copied = json.loads((tmp_path / "merged" / "merge.json").read_text())["copied"]
    assert all(torch.equal(before[own], after[own]) for own in copied)
    assert not any(".layers." in own and "visual" not in own and "audio" not in own for own in copied)
    merged, expert = load("AutoModelForImageTextToText", tmp_path / "merged"), at_run_time(name, "expert")
    for own, weight in at_run_time(name, "vlm").items():
        expected = weight if own == "embed_tokens.weight" else 0.9 * weight + 0.1 * expert[own]
        torch.testing.assert_close(merged[own], expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["Qwen3-VL-MoE (hub)", "GLM-4.5V"])
@pytest.mark.parametrize("method", ["ties", "dare_linear", "frank"])
def test_a_method_merges_the_same_experts_whatever_layout_they_come_in(method: str, name: str, tmp_path: Path) -> None:
    for fused in (False, True):
        merge(MergeConfig(method=method), **references(name, fused), out=tmp_path / str(fused))
    merged = [load_file(tmp_path / str(fused) / WEIGHTS) for fused in (False, True)]
    vlm = load_file(Path(str(references(name)["vlm"])) / WEIGHTS)
    experts = [own for own in vlm if ".mlp.experts." in own]
    assert all(torch.equal(merged[0][own], merged[1][own]) for own in vlm)
    assert experts and not any(torch.equal(merged[0][own], vlm[own]) for own in experts)


@pytest.mark.parametrize("name", MIXTURES)
def test_the_vlm_and_delta_make_the_expert_and_lie_at_projection_one(name: str, tmp_path: Path) -> None:
    models = references(name)
    compute_delta(DeltaConfig(modules=("attn", "mlp", "router")), **models, out=tmp_path / "delta")
    added = {**models, "expert": None, "base": None}
    merge(MergeConfig(method="delta", weights=(1.0, 1.0)), **added, delta=tmp_path / "delta", out=tmp_path / "merged")
    merged, expert = load("AutoModelForImageTextToText", tmp_path / "merged"), at_run_time(name, "expert")
    for own in load_delta(tmp_path / "delta").names:
        torch.testing.assert_close(merged[own], expert[own], rtol=0, atol=1e-6)
    assert projection(tmp_path / "merged", tmp_path / "delta") == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", MIXTURES)
def test_a_step_guides_the_experts_by_the_difference_at_run_time(name: str, tmp_path: Path) -> None:
    models = references(name)
    compute_delta(DeltaConfig(), **models, out=tmp_path / "delta")
    model = transformers.AutoModelForImageTextToText.from_pretrained(models["vlm"])
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    delta = load_delta(tmp_path / "delta")
    prior = Prior(PriorConfig(scale="grad_norm", alpha=-1.0), delta)
    assert prior.bind(model, optimizer).parameters == len(delta.names)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    plain = {own: p.grad.clone() for own, p in model.get_decoder().named_parameters() if p.grad is not None}
    optimizer.step()
    now, before = model.get_decoder().state_dict(), at_run_time(name, "vlm")
    for own in delta.names:
        guided = guide("grad_norm", -1.0, plain[own], delta.tensor(own))
        torch.testing.assert_close(now[own], before[own] - RATE * guided, rtol=0, atol=1e-6)
        assert not torch.equal(guided, plain[own])
    assert prior.projection() > 0


@pytest.mark.parametrize("name", MIXTURES)
def test_the_router_is_a_module_of_its_own(name: str) -> None:
    chosen = {
        module: {source.name for source in plan(DeltaConfig(modules=(module,)), **references(name)).sources}
        for module in ("mlp", "router")
    }
    assert {own.rpartition(".mlp.")[2] for own in chosen["router"]} <= {"gate.weight", "shared_expert_gate.weight"}
    assert len(chosen["router"]) >= 2
    assert not chosen["router"] & chosen["mlp"]
    shared = {own for own in at_run_time(name, "expert") if "shared_expert" in own and "proj" in own}
    assert shared <= chosen["mlp"]


def test_what_training_changed_is_seen_although_transformers_saves_the_experts_in_another_layout(
    tmp_path: Path,
) -> None:
    hub = Path(str(references("Qwen3-VL-MoE (hub)")["vlm"]))
    model = transformers.AutoModelForImageTextToText.from_pretrained(hub)
    with torch.no_grad():
        model.get_decoder().layers[1].mlp.experts.gate_up_proj[2] += 1
    model.save_pretrained(tmp_path / "trained")
    assert layout_of(Checkpoint(tmp_path / "trained")) != layout_of(Checkpoint(hub))
    assert weights_changed(hub, tmp_path / "trained", 24 * 32) == 1


# ------------------------------------------------------------------------------------- how it is read


def test_experts_are_read_one_after_the_other_and_no_more_than_is_asked_for(tmp_path: Path) -> None:
    tensors = {
        f"model.layers.0.mlp.experts.{number}.{part}_proj.weight": torch.randn(shape)
        for number in range(3)
        for part, shape in {"gate": (5, 7), "up": (5, 7), "down": (7, 5)}.items()
    }
    files = {own: f"{own}.safetensors" for own in tensors}
    for own, tensor in tensors.items():
        save_file({own: tensor}, tmp_path / files[own])
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (tmp_path / "config.json").write_text("{}")
    model, own = opened(str(tmp_path)), "model.layers.0.mlp.experts.gate_up_proj"
    layer = "model.layers.0.mlp.experts"
    each = [[tensors[f"{layer}.{number}.{part}_proj.weight"] for part in ("gate", "up")] for number in range(3)]
    expected = torch.stack([torch.cat(both) for both in each])
    assert torch.equal(model.tensor(own), expected)
    assert torch.equal(torch.cat([piece.clone() for piece in model.pieces(own, 11)]), expected.flatten())
    assert torch.equal(model.first_rows(own, 1), expected[:1])
    (tmp_path / files["model.layers.0.mlp.experts.2.up_proj.weight"]).unlink()
    assert torch.equal(next(model.pieces(own, 70)), expected[0].flatten())
    with pytest.raises(OSError, match=r"experts\.2\.up_proj"):
        list(model.pieces(own, 70))


def written(folder: Path, config: dict[str, Any], **tensors: torch.Tensor) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({f"model.layers.0.mlp.experts.{own}": tensor for own, tensor in tensors.items()}, folder / WEIGHTS)
    return folder


def test_a_square_matrix_is_taken_as_it_is_stored_as_transformers_does(tmp_path: Path) -> None:
    # core_model_loading.py, Transpose.convert: "The shapes are the same: do NOT transpose".
    square, wide = torch.randn(2, 4, 4), torch.randn(2, 4, 8)
    sizes = {"hidden_size": 4, "moe_intermediate_size": 4}
    folder = written(
        tmp_path / "vlm", {"model_type": "qwen3_vl_moe", "text_config": sizes}, down_proj=square, gate_up_proj=wide
    )
    model = opened(str(folder))
    assert torch.equal(model.tensor("model.layers.0.mlp.experts.down_proj"), square)
    assert torch.equal(model.tensor("model.layers.0.mlp.experts.gate_up_proj"), wide.transpose(1, 2))


def test_fused_experts_of_another_family_are_not_turned(tmp_path: Path) -> None:
    wide = torch.randn(2, 4, 6)  # gpt-oss keeps (E, H, 2I) at run time
    sizes = {"hidden_size": 4, "moe_intermediate_size": 3}
    model = opened(str(written(tmp_path / "gpt", {"model_type": "gpt_oss", **sizes}, gate_up_proj=wide)))
    assert torch.equal(model.tensor("model.layers.0.mlp.experts.gate_up_proj"), wide)


# ------------------------------------------------------------------------------------------- refusals


def changed(name: str, tmp_path: Path, change: Any) -> dict[str, str | None]:
    """The family with an expert whose tensors `change` has changed."""
    models = references(name)
    tensors = load_file(Path(str(models["expert"])) / WEIGHTS)
    change(tensors)
    (tmp_path / "expert").mkdir()
    (tmp_path / "expert" / "config.json").write_bytes((Path(str(models["expert"])) / "config.json").read_bytes())
    save_file(tensors, tmp_path / "expert" / WEIGHTS)
    return {**models, "expert": str(tmp_path / "expert")}


LAST = "model.layers.1.mlp.experts.2.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop(LAST), f"'{LAST}' is missing"),
        (lambda tensors: tensors.update({LAST: torch.zeros(4, 32)}), "the first of its layer"),
        (lambda tensors: tensors.update({LAST: tensors[LAST].half()}), "the first of its layer"),
    ],
    ids=["a matrix is missing", "another shape", "another dtype"],
)
def test_experts_that_make_no_tensor_are_refused(change: Any, said: str, tmp_path: Path) -> None:
    models = changed("Qwen3-VL-MoE (hub)", tmp_path, change)
    for command in (compute_delta, merge):
        config: Any = DeltaConfig() if command is compute_delta else MergeConfig(method="linear")
        with pytest.raises(CheckpointError, match=said):
            command(config, **models, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fewer_experts_are_refused_with_both_shapes(tmp_path: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for own in [own for own in tensors if ".experts.2." in own]:
            del tensors[own]

    with pytest.raises(CheckpointError, match=r"shape \[2, .*\] does not fit \[3, "):
        plan(DeltaConfig(), **changed("Qwen3-VL-MoE (hub)", tmp_path, drop))


def test_eight_bits_are_not_put_into_another_layout(tmp_path: Path) -> None:
    models = references("Qwen3-VL-MoE (hub)")
    compute_delta(DeltaConfig(dtype="int8"), **models, out=tmp_path / "delta")
    added = {**models, "expert": None, "base": None}
    with pytest.raises(CheckpointError, match=r"experts.* is in 8 bits or factors, .*; compute Δ whole"):
        merge(MergeConfig(method="delta", weights=(1.0, 1.0)), **added, delta=tmp_path / "delta", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_on_experts_stored_otherwise_is_refused(tmp_path: Path) -> None:
    models = references("Qwen3-VL-MoE (hub)")
    base = transformers.AutoModelForCausalLM.from_pretrained(models["expert"])
    get_peft_model(base, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="an adapter on a mixture of experts is not understood; merge it"):
        opened(f"{models['expert']}+{tmp_path / 'adapter'}")


def test_what_is_no_parameter_at_run_time_is_refused_before_a_delta_is_made(tmp_path: Path) -> None:
    # GLM's correction of the router is a buffer: on disk a tensor like any other.
    config = DeltaConfig(modules=("mlp", "re:e_score_correction_bias"))
    with pytest.raises(CheckpointError, match="e_score_correction_bias' cannot be guided: at run time"):
        plan(config, **references("GLM-4.5V"))


def test_a_model_that_transformers_does_not_know_is_warned_of(tmp_path: Path) -> None:
    models = references("GLM-4.5V")
    folder = tmp_path / "vlm"
    folder.mkdir()
    (folder / WEIGHTS).write_bytes((Path(str(models["vlm"])) / WEIGHTS).read_bytes())
    config = json.loads((Path(str(models["vlm"])) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nobody_knows"}))
    todo = plan(DeltaConfig(), **{**models, "vlm": str(folder)})
    assert any("unknown to transformers" in warning for warning in todo.warnings)
    assert not any("unknown" in warning for warning in plan(DeltaConfig(), **models).warnings)
