"""The merging baselines: formulas against peft and float64, checkpoints that load, and nothing dropped in silence."""

import importlib
import math
import shutil
from pathlib import Path
from types import ModuleType
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from drift.config.models import MergeConfig, MergeMethod
from drift.ground.artifacts import read_json, read_provenance
from drift.ground.errors import CheckpointError, ConfigError, DataError, DriftError
from drift.weights.merging.formulas import disjoint_sum, elect_signs, linear, task_arithmetic
from drift.weights.merging.merge import merge
from drift.weights.merging.plan import plan_merge
from drift.weights.merging.sparse import drop, trim, trimmer
from drift.weights.merging.tensors import Job, merge_pieces, merge_tensor
from drift.weights.modeling import load_vlm
from drift.weights.naming.layout import module_of
from drift.weights.storage.checkpoints import Checkpoint, fingerprint
from drift.weights.storage.files import INDEX
from drift.weights.storage.headers import read_header
from drift.weights.storage.streaming import tensor_generator
from tests.tiny_models import Family, tiny_family, tiny_llm, tiny_vlm

METHODS = [method for method in get_args(MergeMethod) if method != "delta"]  # which has no expert
WEIGHED = [method for method in METHODS if method != "frank"]  # which computes its weights
NAME = "layers.1.mlp.up_proj.weight"
VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
usual = st.floats(-10, 10, width=32).map(lambda value: value if abs(value) > 1e-30 else 0.0)  # half of it is exact
floats = st.lists(usual, min_size=1, max_size=30)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def oracle() -> ModuleType:
    """peft's merges; imported late, since it needs the torchvision that `tiny_models` has made importable."""
    return importlib.import_module("peft.utils.merge_utils")


@pytest.fixture
def triple() -> tuple[Tensor, Tensor, Tensor]:
    """One tensor of φ_VL, φ_reason and φ_base."""
    generator = torch.Generator().manual_seed(0)
    base, *moves = (torch.randn(48, 32, generator=generator) for _ in range(3))
    return base + 0.1 * moves[0], base + 0.3 * moves[1], base


def section(method: str, **settings: object) -> MergeConfig:
    return MergeConfig.model_validate({"method": method, "keep_first": 1, **settings})


# --------------------------------------------------------------------------------------------- formulas


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 0.9])
def test_ties_is_pefts_bit_for_bit(oracle: ModuleType, triple: tuple[Tensor, ...], density: float) -> None:
    vlm, expert, base = triple
    expected = base + oracle.ties([vlm - base, expert - base], torch.tensor([1.6, 0.2]), density)
    config = section("ties", weights=(1.6, 0.2), density=density)
    assert torch.equal(merge_tensor(config, NAME, vlm, expert, base), expected)


@pytest.mark.parametrize("method", ["dare_ties", "dare_linear"])
def test_dare_with_rescale_is_pefts_bit_for_bit_under_the_same_mask(
    oracle: ModuleType, triple: tuple[Tensor, ...], method: str
) -> None:
    vlm, expert, base = triple
    with torch.random.fork_rng():
        torch.manual_seed(tensor_generator(7, NAME).initial_seed())
        merged = getattr(oracle, method)([vlm - base, expert - base], torch.tensor([1.6, 0.2]), 0.2)
    config = section(method, weights=(1.6, 0.2), density=0.2, seed=7)
    assert torch.equal(merge_tensor(config, NAME, vlm, expert, base), base + merged)


MERGEKIT = read_json(Path(__file__).parents[2] / "golden" / "mergekit.json")
"""Results of mergekit itself; `tests/golden/mergekit_oracle.py` made them."""


@pytest.mark.parametrize("case", ["linear", "task_arithmetic", "both whole", "slerp"])
def test_linear_task_arithmetic_and_slerp_are_mergekits(case: str) -> None:
    vlm, expert, base = (torch.tensor(MERGEKIT[name]) for name in ("vlm", "expert", "base"))
    oracle = MERGEKIT["cases"][case]
    config = section(oracle["method"], weights=oracle["weights"])
    merged = merge_tensor(config, NAME, vlm, expert, base if config.needs_base else None)
    torch.testing.assert_close(merged, torch.tensor(oracle["merged"]), rtol=0, atol=1e-6)


def test_dare_without_rescale_is_mergekits_under_the_same_mask() -> None:
    vlm, expert, base = (torch.tensor(MERGEKIT[name]) for name in ("vlm", "expert", "base"))
    generator = torch.Generator().manual_seed(MERGEKIT["seed"])
    tasks = [drop(task, 0.5, generator, rescale=False) for task in (vlm - base, expert - base)]
    oracle = torch.tensor(MERGEKIT["cases"]["dare_linear, published"]["merged"])
    torch.testing.assert_close(base + linear(tasks, (1.6, 0.2)), oracle, rtol=0, atol=1e-6)


def test_dare_without_rescale_is_the_formula_with_the_same_mask(triple: tuple[Tensor, ...]) -> None:
    vlm, expert, base = triple
    generator = tensor_generator(0, NAME)
    masks = [torch.bernoulli(torch.full_like(vlm, 0.2), generator=generator) for _ in range(2)]
    expected = base + (1.6 * (vlm - base) * masks[0] + 0.2 * (expert - base) * masks[1])
    config = section("dare_linear", weights=(1.6, 0.2), density=0.2, rescale=False)
    assert torch.allclose(merge_tensor(config, NAME, vlm, expert, base), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weights", [(0.9, 0.1), (1.0, 1.0), (1.6, 0.2), (0.0, 1.0)])
def test_linear_and_task_arithmetic_agree_with_float64(
    triple: tuple[Tensor, ...], weights: tuple[float, float]
) -> None:
    vlm, expert, base = (tensor.double().numpy() for tensor in triple)
    plain = weights[0] * vlm + weights[1] * expert
    arithmetic = base + weights[0] * (vlm - base) + weights[1] * (expert - base)
    np.testing.assert_allclose(linear(triple[:2], weights).numpy(), plain, rtol=0, atol=2e-6)
    np.testing.assert_allclose(task_arithmetic(triple[:2], triple[2], weights).numpy(), arithmetic, rtol=0, atol=2e-6)


def test_trimming_worked_by_hand() -> None:
    # ⌊0.5 · 5⌋ = 2 elements of largest magnitude stay: −4 and 3.
    assert trim(torch.tensor([1.0, -4.0, 2.0, 3.0, 0.0]), 0.5).tolist() == [0, -4, 0, 3, 0]


def test_of_equal_magnitudes_at_the_threshold_the_first_stay() -> None:
    # ⌊0.6 · 5⌋ = 3 of magnitudes 2, 3, 2, 2, 1: 3 and the first two of the three 2s.
    assert trim(torch.tensor([2.0, 3.0, -2.0, 2.0, 1.0]), 0.6).tolist() == [2, 3, -2, 0, 0]
    assert trim(torch.zeros(4), 0.5).tolist() == [0, 0, 0, 0]
    assert trim(torch.tensor([1.0, 2.0]), 0.2).tolist() == [0, 0]  # ⌊0.4⌋ = 0


@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trimming_in_pieces_is_trimming_at_once(density: float, dtype: torch.dtype) -> None:
    # bfloat16 has many equal magnitudes; topk is the oracle for which values stay.
    task = torch.randn(50_000, generator=torch.Generator().manual_seed(0)).to(dtype).float()
    trimmed = trimmer(lambda: iter(task.split(777)), task.numel(), density)
    whole = torch.cat([trimmed(piece) for piece in task.split(777)])
    assert torch.equal(whole, trim(task, density))
    kept = task.abs().topk(int(density * task.numel())).values
    assert torch.equal(whole[whole != 0].abs().sort(descending=True).values, kept)


@pytest.mark.parametrize("method", WEIGHED)
def test_a_tensor_of_many_pieces_is_merged_as_one(method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    base, *moves = (torch.randn(30_000, generator=generator) for _ in range(3))
    config = section(method, weights=(0.8, 0.2))
    tensors = [base + 0.1 * moves[0], base + 0.3 * moves[1], base][: 3 if config.needs_base else 2]
    shaped = [tensor.view(30, 1000) for tensor in tensors]
    whole = merge_tensor(config, NAME, *shaped, *[None] * (3 - len(tensors))).flatten()
    read = lambda: zip(*(tensor.split(999) for tensor in tensors), strict=True)  # noqa: E731
    pieces = list(merge_pieces(Job(config, NAME, (30, 1000), config.weights, read)))
    assert torch.equal(torch.cat([merged for _, merged in pieces]), whole)
    assert torch.equal(torch.cat([vlm for vlm, _ in pieces]), tensors[0])


def test_ties_worked_by_hand() -> None:
    # t₁ = (4, −1, 2), t₂ = (−1, −3, 0); signs of the sums 3, −4, 2: +, −, +.
    # Agreeing: t₁ | t₁, t₂ | t₁ (a zero agrees with nothing). w = (1, 2): 4/1, (−1 − 6)/2, 2/1.
    tasks = torch.tensor([[4.0, -1.0, 2.0], [-1.0, -3.0, 0.0]])
    agreeing = elect_signs(tasks)
    assert agreeing.tolist() == [[True, True, True], [False, True, False]]
    assert disjoint_sum(tasks, agreeing, (1.0, 2.0)).tolist() == [4.0, -3.5, 2.0]


def test_layer_swap_keeps_the_first_layers_and_blends_the_rest_and_the_final_norm() -> None:
    vlm, expert = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])
    config = section("layer_swap", keep_first=6)
    for name in ("layers.0.mlp.up_proj.weight", "layers.5.input_layernorm.weight"):
        assert torch.equal(merge_tensor(config, name, vlm, expert, None), vlm)
    for name in ("layers.6.mlp.up_proj.weight", "layers.10.self_attn.q_proj.bias", "norm.weight"):
        assert torch.equal(merge_tensor(config, name, vlm, expert, None), 0.9 * vlm + 0.1 * expert)


def test_the_mask_of_dare_depends_on_seed_and_name_alone() -> None:
    task = torch.ones(2000)
    masks = {key: drop(task, 0.2, tensor_generator(*key), rescale=False) for key in [(0, "a"), (0, "b"), (1, "a")]}
    assert torch.equal(masks[0, "a"], drop(task, 0.2, tensor_generator(0, "a"), rescale=False))
    assert not torch.equal(masks[0, "a"], masks[0, "b"])
    assert not torch.equal(masks[0, "a"], masks[1, "a"])


def test_rescaling_keeps_the_mean_and_its_absence_loses_four_fifths() -> None:
    # 100,000 ones at density 0.2: the mean's standard error is √(0.2 · 0.8 / 100,000) / 0.2 = 0.006.
    task = torch.ones(100_000)
    assert drop(task, 0.2, tensor_generator(0, "a"), rescale=True).mean().item() == pytest.approx(1, abs=0.03)
    assert drop(task, 0.2, tensor_generator(0, "a"), rescale=False).mean().item() == pytest.approx(0.2, abs=0.006)


@given(floats, st.floats(0.1, 1))
@settings(deadline=None)
def test_trimming_keeps_the_share_asked_for_and_only_the_largest(values: list[float], density: float) -> None:
    task = torch.tensor(values)
    kept = trim(task, density)
    count = int(density * len(values)) if density < 1 else len(values)
    assert int((kept != 0).sum()) <= count
    assert torch.all((kept == 0) | (kept == task))
    assert torch.equal(kept.abs().sort().values[len(values) - count :], task.abs().sort().values[len(values) - count :])


@given(floats)
@settings(deadline=None)
def test_ties_of_one_task_and_nothing_at_density_one_is_that_task(values: list[float]) -> None:
    task = torch.tensor(values)
    tasks = torch.stack([trim(task, 1.0), torch.zeros_like(task)])
    assert torch.equal(disjoint_sum(tasks, elect_signs(tasks), (1.0, 1.0)), task)


@given(floats, st.sampled_from(WEIGHED))
@settings(deadline=None)
def test_merging_a_model_with_itself_at_full_density_gives_it_back(values: list[float], method: str) -> None:
    # Both tasks are 0, so TIES and DARE return the base; the linear ones weigh to 0.5 + 0.5 = 1.
    model = torch.tensor([values])
    config = section(method, density=1, weights=(0.5, 0.5))
    assert torch.equal(merge_tensor(config, NAME, model, model, model if config.needs_base else None), model)


@given(floats, st.integers(0, 2**31))
@settings(deadline=None)
def test_dare_at_density_one_drops_nothing(values: list[float], seed: int) -> None:
    assert torch.equal(drop(torch.tensor(values), 1.0, tensor_generator(seed, "a"), rescale=True), torch.tensor(values))


# ------------------------------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize("method", METHODS)
def test_a_merged_model_loads_and_all_but_the_decoder_is_the_vlms(family: Family, tmp_path: Path, method: str) -> None:
    out = tmp_path / "merged"
    report = merge(section(method, threshold=0), **family.references, out=out)
    before, after = load_file(family.vlm / "model.safetensors"), load_file(out / "model.safetensors")
    assert list(before) == list(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    # Two layers of 7 weights, 3 biases and 2 norms, and the final norm.
    decoder = {
        name for name in before if name.startswith("model.") and module_of(name.removeprefix("model.")) != "embed"
    }
    assert len(decoder) == 25
    outside = {
        "layer_swap": {name for name in decoder if ".layers.0." in name},
        "frank": {"model.norm.weight"},
        **{key: {name for name in decoder if before[name].dim() == 1} for key in ("frism", "ip_merging")},
    }.get(method, set())
    assert changed == decoder - outside
    assert report.merged == (25 if method == "layer_swap" else len(changed))
    model = load_vlm(out)
    assert torch.equal(model.model.language_model.norm.weight, after["model.norm.weight"])


def test_a_merged_model_has_no_missing_and_no_unexpected_keys(family: Family, tmp_path: Path) -> None:
    from transformers import Qwen2_5_VLForConditionalGeneration

    merge(section("linear"), **family.references, out=tmp_path / "merged")
    _, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["task_arithmetic", "linear"])
def test_weights_one_and_zero_reproduce_the_vlm_bit_for_bit(tmp_path: Path, dtype: torch.dtype, method: str) -> None:
    family = tiny_family(tmp_path, dtype=dtype)
    report = merge(section(method, weights=(1, 0)), **family.references, out=tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == (family.vlm / "model.safetensors").read_bytes()
    assert report.relative_change == 0


def test_the_output_has_the_vlms_dtype_whatever_the_experts(tmp_path: Path) -> None:
    vlm = tiny_vlm(tmp_path / "vlm", dtype=torch.bfloat16)
    expert = tiny_llm(tmp_path / "expert", fine_tune=1)
    merge(section("linear"), expert=str(expert), vlm=str(vlm), base=None, out=tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    name = "model.layers.0.mlp.up_proj.weight"
    a, b = load_file(vlm / "model.safetensors")[name], load_file(expert / "model.safetensors")[name]
    assert torch.equal(merged[name], (0.9 * a.float() + 0.1 * b).bfloat16())


def test_shards_index_and_headers_stay_as_they_were(tmp_path: Path, family: Family) -> None:
    vlm = tiny_vlm(tmp_path / "vlm", shard_size="40KB")
    merge(section("ties"), **{**family.references, "vlm": str(vlm)}, out=tmp_path / "sharded")
    merge(section("ties"), **family.references, out=tmp_path / "single")
    assert (tmp_path / "sharded" / INDEX).read_bytes() == (vlm / INDEX).read_bytes()
    for file in Checkpoint(vlm).files:
        size = read_header(file).size_bytes
        assert (tmp_path / "sharded" / file.name).read_bytes()[:size] == file.read_bytes()[:size]
    sharded, single = Checkpoint(tmp_path / "sharded"), Checkpoint(tmp_path / "single")
    assert all(torch.equal(sharded.tensor(name), single.tensor(name)) for name in single.tensors)


def test_side_files_come_along_and_other_weights_do_not(family: Family, tmp_path: Path) -> None:
    vlm = Path(shutil.copytree(family.vlm, tmp_path / "vlm"))
    for name in (
        "chat_template.jinja",
        "processor_config.json",
        "merges.txt",
        "spk_dict.pt",
        "mtp.safetensors",
        "additional_chat_templates/tool_use.jinja",
        "custom_generate/generate.py",
        *(left := ["pytorch_model-00001-of-00002.bin", "original/consolidated.00.pth", "model.fp16.safetensors"]),
        "speech_tokenizer/model.safetensors",
        "adapter/adapter_config.json",
        "earlier/provenance.json",
        "earlier/config.json",
        "optimizer.pt",
        ".hidden",
        "provenance.json",
    ):
        (vlm / name).parent.mkdir(exist_ok=True)
        (vlm / name).write_text('{"schema": 1}')
    report = merge(section("linear"), **{**family.references, "vlm": str(vlm)}, out=tmp_path / "merged")
    (warning,) = (line for line in report.warnings if "not copied" in line)
    named = {*left, ".hidden", "optimizer.pt", "original/ (1 files)", "adapter/ (1 files)", "earlier/ (2 files)"} - {
        "original/consolidated.00.pth"
    }
    assert set(warning.removeprefix(f"{vlm}: not copied: ").split(", ")) == named
    files = (path for path in (tmp_path / "merged").rglob("*") if path.is_file())
    assert {path.relative_to(tmp_path / "merged").as_posix() for path in files} == {
        "additional_chat_templates/tool_use.jinja",
        "chat_template.jinja",
        "config.json",
        "custom_generate/generate.py",
        "generation_config.json",
        "merge.json",
        "merges.txt",
        "model.safetensors",
        "mtp.safetensors",
        "processor_config.json",
        "provenance.json",
        "speech_tokenizer/model.safetensors",
        "spk_dict.pt",
    }


def test_the_recipe_and_the_provenance_lie_beside_the_weights(family: Family, tmp_path: Path) -> None:
    merge(section("dare_ties", rescale=False, seed=5), **family.references, out=tmp_path / "merged")
    recipe = read_json(tmp_path / "merged" / "merge.json")
    assert (recipe["method"], recipe["rescale"], recipe["seed"]) == ("dare_ties", False, 5)
    assert recipe["weights_sha256"]["base"] == fingerprint(family.base)
    assert len(recipe["merged"]) + len(recipe["copied"]) == len(Checkpoint(family.vlm).tensors)
    assert read_provenance(tmp_path / "merged")["original_vlm_sha256"] == fingerprint(family.vlm)


def test_a_merge_of_a_merge_still_names_the_original_vlm(family: Family, tmp_path: Path) -> None:
    merge(section("linear"), **family.references, out=tmp_path / "once")
    merge(section("linear"), **{**family.references, "vlm": str(tmp_path / "once")}, out=tmp_path / "twice")
    assert read_provenance(tmp_path / "twice")["original_vlm_sha256"] == fingerprint(family.vlm)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(family: Family, tmp_path: Path) -> None:
    for out, seed in (("one", 0), ("two", 0), ("three", 1)):
        merge(section("dare_linear", seed=seed), **family.references, out=tmp_path / out)
    files = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("one", "two", "three")]
    assert files[0] == files[1] != files[2]


def test_a_smaller_vocabulary_of_the_expert_does_not_matter(family: Family, tmp_path: Path) -> None:
    tables = {name: load_file(family.expert / "model.safetensors")[name][:60].clone() for name in VOCABULARY}
    smaller = {name.replace(".", "__"): table for name, table in tables.items()}
    expert = edited(family.expert, tmp_path / "expert", **smaller)
    report = merge(section("linear"), **{**family.references, "expert": expert}, out=tmp_path / "merged")
    assert report.merged == 25


# -------------------------------------------------------------------------------------------- bad input


def refused(family: Family, out: Path, error: type[DriftError], config: MergeConfig, **models: str | None) -> str:
    """The one line with which the merge is refused; nothing is left behind."""
    with pytest.raises(error) as raised:
        merge(config, **{**family.references, **models}, out=out)
    assert not out.exists()
    assert not out.with_name(out.name + ".partial").exists()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("method", [method for method in METHODS if section(method).needs_base])
def test_methods_over_task_vectors_need_a_base(family: Family, tmp_path: Path, method: str) -> None:
    message = refused(family, tmp_path / "merged", ConfigError, section(method), base=None)
    assert message.startswith(f"method: '{method}' needs models.base")


def test_a_layer_swap_that_swaps_nothing_is_refused(family: Family, tmp_path: Path) -> None:
    message = refused(family, tmp_path / "merged", ConfigError, section("layer_swap", keep_first=2))
    assert message == "keep_first: 2, but the decoder has 2 layers; none is merged"


@pytest.mark.parametrize("overrides", [{"num_hidden_layers": 1}, {"hidden_size": 64}, {"intermediate_size": 40}])
def test_an_expert_of_other_shape_is_refused(family: Family, tmp_path: Path, overrides: dict[str, int]) -> None:
    expert = str(tiny_llm(tmp_path / "expert", **overrides))
    assert "not of one base" in refused(family, tmp_path / "merged", CheckpointError, section("linear"), expert=expert)


def test_a_base_of_other_shape_is_refused(family: Family, tmp_path: Path) -> None:
    base = str(tiny_llm(tmp_path / "base", num_hidden_layers=3))
    assert "not of one base" in refused(family, tmp_path / "merged", CheckpointError, section("ties"), base=base)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_ties", "frank"])
def test_an_unrelated_base_is_refused_as_by_delta(family: Family, tmp_path: Path, method: str) -> None:
    base = str(tiny_llm(tmp_path / "base", seed=99))
    message = refused(family, tmp_path / "merged", CheckpointError, section(method), base=base)
    assert message.startswith(f"{family.expert} and {base}: mean cosine")
    report = merge(section(method, force=True), **{**family.references, "base": base}, out=tmp_path / "merged")
    assert len([line for line in report.warnings if "mean cosine of the projections with" in line]) == 2


def test_a_base_of_the_expert_alone_is_refused_too(tmp_path: Path) -> None:
    ours, other = tiny_family(tmp_path / "ours"), tiny_vlm(tmp_path / "other", seed=99)
    models = {**ours.references, "vlm": str(other)}
    with pytest.raises(CheckpointError, match="not fine-tunes of one base"):
        merge(section("ties"), **models, out=tmp_path / "merged")


def test_a_method_without_a_base_does_not_look_at_it(family: Family, tmp_path: Path) -> None:
    base = str(tiny_llm(tmp_path / "base", seed=99))
    assert merge(section("linear"), **{**family.references, "base": base}, out=tmp_path / "merged").warnings == ()


def edited(source: Path, folder: Path, **changes: Tensor | None) -> str:
    """A copy of a model directory with tensors (`__` for a dot) replaced, added, or removed."""
    copy = Path(shutil.copytree(source, folder))
    tensors = load_file(copy / "model.safetensors")
    for key, tensor in changes.items():
        name = key.replace("__", ".")
        tensors.pop(name, None)
        tensors |= {} if tensor is None else {name: tensor}
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    return str(copy)


def test_a_tensor_that_the_expert_lacks_is_named(family: Family, tmp_path: Path) -> None:
    expert = edited(family.expert, tmp_path / "expert", model__layers__1__self_attn__q_proj__bias=None)
    message = refused(family, tmp_path / "merged", CheckpointError, section("linear"), expert=expert)
    assert "'model.layers.1.self_attn.q_proj.bias' has no partner in the expert" in message


def test_a_tensor_that_the_vlm_lacks_is_named(family: Family, tmp_path: Path) -> None:
    expert = edited(family.expert, tmp_path / "expert", model__layers__1__self_attn__q_norm__weight=torch.ones(8))
    message = refused(family, tmp_path / "merged", CheckpointError, section("linear"), expert=expert)
    assert "'layers.1.self_attn.q_norm.weight': the model has no tensor of this name" in message


def test_quantised_tensors_are_refused(family: Family, tmp_path: Path) -> None:
    eight_bits = torch.zeros(48, 32, dtype=torch.int8)
    expert = edited(family.expert, tmp_path / "expert", model__layers__1__mlp__up_proj__weight=eight_bits)
    assert "is I8" in refused(family, tmp_path / "merged", CheckpointError, section("linear"), expert=expert)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_are_named_and_leave_nothing(family: Family, tmp_path: Path, value: float) -> None:
    expert = edited(family.expert, tmp_path / "expert", model__norm__weight=torch.full((32,), value))
    message = refused(family, tmp_path / "merged", CheckpointError, section("linear"), expert=expert)
    assert message.startswith(f"{expert}/model.safetensors: 'model.norm.weight' holds NaN or infinity")


@pytest.mark.parametrize("name", ["lm_head.weight", "model.visual.patch_embed.proj.weight"])
def test_nan_in_what_is_copied_is_named_too(family: Family, tmp_path: Path, name: str) -> None:
    own = next(one for one in load_file(family.vlm / "model.safetensors") if one.endswith(name.removeprefix("model.")))
    poisoned = load_file(family.vlm / "model.safetensors")[own]
    poisoned.view(-1)[-1] = math.nan
    vlm = edited(family.vlm, tmp_path / "vlm", **{own.replace(".", "__"): poisoned})
    message = refused(family, tmp_path / "merged", CheckpointError, section("linear"), vlm=vlm)
    assert message.startswith(f"{vlm}/model.safetensors: '{own}' holds NaN or infinity")


def test_a_merge_that_overflows_the_files_dtype_is_refused(tmp_path: Path) -> None:
    family = tiny_family(tmp_path / "family", dtype=torch.float16)
    large = torch.full((32,), 6e4, dtype=torch.float16)  # the largest float16 is 65,504
    expert = edited(family.expert, tmp_path / "expert", model__norm__weight=large)
    message = refused(family, tmp_path / "merged", CheckpointError, section("linear", weights=(1, 2)), expert=expert)
    assert message == "'norm.weight': the merge overflows F16; give smaller weights"


def test_an_output_folder_in_use_is_not_overwritten(family: Family, tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "precious").touch()
    with pytest.raises(DataError, match="exists already"):
        merge(section("linear"), **family.references, out=tmp_path / "merged")
    assert [path.name for path in (tmp_path / "merged").iterdir()] == ["precious"]


def test_missing_models_are_named(family: Family, tmp_path: Path) -> None:
    for role in ("expert", "vlm", "base"):
        message = refused(family, tmp_path / "merged", CheckpointError, section("ties"), **{role: "/nowhere/model"})
        assert message.startswith("'/nowhere/model': no such directory")


def test_a_plan_names_every_merged_tensor_once(family: Family) -> None:
    todo = plan_merge(section("ties"), **family.references)
    assert len(set(todo.canonical.values())) == len(todo.canonical) == 25
    assert not {"lm_head.weight", "embed_tokens.weight"} & set(todo.canonical.values())
