"""Newer merges than the paper's baselines: each formula by hand or against mergekit, then its limits."""

import math
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from drift.config.models import MergeConfig, MergeMethod, merge_preset
from drift.config.section import validate
from drift.ground.artifacts import read_json
from drift.ground.errors import ConfigError
from drift.weights.merging.formulas import disjoint_sum, elect_signs, linear, slerp_factors
from drift.weights.merging.merge import merge
from drift.weights.merging.plan import weights_by_name
from drift.weights.merging.sparse import drop_by_magnitude, keep_probabilities, whole_rows
from drift.weights.merging.tensors import merge_tensor
from tests.tiny_models import tiny_family

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


@pytest.mark.parametrize("method", ["slerp", "della", "della_linear"])
def test_the_published_preset_has_no_settings_of_what_was_not_published(method: str) -> None:
    with pytest.raises(ConfigError, match=f"preset: br2v published no '{method}'"):
        merge_preset("br2v", method)


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
        ({"modules": ["head"]}, "parts.0.modules: 'head' selects no tensor"),
        ({"layers": "1,7"}, "parts.0.layers: '1,7' names layer 7, but the decoder has layers 0-2"),
        ({"modules": ["norm"], "layers": "0"}, "parts.0.modules: 'norm' selects no tensor"),
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
        ({"modules": ["atn"], "weights": [1, 0]}, "merge.parts.0.modules.0: string should match pattern"),
        ({"layers": "a-b", "weights": [1, 0]}, "merge.parts.0.layers: 'a-b' is no layer or range"),
        ({"layers": "0"}, "merge.parts.0.weights: required, but not set"),
        ({"layers": "0", "weights": [0.5, 0.6]}, "merge: parts.0.weights: slerp's are 1 − t and t"),
    ],
)
def test_a_part_that_is_written_wrong_is_refused_on_one_line(part: dict[str, object], line: str) -> None:
    assert refusal(method="slerp", parts=[part]).startswith(line)


@pytest.mark.parametrize("method", get_args(MergeMethod))
def test_every_method_merges_each_part_with_its_own_weights(tmp_path: Path, method: str) -> None:
    family = tiny_family(tmp_path / "family")
    whole = {"method": method, "density": 1, "keep_first": 0}
    other = {"modules": ["attn"], "layers": "1", "weights": [0.3, 0.7]}
    sections = {"plain": whole, "other": whole | {"weights": [0.3, 0.7]}, "parts": whole | {"parts": [other]}}
    for name, section in sections.items():
        merge(MergeConfig.model_validate(section), **family.references, out=tmp_path / name)
    plain, there, parts = (load_file(tmp_path / name / "model.safetensors") for name in sections)
    inside = {name for name in plain if ".layers.1.self_attn." in name}
    assert len(inside) == 7
    assert {name for name in plain if not torch.equal(plain[name], parts[name])} == inside
    assert all(torch.equal(there[name], parts[name]) for name in inside)
