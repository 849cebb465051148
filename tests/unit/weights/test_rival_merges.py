"""Newer merges than the paper's baselines: each formula by hand or against mergekit, then its limits."""

import functools
import importlib
import math
import shutil
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from drift.config.models import DeltaConfig, MergeConfig, MergeMethod, merge_preset
from drift.config.section import validate
from drift.ground.artifacts import read_json, read_provenance
from drift.ground.errors import CheckpointError, ConfigError, PriorError
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import load_delta, projection
from drift.weights.merging.formulas import disjoint_sum, elect_signs, linear, slerp_factors
from drift.weights.merging.frank import frank_weights
from drift.weights.merging.merge import MergeReport, merge
from drift.weights.merging.plan import plan_merge, weights_by_name
from drift.weights.merging.sparse import drop_by_magnitude, keep_probabilities, whole_rows
from drift.weights.merging.spectra import gated, projected
from drift.weights.merging.tensors import Job, merge_pieces, merge_tensor
from drift.weights.storage.checkpoints import fingerprint
from drift.weights.storage.streaming import pieces, tensor_generator
from tests.tiny_models import Family, tiny_family, tiny_llm

NAME = "layers.1.mlp.up_proj.weight"
MERGEKIT = read_json(Path(__file__).parents[2] / "golden" / "mergekit.json")
"""Results of mergekit itself; `tests/golden/mergekit_oracle.py` made them."""


def refusal(**section: object) -> str:
    """The one line with which a section is refused."""
    with pytest.raises(ConfigError) as raised:
        validate(MergeConfig, section, where="merge")
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture
def triple() -> tuple[Tensor, Tensor, Tensor]:
    """One tensor of φ_VL, φ_reason and φ_base."""
    generator = torch.Generator().manual_seed(0)
    base, *moves = (torch.randn(48, 32, generator=generator) for _ in range(3))
    return base + 0.1 * moves[0], base + 0.3 * moves[1], base


# ------------------------------------------------------------------------------------------------- slerp


def test_slerp_between_orthogonal_tensors_worked_by_hand() -> None:
    # θ = 90°: at a third of the way sin 60° and sin 30°, whatever the lengths.
    assert slerp_factors(2, 5, 0, 1 / 3) == pytest.approx((math.sqrt(3) / 2, 0.5))
    config = MergeConfig(method="slerp", weights=(2 / 3, 1 / 3))
    merged = merge_tensor(config, NAME, torch.tensor([2.0, 0.0]), torch.tensor([0.0, 5.0]), None)
    torch.testing.assert_close(merged, torch.tensor([math.sqrt(3), 2.5]))


@pytest.mark.parametrize(
    ("norms", "dot"), [((2.0, 3.0), 6.0), ((2.0, 3.0), -6.0), ((0.0, 3.0), 0.0), ((0.0, 0.0), 0.0)]
)
def test_slerp_of_tensors_on_one_line_is_linear(norms: tuple[float, float], dot: float) -> None:
    assert slerp_factors(*norms, dot, 0.25) == (0.75, 0.25)


@given(st.floats(0, 1), st.floats(0.05, 3))
def test_slerp_of_unit_vectors_stays_on_the_sphere(t: float, angle: float) -> None:
    first, second = slerp_factors(1, 1, math.cos(angle), t)
    assert first**2 + second**2 + 2 * first * second * math.cos(angle) == pytest.approx(1, abs=1e-3)


def test_slerp_wants_weights_that_sum_to_one() -> None:
    assert refusal(method="slerp", weights=[1, 1]).startswith("merge: weights: slerp's are 1 − t and t")


# ------------------------------------------------------------------------------------------------- della


def test_the_chance_to_be_kept_rises_with_the_rank_in_its_row_worked_by_hand() -> None:
    # Magnitudes 3, 1, 2 rank 2, 0, 1: 0.5 − 0.2 + rank / 2 · 0.4. Of equal ones the first ranks lowest.
    rows = torch.tensor([[3.0, -1.0, 2.0], [4.0, 4.0, 4.0]])
    chances = keep_probabilities(rows, 0.5, 0.2)
    torch.testing.assert_close(chances, torch.tensor([[0.7, 0.3, 0.5], [0.3, 0.5, 0.7]]))


def test_what_della_keeps_is_divided_by_its_own_chance() -> None:
    rows = torch.tensor([[3.0, -1.0, 2.0]] * 64)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    whole, plain = (
        drop_by_magnitude(rows, 0.5, 0.2, generator, rescale=rescale)
        for generator, rescale in zip(generators, (True, False), strict=True)
    )
    torch.testing.assert_close(whole, plain / torch.tensor([0.7, 0.3, 0.5]))
    assert all(0 < int((column != 0).sum()) < 64 for column in plain.T)


def test_rescaled_della_keeps_the_mean_and_the_large_more_often() -> None:
    # 20,000 rows; the rarest, kept with 0.05, has a standard error of √(0.05 · 0.95 / 20,000) / 0.05 = 0.031.
    rows = torch.tensor([[1.0, 2.0, 3.0]]).expand(20_000, 3)
    kept = drop_by_magnitude(rows, 0.2, 0.15, torch.Generator().manual_seed(0), rescale=True)
    torch.testing.assert_close(kept.mean(dim=0) / rows[0], torch.ones(3), rtol=0, atol=0.12)
    shares = (kept != 0).float().mean(dim=0)
    torch.testing.assert_close(shares, torch.tensor([0.05, 0.2, 0.35]), rtol=0, atol=0.012)


@pytest.mark.parametrize("case", ["della_linear", "della"])
def test_della_is_mergekits_under_the_same_mask(case: str) -> None:
    # Without rescaling, for which mergekit goes by the L1 norm of the whole tensor and the paper by each chance.
    vlm, expert, base = (torch.tensor(MERGEKIT[name]) for name in ("vlm", "expert", "base"))
    oracle, generator = MERGEKIT["cases"][case], torch.Generator().manual_seed(MERGEKIT["seed"])
    tasks = [drop_by_magnitude(model - base, 0.5, 0.2, generator, rescale=False) for model in (vlm, expert)]
    stacked = torch.stack(tasks)
    joined = linear(tasks, oracle["weights"])
    if case == "della":
        joined = disjoint_sum(stacked, elect_signs(stacked), oracle["weights"])
    torch.testing.assert_close(base + joined, torch.tensor(oracle["merged"]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("method", "like"), [("della", "ties"), ("della_linear", "task_arithmetic")])
def test_della_that_keeps_all_is_ties_without_trimming_or_task_arithmetic(
    triple: tuple[Tensor, ...], method: str, like: str
) -> None:
    settings = {"density": 1, "weights": (0.7, 0.4)}
    merged, plain = (
        merge_tensor(MergeConfig.model_validate({"method": name, **settings}), NAME, *triple) for name in (method, like)
    )
    torch.testing.assert_close(merged, plain, rtol=0, atol=1e-6)


def test_della_depends_on_seed_and_name_and_treats_a_vector_as_one_row(triple: tuple[Tensor, ...]) -> None:
    def merged(seed: int, name: str) -> Tensor:
        config = MergeConfig(method="della", density=0.5, seed=seed)
        return merge_tensor(config, name, *(tensor.flatten() for tensor in triple))

    assert torch.equal(merged(0, "a"), merged(0, "a"))
    assert not torch.equal(merged(0, "a"), merged(1, "a"))
    assert not torch.equal(merged(0, "a"), merged(0, "b"))
    one_row = MergeConfig(method="della", density=0.5)
    as_matrix = merge_tensor(one_row, "a", *(tensor.reshape(1, -1) for tensor in triple))
    assert torch.equal(merged(0, "a"), as_matrix.flatten())


@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 20))
@settings(deadline=None)
def test_stretches_are_cut_anew_into_whole_rows(rows: int, width: int, stretch: int) -> None:
    matrix = torch.arange(rows * width)
    cut = [tensors[0] for tensors in whole_rows(((part,) for part in matrix.split(stretch)), width)]
    assert all(len(part) % width == 0 for part in cut)
    assert torch.equal(torch.cat(cut), matrix)


@pytest.mark.parametrize(("density", "epsilon"), [(0.2, 0.2), (0.9, 0.15), (0.5, 0.6)])
def test_a_window_of_chances_outside_zero_and_one_is_refused(density: float, epsilon: float) -> None:
    line = refusal(method="della", density=density, epsilon=epsilon)
    assert line == f"merge: epsilon: density ± epsilon must lie between 0 and 1 (got {density} ± {epsilon})"
    assert MergeConfig(method="della", density=1, epsilon=epsilon).density == 1


@pytest.mark.parametrize("method", ["slerp", "della", "della_linear", "frank", "frism", "ip_merging", "delta"])
def test_the_published_preset_has_no_settings_of_what_was_not_published(method: str) -> None:
    with pytest.raises(ConfigError, match=f"preset: br2v published no '{method}'"):
        merge_preset("br2v", method)


# ------------------------------------------------------------------------------------------------- frank


def test_frank_without_a_prior_weighs_by_squared_norms_worked_by_hand() -> None:
    # 4 / (4 + 1) and 1 / 5; a layer that only the expert changed is the expert's, one that nobody did is φ_VL's.
    weights = frank_weights({0: (4, 1), 1: (0, 3), 2: (0, 0)}, None)
    assert weights == {0: (0.8, 0.2), 1: (0, 1), 2: (1, 0)}


def test_franks_prior_falls_with_the_layer_worked_by_hand() -> None:
    # α = ln 2: exp(−α l) = 1/2, 1/4, 1/8, so w_V = 4/7, 2/7, 1/7, and w_R the rest. Norms 1 and 2 in every layer:
    # 4/7 / (4/7 + 2 · 3/7) = 0.4; 2 / (2 + 10) = 1/6; 1 / (1 + 12) = 1/13.
    weights = frank_weights(dict.fromkeys((3, 5, 9), (1.0, 2.0)), math.log(2))
    assert [weights[layer][0] for layer in (3, 5, 9)] == pytest.approx([0.4, 1 / 6, 1 / 13])
    assert all(math.fsum(pair) == pytest.approx(1) for pair in weights.values())


def test_frank_takes_its_norms_over_whole_layers_and_leaves_the_final_norm(tmp_path: Path) -> None:
    family = tiny_family(tmp_path / "family")
    merge(MergeConfig(method="frank", decay=0.3), **family.references, out=tmp_path / "merged")
    vlm, expert, base, merged = (
        {key: value.double() for key, value in load_file(folder / "model.safetensors").items()}
        for folder in (family.vlm, family.expert, family.base, tmp_path / "merged")
    )
    inside = {layer: [name for name in expert if f"model.layers.{layer}." in name] for layer in (0, 1)}
    squares = {
        layer: tuple(sum(float(((model[name] - base[name]) ** 2).sum()) for name in names) for model in (vlm, expert))
        for layer, names in inside.items()
    }
    weights = frank_weights(squares, 0.3)
    for layer, names in inside.items():
        for name in names:
            expected = weights[layer][0] * vlm[name] + weights[layer][1] * expert[name]
            torch.testing.assert_close(merged[name], expected, rtol=0, atol=1e-6)
    assert torch.equal(merged["model.norm.weight"], vlm["model.norm.weight"])
    recipe = read_json(tmp_path / "merged" / "merge.json")
    assert recipe["merged"]["layers.1.mlp.up_proj.weight"] == pytest.approx(weights[1])


@pytest.mark.parametrize("given", [{"weights": [0.5, 0.5]}, {"parts": [{"layers": "0", "weights": [1, 0]}]}])
def test_frank_takes_no_weights(given: dict[str, object]) -> None:
    assert refusal(method="frank", **given).startswith("merge: weights: frank computes its own")


def test_frank_names_the_tensor_that_holds_nan(tmp_path: Path) -> None:
    family = tiny_family(tmp_path / "family")
    tensors = load_file(family.expert / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = math.nan
    save_file(tensors, family.expert / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"'model\.layers\.1\.mlp\.up_proj\.weight' holds NaN"):
        merge(MergeConfig(method="frank"), **family.references, out=tmp_path / "merged")


# ----------------------------------------------------------------------------------- frism, ip_merging


SHAPES = [(12, 7), (7, 12), (9, 9), (1, 5), (5, 1)]


def random(shape: tuple[int, int], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gates", [(1.0, 0.0), (0.9, 0.4, 0.1), (0.5,)])
def test_gates_scale_singular_values_as_torchs_svd_has_them(shape: tuple[int, int], gates: tuple[float, ...]) -> None:
    task = random(shape, 0)
    left, sigma, right = torch.linalg.svd(task.double(), full_matrices=False)
    scales = torch.tensor([gates[place * len(gates) // len(sigma)] for place in range(len(sigma))], dtype=torch.float64)
    torch.testing.assert_close(gated(task, gates).double(), (left * (scales * sigma)) @ right, rtol=0, atol=1e-5)


def test_gates_worked_by_hand() -> None:
    # σ = 3, 2, 1, 0.5: the first half keeps all, the second half a tenth.
    task = torch.diag(torch.tensor([1.0, 3.0, 0.5, 2.0]))
    torch.testing.assert_close(gated(task, (1.0, 0.1)), torch.diag(torch.tensor([0.1, 3.0, 0.05, 2.0])))


def test_frism_adds_the_gated_task_to_the_vlm(triple: tuple[Tensor, ...]) -> None:
    vlm, expert, base = triple
    config = MergeConfig(method="frism", weights=(1, 0.3), gates=(0.8, 0.2))
    expected = vlm + 0.3 * gated(expert - base, (0.8, 0.2))
    torch.testing.assert_close(merge_tensor(config, NAME, vlm, expert, base), expected, rtol=0, atol=1e-6)


def test_frism_before_its_training_is_task_arithmetic_of_half_the_weight(triple: tuple[Tensor, ...]) -> None:
    merged = merge_tensor(MergeConfig(method="frism", weights=(1, 0.4)), NAME, *triple)
    plain = merge_tensor(MergeConfig(method="task_arithmetic", weights=(1, 0.2)), NAME, *triple)
    torch.testing.assert_close(merged, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 3, 1024])
def test_the_projection_is_the_formula_over_torchs_svd(shape: tuple[int, int], rank: int) -> None:
    vlm, expert = random(shape, 1), random(shape, 2)
    (_, sigma_vlm, right_vlm), (left, sigma, right) = (svd(task, rank) for task in (vlm, expert))
    alike = (right_vlm * right).sum(dim=1).abs()
    space = torch.softmax(32 * alike, dim=0)[:, None] * right_vlm
    expected = sigma_vlm.sum() / sigma.sum() * (left * sigma) @ right @ space.T @ space
    torch.testing.assert_close(projected(vlm, expert, 0, rank).double(), expected, rtol=0, atol=1e-5)
    assert not projected(vlm, expert, min(1, float(alike.max()) + 1e-6), rank).any() or alike.max() > 1 - 1e-6


def svd(task: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    left, sigma, right = torch.linalg.svd(task.double(), full_matrices=False)
    return left[:, :rank], sigma[:rank], right[:rank]


def test_the_projection_worked_by_hand() -> None:
    # τ_V = diag(4, 2), τ_R = diag(1, 2) with rows swapped: right directions of τ_V are e₁, e₂, of τ_R e₂, e₁.
    # No direction of a rank is like the other's of that rank: nothing is merged. With τ_R = diag(2, 1) all are,
    # softmax(32, 32) = ½, so Qᵀ Q = ¼ I; Σσ_V / Σσ_R = 2: ½ τ_R.
    vlm = torch.diag(torch.tensor([4.0, 2.0]))
    assert not projected(vlm, torch.tensor([[0.0, 2.0], [1.0, 0.0]]), 0.4).any()
    expert = torch.diag(torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(projected(vlm, expert, 0.4), expert / 2)


def test_a_task_that_is_zero_adds_nothing(triple: tuple[Tensor, ...]) -> None:
    vlm, _, base = triple
    for config in (MergeConfig(method="ip_merging", weights=(1, 1), threshold=0), MergeConfig(method="frism")):
        merged = merge_tensor(config, NAME, vlm, base, base)
        expected = config.weights[0] * vlm + (1 - config.weights[0]) * base
        torch.testing.assert_close(merged, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["frism", "ip_merging"])
def test_nan_is_named_before_a_decomposition_fails_on_it(tmp_path: Path, method: str) -> None:
    family = tiny_family(tmp_path / "family")
    tensors = load_file(family.base / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = math.nan
    save_file(tensors, family.base / "model.safetensors", {"format": "pt"})
    config = MergeConfig.model_validate({"method": method, "gates": [1, 0]})
    with pytest.raises(CheckpointError, match=r"'model\.layers\.0\.mlp\.up_proj\.weight' holds NaN"):
        merge(config, **family.references, out=tmp_path / "merged")


@pytest.mark.parametrize("given", [{"gates": []}, {"gates": [1.2]}, {"threshold": 2}, {"decay": 0}])
def test_settings_out_of_range_are_refused(given: dict[str, object]) -> None:
    assert refusal(method="frism", **given).startswith(f"merge.{next(iter(given))}")


# ------------------------------------------------------------------------------------- weights by part


NAMES = [f"layers.{layer}.{name}" for layer in range(3) for name in ("self_attn.q_proj.weight", "mlp.up_proj.weight")]


def test_the_last_part_that_a_tensor_is_in_gives_its_weights() -> None:
    parts = [{"modules": ["attn"], "weights": [0.5, 0.5]}, {"layers": "1-2", "weights": [1, 0]}]
    parts.append({"modules": ["mlp"], "layers": "2", "weights": [0, 1]})
    config = MergeConfig.model_validate({"method": "linear", "parts": parts})
    weights = weights_by_name(config, [*NAMES, "norm.weight"])
    assert list(weights.values()) == [(0.5, 0.5), (0.9, 0.1), (1, 0), (1, 0), (1, 0), (0, 1), (0.9, 0.1)]


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ({"modules": ["re:q_norm"]}, "parts.0.modules: 're:q_norm' selects no tensor"),
        ({"layers": "1,7"}, "parts.0.layers: '1,7' names layer 7, but the decoder has layers 0-2"),
        ({"modules": ["norm"], "layers": "0"}, "parts.0.modules: 'norm' finds none of its names"),
    ],
)
def test_a_part_that_selects_nothing_is_an_error(part: dict[str, object], line: str) -> None:
    config = MergeConfig.model_validate({"method": "linear", "parts": [part | {"weights": [1, 0]}]})
    with pytest.raises(ConfigError) as raised:
        weights_by_name(config, [*NAMES, "norm.weight"])
    assert str(raised.value).startswith(line)


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ({"weights": [1, 0]}, "merge.parts.0: a part has modules, layers or both"),
        ({"module": ["attn"], "weights": [1, 0]}, "merge.parts.0.module: unknown key; did you mean 'modules'?"),
        ({"modules": ["head"], "weights": [1, 0]}, "merge.parts.0.modules.0: string should match pattern"),
        ({"modules": ["atn"], "weights": [1, 0]}, "merge.parts.0.modules.0: string should match pattern"),
        ({"layers": "a-b", "weights": [1, 0]}, "merge.parts.0.layers: 'a-b' is no layer or range"),
        ({"layers": "0"}, "merge.parts.0.weights: required, but not set"),
        ({"layers": "0", "weights": [0.5, 0.6]}, "merge: parts.0.weights: slerp's are 1 − t and t"),
    ],
)
def test_a_part_that_is_written_wrong_is_refused_on_one_line(part: dict[str, object], line: str) -> None:
    assert refusal(method="slerp", parts=[part]).startswith(line)


@pytest.mark.parametrize("method", [method for method in get_args(MergeMethod) if method not in ("frank", "delta")])
def test_every_method_merges_each_part_with_its_own_weights(tmp_path: Path, method: str) -> None:
    family = tiny_family(tmp_path / "family")
    whole = {"method": method, "density": 1, "keep_first": 0, "threshold": 0}
    other = {"modules": ["attn"], "layers": "1", "weights": [0.3, 0.7]}
    sections = {"plain": whole, "other": whole | {"weights": [0.3, 0.7]}, "parts": whole | {"parts": [other]}}
    for name, section in sections.items():
        merge(MergeConfig.model_validate(section), **family.references, out=tmp_path / name)
    plain, there, parts = (load_file(tmp_path / name / "model.safetensors") for name in sections)
    inside = {name for name in plain if ".layers.1.self_attn." in name}
    inside -= {name for name in inside if method in ("frism", "ip_merging") and name.endswith(".bias")}
    assert len(inside) == (4 if method in ("frism", "ip_merging") else 7)
    assert {name for name in plain if not torch.equal(plain[name], parts[name])} == inside
    assert all(torch.equal(there[name], parts[name]) for name in inside)


# ------------------------------------------------------------------------------------- several experts


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Family, str]:
    """A family, and a second expert of it."""
    folder = tmp_path_factory.mktemp("pair")
    return tiny_family(folder), str(tiny_llm(folder / "second", fine_tune=7))


def test_several_experts_are_merged_each_with_its_weight(pair: tuple[Family, str], tmp_path: Path) -> None:
    family, second = pair
    weights = (0.5, 0.3, 0.4)
    config = MergeConfig(method="task_arithmetic", experts=(None, second), weights=weights)
    report = merge(config, **family.references, out=tmp_path / "merged")
    folders = (family.vlm, family.expert, Path(second), family.base, tmp_path / "merged")
    *models, base, merged = (load_file(folder / "model.safetensors") for folder in folders)
    assert report.merged == 25
    for name in (own for own in base if own.startswith("model.") and "embed" not in own):
        expected = base[name] + sum(
            weight * (model[name] - base[name]) for weight, model in zip(weights, models, strict=True)
        )
        torch.testing.assert_close(merged[name], expected, rtol=0, atol=1e-6)
    recipe = read_json(tmp_path / "merged" / "merge.json")
    assert list(recipe["weights_sha256"]) == ["vlm", "expert_1", "expert_2", "base"]


@pytest.mark.parametrize("method", ["ties", "dare_ties", "dare_linear"])
def test_ties_and_dare_of_three_tasks_are_pefts_bit_for_bit(method: str) -> None:
    oracle = importlib.import_module("peft.utils.merge_utils")
    vlm, first, second, base = (random((48, 32), seed) for seed in range(4))
    tasks, weights = [vlm - base, first - base, second - base], (1.0, 0.5, 0.2)
    with torch.random.fork_rng():
        torch.manual_seed(tensor_generator(7, NAME).initial_seed())
        expected = base + getattr(oracle, method)(tasks, torch.tensor(weights), 0.3)
    experts = {"experts": ("a", "b"), "weights": weights, "density": 0.3, "seed": 7}
    config = MergeConfig.model_validate({"method": method, **experts})
    read = functools.partial(pieces, vlm, first, second, base)
    merged = [piece for _, piece in merge_pieces(Job(config, NAME, (48, 32), weights, read))]
    assert torch.equal(torch.cat(merged).view(48, 32), expected)


SEVERAL = sorted({*get_args(MergeMethod)} - {"slerp", "frank", "frism", "ip_merging", "delta"})


@pytest.mark.parametrize("method", SEVERAL)
def test_a_second_expert_of_weight_zero_changes_no_linear_merge_and_every_method_takes_two(
    pair: tuple[Family, str], tmp_path: Path, method: str
) -> None:
    family, second = pair
    one = {"method": method, "density": 1, "keep_first": 1}
    two = one | {"experts": [str(family.expert), second], "weights": [0.9, 0.1, 0]}
    for name, section in (("one", one), ("two", two)):
        merge(MergeConfig.model_validate(section), **family.references, out=tmp_path / name)
    alone, both = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    same = all(torch.allclose(alone[name], both[name], rtol=0, atol=1e-6) for name in alone)
    assert same == (method not in ("ties", "dare_ties", "della"))  # there the third has a voice in the election


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"experts": ["a", "b"]}, "merge: weights: one of φ_VL and one of each expert (2), got [0.9, 0.1]"),
        ({"weights": [1, 0, 0]}, "merge: weights: one of φ_VL and one of each expert (1), got [1.0, 0.0, 0.0]"),
        (
            {"parts": [{"layers": "0", "weights": [1]}]},
            "merge: parts.0.weights: one of φ_VL and one of each expert (1), got [1.0]",
        ),
        (
            {"method": "slerp", "experts": ["a", "b"], "weights": [0.4, 0.3, 0.3]},
            "merge: experts: slerp merges one expert (got 2)",
        ),
    ],
)
def test_each_expert_has_one_weight(given: dict[str, object], line: str) -> None:
    assert refusal(**{"method": "linear", **given}) == line


def test_a_second_expert_of_another_base_is_named(pair: tuple[Family, str], tmp_path: Path) -> None:
    other = str(tiny_llm(tmp_path / "other", num_hidden_layers=1))
    config = MergeConfig(method="linear", experts=(None, other), weights=(0.8, 0.1, 0.1))
    with pytest.raises(CheckpointError, match="not of one base") as raised:
        merge(config, **pair[0].references, out=tmp_path / "merged")
    assert other in str(raised.value)


# ------------------------------------------------------------------------------------------------ delta


def add(family: Family, delta: Path, out: Path, factor: float, **settings: object) -> MergeReport:
    config = MergeConfig.model_validate({"method": "delta", "weights": [1, factor], **settings})
    return merge(config, expert=None, vlm=str(family.vlm), base=None, out=out, delta=delta)


@pytest.fixture(scope="module")
def delta(pair: tuple[Family, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Δ of the family's projections, in several files."""
    out = tmp_path_factory.mktemp("delta") / "paper"
    compute_delta(DeltaConfig(), **pair[0].references, out=out, shard_bytes=20_000)
    assert len(list(out.glob("*.safetensors"))) > 1
    return out


@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0, -0.5])
def test_a_share_of_delta_is_a_model_that_went_so_far_along_it(
    pair: tuple[Family, str], delta: Path, tmp_path: Path, factor: float
) -> None:
    family = pair[0]
    report = add(family, delta, tmp_path / "added", factor)
    assert projection(tmp_path / "added", delta) == pytest.approx(factor, abs=1e-6)
    vlm, expert, added = (
        load_file(folder / "model.safetensors") for folder in (family.vlm, family.expert, tmp_path / "added")
    )
    moved = {name for name in vlm if not torch.equal(vlm[name], added[name])}
    assert report.merged == 20  # two layers of 7 weights and 3 biases; norms are in no Δ of projections
    assert len(moved) == (20 if factor else 0)
    for name in moved:
        torch.testing.assert_close(added[name], vlm[name] + factor * (expert[name] - vlm[name]), rtol=0, atol=1e-6)


def test_delta_is_added_by_parts_and_the_recipe_names_it(pair: tuple[Family, str], delta: Path, tmp_path: Path) -> None:
    add(pair[0], delta, tmp_path / "added", 0.5, parts=[{"layers": "1", "weights": [1, 0]}])
    vlm, added = (load_file(folder / "model.safetensors") for folder in (pair[0].vlm, tmp_path / "added"))
    assert {name.split(".")[2] for name in vlm if not torch.equal(vlm[name], added[name])} == {"0"}
    recipe = read_json(tmp_path / "added" / "merge.json")
    assert recipe["weights_sha256"]["delta"] == load_delta(delta).sha256()
    assert read_provenance(tmp_path / "added")["original_vlm_sha256"] == fingerprint(pair[0].vlm)


def test_a_delta_of_another_vlm_is_refused(delta: Path, tmp_path: Path) -> None:
    other = tiny_family(tmp_path / "family", seed=3)
    with pytest.raises(PriorError, match="made from another φ_VL"):
        add(other, delta, tmp_path / "added", 1)
    assert not (tmp_path / "added").exists()


def test_nan_in_delta_is_named(pair: tuple[Family, str], delta: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(delta, tmp_path / "broken"))
    info = load_delta(broken).tensors["layers.1.mlp.up_proj.weight"]
    with info.file.open("r+b") as file:
        file.seek(info.start)
        file.write(b"\xff" * 4)
    with pytest.raises(CheckpointError, match=r"broken/delta-.*'layers\.1\.mlp\.up_proj\.weight' holds NaN"):
        add(pair[0], broken, tmp_path / "added", 1)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"method": "delta"}, "merge: weights: method 'delta' adds to φ_VL: 1, then the factor of Δ (got [0.9, 0.1])"),
        ({"method": "ties", "delta": "paper"}, "merge: delta: only method 'delta' takes one (got 'paper' with 'ties')"),
        (
            {"method": "delta", "weights": [1, 1], "experts": ["a"]},
            "merge: experts: method 'delta' takes none; they are in Δ",
        ),
    ],
)
def test_what_does_not_go_with_a_delta_is_refused(given: dict[str, object], line: str) -> None:
    assert refusal(**given) == line


def test_what_a_method_lacks_is_said_before_anything_is_read(delta: Path) -> None:
    nowhere = {"vlm": "/nowhere", "base": None}
    with pytest.raises(ConfigError, match=r"method: 'delta' needs a Δ \(--delta\)"):
        plan_merge(MergeConfig(method="delta", weights=(1, 1)), expert="/nowhere", **nowhere)
    with pytest.raises(ConfigError, match=r"method: 'linear' takes no Δ \(--delta\)"):
        plan_merge(MergeConfig(method="linear"), expert="/nowhere", delta=delta, **nowhere)
    with pytest.raises(ConfigError, match=r"method: 'linear' needs an expert \(--expert\)"):
        plan_merge(MergeConfig(method="linear"), expert=None, **nowhere)
