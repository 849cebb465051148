"""The prior Δ: bit for bit a subtraction, its statistics worked by hand, and every pair that is no pair."""

import itertools
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from drift.config.models import DeltaConfig, ExpertConfig, MergeConfig
from drift.ground.artifacts import content_sha256, read_json, read_provenance, write_json, write_provenance
from drift.ground.errors import CheckpointError, ConfigError, DataError, DriftError, PriorError
from drift.weights.delta.delta import SHARD_BYTES, compute_delta, part_sums, stats_from_sums
from drift.weights.delta.deltafile import layer_table, load_delta, projection
from drift.weights.delta.stretches import mixing_factors, parts
from drift.weights.merging.merge import merge
from drift.weights.pairing import plan, sampled_cosine
from drift.weights.storage.checkpoints import Checkpoint, fingerprint
from drift.weights.storage.files import INDEX
from drift.weights.storage.headers import read_header
from drift.weights.storage.streaming import (
    SUM_BYTES,
    cosine,
    created,
    dot,
    encode_header,
    one_thread,
    require_space,
    write_tensor,
)
from tests.tiny_models import Family, tiny_family, tiny_llm

ALL = ("attn", "mlp", "norm", "head", "embed")
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"))


def damaged(path: Path, name: str, change: object) -> Path:
    """A copy of the model directory with one tensor changed in place."""
    copy = Path(shutil.copytree(path, path.with_name(path.name + "-damaged"), dirs_exist_ok=True))
    tensors = load_file(copy / "model.safetensors")
    change(tensors[name])  # type: ignore[operator]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    return copy


# ---------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_delta_is_the_subtraction_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    family = tiny_family(tmp_path, dtype=dtype)
    compute_delta(DeltaConfig(modules=ALL), **family.references, out=tmp_path / "delta")
    expert, vlm = (load_file(path / "model.safetensors") for path in (family.expert, family.vlm))
    delta = load_file(tmp_path / "delta" / "delta.safetensors")
    assert len(delta) == 27
    for name, tensor in delta.items():
        own = name if name == "lm_head.weight" else f"model.{name}"
        assert tensor.dtype == dtype
        assert torch.equal(tensor, torch.sub(expert[own], vlm[own]))


def test_a_shuffled_delta_has_the_numbers_of_delta_and_not_its_direction(family: Family, tmp_path: Path) -> None:
    plain, shuffled, other = (
        compute_delta(DeltaConfig(shuffle=seed), out=tmp_path / str(seed), **family.references).folder
        for seed in (None, 0, 1)
    )
    deltas = [load_file(folder / "delta.safetensors") for folder in (plain, shuffled, other)]
    whole = [torch.cat([delta[name].flatten().double() for name in deltas[0]]) for delta in deltas]
    for name, tensor in deltas[0].items():
        assert torch.equal(deltas[1][name].flatten().sort().values, tensor.flatten().sort().values)
    for one, two in itertools.combinations(whole, 2):
        assert abs(torch.cosine_similarity(one, two, dim=0)) < 0.2
    assert load_delta(shuffled).direction == "expert-minus-vlm-shuffled"
    again = compute_delta(DeltaConfig(shuffle=0), out=tmp_path / "again", **family.references).folder
    assert (again / "delta.safetensors").read_bytes() == (shuffled / "delta.safetensors").read_bytes()


def test_minus_base_subtracts_the_base_and_measures_against_the_vlm(family: Family, tmp_path: Path) -> None:
    compute_delta(DeltaConfig(minus="base"), **family.references, out=tmp_path / "delta")
    expert, base, vlm = (load_file(path / "model.safetensors") for path in (family.expert, family.base, family.vlm))
    prior = load_delta(tmp_path / "delta")
    assert prior.direction == "expert-minus-base"
    for name, stats in prior.stats.items():
        delta = expert[f"model.{name}"] - base[f"model.{name}"]
        assert torch.equal(prior.tensor(name), delta)
        exact = (vlm[f"model.{name}"].double() * delta.double()).sum().item()
        assert math.isclose(stats["vlm_dot_delta"], exact, rel_tol=1e-12, abs_tol=1e-15)
        assert math.isclose(stats["vlm_l2"], vlm[f"model.{name}"].double().norm().item(), rel_tol=1e-12)


def test_minus_may_be_any_checkpoint_of_the_base(family: Family, tmp_path: Path) -> None:
    compute_delta(DeltaConfig(minus=str(family.base)), **family.references, out=tmp_path / "other")
    compute_delta(DeltaConfig(minus="base"), **family.references, out=tmp_path / "base")
    other, base = load_delta(tmp_path / "other"), load_delta(tmp_path / "base")
    assert other.direction == "expert-minus-other"
    assert other.stats == base.stats


def test_statistics_worked_by_hand() -> None:
    # expert (3, 4), other (3, 0), vlm (1, 2): Δ = (0, 4); ‖Δ‖₁ = ‖Δ‖₂ = 4; ‖φ_VL‖ = √5; ⟨φ_VL, Δ⟩ = 8;
    # cos(expert, other) = 9 / (5 · 3) = 0.6.
    expert, other, vlm = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.0]), torch.tensor([1.0, 2.0])
    sums = part_sums(expert - other, vlm, [(expert, other)])
    assert stats_from_sums(sums, [1.0], (2,)) == {
        "l1": 4.0,
        "l2": 4.0,
        "vlm_l2": math.sqrt(5),
        "cosine": pytest.approx(0.6),
        "vlm_dot_delta": 8.0,
        "full_l2": 4.0,
        "energy": 1.0,
        "zeros": None,
        "tiny": None,
        "numel": 2,
        "shape": (2,),
    }


def test_sums_do_not_depend_on_where_a_tensor_is_cut() -> None:
    tensor = torch.arange(SUM_BYTES // 8 + 3, dtype=torch.float32) % 7
    assert dot(tensor, tensor) == float((tensor.double() ** 2).sum())


def test_a_zero_tensor_has_no_direction() -> None:
    assert cosine(torch.zeros(3), torch.ones(3)) == 0.0


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=20), st.floats(0.125, 8, width=32))
@settings(deadline=None)
def test_cosine_does_not_change_with_length(values: list[float], factor: float) -> None:
    tensor, other = torch.tensor(values), torch.arange(len(values)).float()
    expected = float(np.dot(tensor.double().numpy(), other.double().numpy()))
    assert math.isclose(dot(tensor, other), expected, rel_tol=1e-9, abs_tol=1e-6)
    longer = tensor.double() * factor  # in float32 the smallest numbers would be rounded
    assert cosine(longer, other) == pytest.approx(cosine(tensor, other), abs=1e-5)


def test_projection_is_zero_at_the_vlm_and_one_at_the_expert(family: Family, tmp_path: Path) -> None:
    compute_delta(DeltaConfig(), **family.references, out=tmp_path / "delta")
    assert projection(family.vlm, tmp_path / "delta") == 0.0
    assert projection(family.expert, tmp_path / "delta") == pytest.approx(1.0, abs=1e-6)


def test_projection_of_the_merge_with_weights_one_is_one_for_expert_minus_base(family: Family, tmp_path: Path) -> None:
    # φ_VL + φ_reason − φ_base went by exactly Δ = φ_reason − φ_base.
    compute_delta(DeltaConfig(minus="base"), **family.references, out=tmp_path / "delta")
    merge(MergeConfig(method="task_arithmetic", weights=(1, 1)), **family.references, out=tmp_path / "merged")
    assert projection(tmp_path / "merged", tmp_path / "delta") == pytest.approx(1.0, abs=1e-6)


def test_the_file_says_what_it_is_and_of_which_contents(family: Family, tmp_path: Path) -> None:
    compute_delta(DeltaConfig(modules=("attn",), layers="1"), **family.references, out=tmp_path / "delta")
    metadata = read_header(tmp_path / "delta" / "delta.safetensors").metadata
    assert (metadata["direction"], metadata["modules"], metadata["layers"]) == ("expert-minus-vlm", "attn", "1")
    models = {model["name"]: model for model in json.loads(metadata["models"])}
    assert {name: model["sha256"] for name, model in models.items()} == {
        "vlm": content_sha256(family.vlm),
        "expert": content_sha256(family.expert),
    }
    assert all(model["revision"] is None for model in models.values())


def test_a_model_from_the_hub_is_named_by_its_id_and_commit(family: Family, tmp_path: Path) -> None:
    commit = tmp_path / "models--org--vlm" / "snapshots" / "0123abc"
    shutil.copytree(family.vlm, commit)
    compute_delta(DeltaConfig(), **{**family.references, "vlm": str(commit)}, out=tmp_path / "delta")
    models = json.loads(read_header(tmp_path / "delta" / "delta.safetensors").metadata["models"])
    assert [(model["name"], model["revision"]) for model in models] == [("org/vlm", "0123abc"), ("expert", None)]


def test_size_and_direction_of_every_layer_are_a_table_and_a_picture(family: Family, tmp_path: Path) -> None:
    compute_delta(DeltaConfig(modules=("attn", "mlp", "embed")), **family.references, out=tmp_path / "delta")
    table = (tmp_path / "delta" / "layers.md").read_text(encoding="utf-8").splitlines()
    assert table[0] == "| layer | module | ‖Δ‖/‖φ_VL‖ | cosine |"
    assert [line.split(" | ")[0:2] for line in table[2:]] == [
        ["| –", "embed"], ["| 0", "mlp"], ["| 0", "attn"], ["| 1", "mlp"], ["| 1", "attn"],
    ]  # fmt: skip
    picture = (tmp_path / "delta" / "delta.svg").read_text(encoding="utf-8")
    assert "decoder layer" in picture and "attn" in picture and "embed" not in picture


def test_the_layer_table_has_a_row_per_layer_and_module(family: Family, tmp_path: Path) -> None:
    compute_delta(DeltaConfig(modules=("attn", "mlp", "head")), **family.references, out=tmp_path / "delta")
    prior = load_delta(tmp_path / "delta")
    rows = {(row.layer, row.module): row for row in layer_table(prior.stats)}
    assert set(rows) == {(0, "attn"), (0, "mlp"), (1, "attn"), (1, "mlp"), (None, "head")}
    head = prior.stats["lm_head.weight"]
    assert rows[None, "head"].relative_l2 == pytest.approx(head["l2"] / head["vlm_l2"])
    assert rows[None, "head"].cosine == pytest.approx(head["cosine"])


# ------------------------------------------------------------------------------------------ several experts


def test_mixing_factors_worked_by_hand() -> None:
    # ‖Δ₁‖ = 2, ‖Δ₂‖ = 6, w = (3, −1): W = 4, m = (3·2 + 1·6)/4 = 3; f₁ = 3/4 · 3/2, f₂ = −1/4 · 3/6.
    assert mixing_factors([2.0, 6.0], [3.0, -1.0]) == [1.125, -0.125]
    # Nothing of the second expert: m = (2 + 0)/2 = 1, f₁ = 1/2 · 1/2.
    assert mixing_factors([2.0, 0.0], [1.0, 1.0]) == [0.25, 0.0]


@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(0.1, 10)), min_size=1, max_size=5), st.floats(0.1, 10))
def test_the_direction_is_that_of_the_weighted_unit_vectors(pairs: list[tuple[float, float]], factor: float) -> None:
    # fᵢ‖Δᵢ‖ is wᵢ times the same number for every expert, whatever the norms; a common factor of w changes nothing.
    norms, weights = [norm for norm, _ in pairs], [weight for _, weight in pairs]
    factors = mixing_factors(norms, weights)
    lengths = [f * norm / weight for f, norm, weight in zip(factors, norms, weights, strict=True)]
    assert lengths == pytest.approx([lengths[0]] * len(lengths))
    assert mixing_factors(norms, [factor * weight for weight in weights]) == pytest.approx(factors)


@pytest.fixture(scope="module")
def second_expert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llm(tmp_path_factory.mktemp("second") / "second", fine_tune=7)


def mixed(*experts: tuple[Path | None, float, str | None], **settings: object) -> DeltaConfig:
    own = tuple(
        ExpertConfig(model=None if path is None else str(path), weight=weight, minus=minus)
        for path, weight, minus in experts
    )
    return DeltaConfig(experts=own, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_experts_give_the_weighted_mean_of_their_directions(tmp_path: Path, dtype: torch.dtype) -> None:
    family = tiny_family(tmp_path, dtype=dtype)
    second = tiny_llm(tmp_path / "second", fine_tune=7, dtype=dtype)
    config = mixed((None, 3.0, None), (second, 1.0, "base"))
    compute_delta(config, **family.references, out=tmp_path / "delta")
    prior = load_delta(tmp_path / "delta")
    assert prior.direction == "experts-minus-several"
    files = [load_file(path / "model.safetensors") for path in (family.expert, family.vlm, second, family.base)]
    for name in prior.names:
        first, vlm, other, base = (file[f"model.{name}"].double() for file in files)
        directions = 3 * (first - vlm) / (first - vlm).norm() + (other - base) / (other - base).norm()
        mean = (3 * (first - vlm).norm() + (other - base).norm()) / 4
        expected, got = (directions * mean / 4).to(dtype), prior.tensor(name)
        assert got.dtype == dtype
        tolerance, sums = (0.01, 1e-6) if dtype == torch.bfloat16 else (1e-5, 1e-12)
        assert torch.allclose(got.double(), expected.double(), rtol=tolerance, atol=1e-7)
        assert math.isclose(prior.stats[name]["l2"], got.double().norm().item(), rel_tol=sums)


def test_one_expert_of_any_weight_and_the_same_expert_twice_are_the_raw_delta(family: Family, tmp_path: Path) -> None:
    compute_delta(DeltaConfig(), **family.references, out=tmp_path / "raw")
    compute_delta(mixed((None, 0.3, None)), **family.references, out=tmp_path / "one")
    twice = mixed((None, 1.0, None), (family.expert, 2.0, None))
    compute_delta(twice, **family.references, out=tmp_path / "two")
    raw = load_delta(tmp_path / "raw")
    for out in ("one", "two"):
        for name in raw.names:
            assert torch.allclose(load_delta(tmp_path / out).tensor(name), raw.tensor(name), rtol=1e-5, atol=1e-8)


def test_every_expert_stands_in_the_provenance(family: Family, second_expert: Path, tmp_path: Path) -> None:
    config = mixed((None, 1.0, None), (second_expert, -0.5, None))
    compute_delta(config, **family.references, out=tmp_path / "delta")
    provenance = read_provenance(tmp_path / "delta")
    inputs = {entry["name"]: entry["uri"] for entry in provenance["inputs"]}
    assert inputs["expert_1"] == str(family.expert)
    assert inputs["expert_2"] == str(second_expert)
    assert inputs["other_1"] == inputs["other_2"] == inputs["vlm"] == str(family.vlm)
    assert [expert["weight"] for expert in provenance["config"]["experts"]] == [1.0, -0.5]
    assert load_delta(tmp_path / "delta").direction == "experts-minus-vlm"


def test_weights_that_cancel_out_are_refused(family: Family, tmp_path: Path) -> None:
    config = mixed((None, 1.0, None), (family.expert, -1.0, None))
    assert "cancel out" in refused(family, tmp_path / "delta", CheckpointError, config)


def test_every_expert_must_fit(family: Family, tmp_path: Path) -> None:
    small = tiny_llm(tmp_path / "small", num_hidden_layers=1)
    message = refused(family, tmp_path / "delta", CheckpointError, mixed((None, 1.0, None), (small, 1.0, None)))
    assert "num_hidden_layers: 1 in" in message
    same = mixed((None, 1.0, None), (family.base, 1.0, "base"))
    assert "identical" in refused(family, tmp_path / "delta", CheckpointError, same)


# ------------------------------------------------------------------------------------------------ files


def test_the_same_work_gives_the_same_bytes(family: Family, tmp_path: Path) -> None:
    for out in ("one", "two"):
        compute_delta(DeltaConfig(), **family.references, out=tmp_path / out)
    for file in ("delta.safetensors", "delta_stats.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_sharded_expert_gives_the_same_delta(family: Family, tmp_path: Path) -> None:
    expert = Path(shutil.copytree(family.expert, tmp_path / "expert"))
    tensors = load_file(expert / "model.safetensors")
    (expert / "model.safetensors").unlink()
    shards = {f"model-{i}.safetensors": sorted(tensors)[i::3] for i in range(3)}
    for shard, names in shards.items():
        save_file({name: tensors[name] for name in names}, expert / shard)
    write_json(expert / INDEX, {"weight_map": {name: shard for shard, names in shards.items() for name in names}})
    compute_delta(DeltaConfig(), **{**family.references, "expert": str(expert)}, out=tmp_path / "sharded")
    compute_delta(DeltaConfig(), **family.references, out=tmp_path / "single")
    assert load_delta(tmp_path / "sharded").stats == load_delta(tmp_path / "single").stats


def test_a_large_delta_is_several_files_and_reads_as_the_whole_one(family: Family, tmp_path: Path) -> None:
    for name, limit in (("whole", SHARD_BYTES), ("parts", 20_000), ("again", 20_000)):
        compute_delta(DeltaConfig(), **family.references, out=tmp_path / name, shard_bytes=limit)
    whole, pieces, again = (load_delta(tmp_path / name) for name in ("whole", "parts", "again"))
    files = sorted((tmp_path / "parts").glob("*.safetensors"))
    numbers = range(1, len(files) + 1)
    assert [file.name for file in files] == [f"delta-{i:05}-of-{len(files):05}.safetensors" for i in numbers]
    held = {file: read_header(file) for file in files}
    assert len(files) > 2
    for header in held.values():
        size = sum(info.size_bytes for info in header.tensors.values())
        assert size <= 20_000 or len(header.tensors) == 1, "what is larger by itself has a file of its own"
        assert json.loads(header.metadata["models"])[0]["sha256"] == content_sha256(family.vlm)
    assert (pieces.names, pieces.stats) == (whole.names, whole.stats)
    assert all(torch.equal(pieces.tensor(name), whole.tensor(name)) for name in whole.names)
    assert pieces.sha256() == again.sha256() != whole.sha256()
    assert whole.sha256() == content_sha256(tmp_path / "whole" / "delta.safetensors")
    assert projection(family.expert, tmp_path / "parts") == projection(family.expert, tmp_path / "whole")


def test_a_part_of_a_delta_that_is_missing_is_named(family: Family, tmp_path: Path) -> None:
    compute_delta(DeltaConfig(), **family.references, out=tmp_path / "delta", shard_bytes=20_000)
    sorted((tmp_path / "delta").glob("*.safetensors"))[0].unlink()
    with pytest.raises(PriorError, match=r"no usable Δ: .*shard 'delta-00001-of-\d+\.safetensors' is missing"):
        load_delta(tmp_path / "delta")


def test_the_report_and_the_provenance_say_what_was_done(family: Family, tmp_path: Path) -> None:
    report = compute_delta(
        DeltaConfig(modules=("attn",), include_bias=False), **family.references, out=tmp_path / "delta"
    )
    assert report.metrics()["delta/tensors"] == 8
    assert 0.9 < report.metrics()["delta/cosine"] < 1
    provenance = read_provenance(tmp_path / "delta")
    assert provenance["original_vlm_sha256"] == fingerprint(family.vlm)
    assert provenance["config"]["modules"] == ["attn"]
    assert read_json(tmp_path / "delta" / "delta_stats.json")["direction"] == "expert-minus-vlm"


def test_threads_are_set_back(family: Family, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    compute_delta(DeltaConfig(), **family.references, out=tmp_path / "delta")
    assert torch.get_num_threads() == before


def test_a_plan_reads_no_tensor(family: Family, tmp_path: Path) -> None:
    hollow = Path(shutil.copytree(family.expert, tmp_path / "hollow"))
    file = hollow / "model.safetensors"
    size, start = file.stat().st_size, int.from_bytes(file.read_bytes()[:8], "little") + 8
    file.write_bytes(file.read_bytes()[:start])
    os.truncate(file, size)
    todo = plan(DeltaConfig(), **{**family.references, "expert": str(hollow)})
    assert len(todo.sources) == 20
    assert todo.size_bytes == 4 * sum(math.prod(source.shape) for source in todo.sources)


def bytes_read() -> int:
    """By this process so far, by the kernel's count."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def test_attention_alone_reads_the_attention_and_nothing_else(family: Family) -> None:
    # q and o: 32 × 32 (q's bias 32), k and v: 16 × 32 (bias 16): 3,136 numbers of 4 bytes, 2 layers, 2 models.
    todo = plan(DeltaConfig(modules=("attn",)), **family.references)
    assert todo.read_bytes == 3136 * 4 * 2 * 2
    reading_the_count = -bytes_read() + bytes_read()
    before = bytes_read()
    for source in todo.sources:
        for _ in parts(todo, source):
            pass
    assert bytes_read() - before - reading_the_count == todo.read_bytes


def test_a_piece_is_the_tensors_stretch_and_a_file_cut_meanwhile_is_told(family: Family, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(family.expert, tmp_path / "copy"))
    model, name = Checkpoint(copy), "model.layers.1.mlp.up_proj.weight"
    joined = torch.cat([piece.clone() for piece in model.pieces(name, 1000)])
    assert torch.equal(joined, model.tensor(name).reshape(-1))
    os.truncate(copy / "model.safetensors", model.tensors[name].end - 4)
    with pytest.raises(CheckpointError, match=r"ends inside 'model\.layers\.1\.mlp"):
        list(model.pieces(name, 1000))


def test_room_for_the_whole_file_is_taken_before_writing(tmp_path: Path) -> None:
    with created(tmp_path / "file", 1 << 20):
        assert (tmp_path / "file").stat().st_blocks * 512 >= 1 << 20
    with pytest.raises(CheckpointError, match="no room for"), created(tmp_path / "file", 1 << 60):
        pass


def test_the_streamed_file_is_what_safetensors_itself_would_read(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(3, 5).bfloat16(), "a": torch.randn(7).double(), "scalar": torch.tensor(2.0).half()}
    with (tmp_path / "x.safetensors").open("wb") as stream:
        stream.write(encode_header({name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}, {"k": "v"}))
        for tensor in tensors.values():
            write_tensor(stream, tensor)
    read = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())


# -------------------------------------------------------------------------------------------- bad input


def refused(
    family: Family, out: Path, error: type[DriftError], config: DeltaConfig | None = None, **models: str
) -> str:
    """The one line with which Δ is refused; nothing is left behind."""
    with pytest.raises(error) as raised:
        compute_delta(config or DeltaConfig(), **{**family.references, **models}, out=out)
    assert not out.exists()
    assert not out.with_name(out.name + ".partial").exists()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_tensor_with_nan_or_infinity_is_named(family: Family, tmp_path: Path, value: float) -> None:
    expert = damaged(family.expert, "model.layers.1.mlp.up_proj.weight", lambda tensor: tensor[3, 4].fill_(value))
    message = refused(family, tmp_path / "delta", CheckpointError, expert=str(expert))
    assert message.startswith(f"{expert}/model.safetensors: 'model.layers.1.mlp.up_proj.weight' holds NaN or infinity")


def test_nan_in_the_vlm_is_found_also_where_delta_is_expert_minus_base(family: Family, tmp_path: Path) -> None:
    vlm = damaged(family.vlm, "model.layers.0.self_attn.k_proj.bias", lambda tensor: tensor.fill_(math.nan))
    assert str(vlm) in refused(family, tmp_path / "delta", CheckpointError, DeltaConfig(minus="base"), vlm=str(vlm))


def test_identical_checkpoints_have_no_delta(family: Family, tmp_path: Path) -> None:
    config = DeltaConfig(minus=str(family.expert))
    assert "identical" in refused(family, tmp_path / "delta", CheckpointError, config)


def test_unrelated_models_are_refused_unless_forced(family: Family, tmp_path: Path) -> None:
    stranger = tiny_llm(tmp_path / "stranger", seed=99)
    assert abs(sampled_cosine(Checkpoint(stranger), Checkpoint(family.vlm))) < 0.1
    message = refused(family, tmp_path / "delta", CheckpointError, expert=str(stranger))
    assert "not fine-tunes of one base (force: true goes on)" in message
    report = compute_delta(
        DeltaConfig(force=True), **{**family.references, "expert": str(stranger)}, out=tmp_path / "delta"
    )
    assert any("mean cosine" in warning for warning in report.warnings)


def test_another_rope_theta_is_a_warning(family: Family, tmp_path: Path) -> None:
    expert = Path(shutil.copytree(family.expert, tmp_path / "expert"))
    config = json.loads((expert / "config.json").read_text())
    write_json(expert / "config.json", {**config, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}})
    report = compute_delta(DeltaConfig(), **{**family.references, "expert": str(expert)}, out=tmp_path / "delta")
    assert report.warnings == ("the expert's configuration differs in rope_theta: 500000.0 against 10000.0",)


def test_a_vlm_that_was_itself_trained_here_is_refused_unless_forced(family: Family, tmp_path: Path) -> None:
    trained = Path(shutil.copytree(family.vlm, tmp_path / "trained"))
    write_provenance(trained, "train", config={}, inputs={}, original_vlm_sha256=fingerprint(family.vlm))
    message = refused(family, tmp_path / "delta", CheckpointError, vlm=str(trained))
    assert message.startswith(f"{trained}: trained or merged from another φ_VL; name that one as the VLM")
    report = compute_delta(
        DeltaConfig(force=True), **{**family.references, "vlm": str(trained)}, out=tmp_path / "delta"
    )
    assert report.tensors


def test_minus_base_without_a_base_is_refused(family: Family, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"minus: 'base' needs models\.base"):
        compute_delta(
            DeltaConfig(minus="base"), expert=str(family.expert), vlm=str(family.vlm), base=None, out=tmp_path / "delta"
        )


def test_a_larger_vocabulary_is_told_though_it_is_not_selected(family: Family, tmp_path: Path) -> None:
    expert = str(tiny_llm(tmp_path / "expert", vocab_size=72))
    config = DeltaConfig(force=True)
    report = compute_delta(config, **{**family.references, "expert": expert}, out=tmp_path / "delta")
    assert any("vocab_size: 72 against 64" in warning for warning in report.warnings)
    assert not any("rows" in warning for warning in report.warnings)


def test_an_overflowing_difference_is_refused(tmp_path: Path) -> None:
    family = tiny_family(tmp_path, dtype=torch.float16)
    name = "model.layers.0.mlp.up_proj.weight"
    expert = damaged(family.expert, name, lambda tensor: tensor[0, 0].fill_(6e4))
    vlm = damaged(family.vlm, name, lambda tensor: tensor[0, 0].fill_(-6e4))
    message = refused(
        family, tmp_path / "delta", CheckpointError, DeltaConfig(force=True), expert=str(expert), vlm=str(vlm)
    )
    assert "overflows torch.float16" in message


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"modules": ["re:nothing"]}, ConfigError, "modules: 're:nothing' selects no tensor"),
        ({"layers": "7"}, ConfigError, "layers: '7' names layer 7"),
        ({"minus": "/nowhere"}, CheckpointError, "no such directory"),
    ],
)
def test_a_section_that_does_not_fit_the_models(
    family: Family, tmp_path: Path, config: dict[str, object], error: type[DriftError], message: str
) -> None:
    assert message in refused(family, tmp_path / "delta", error, DeltaConfig.model_validate(config))


def test_an_output_folder_in_use_is_not_overwritten(family: Family, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="exists already"):
        compute_delta(DeltaConfig(), **family.references, out=tmp_path)


def test_a_full_disk_is_told_before_writing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="free; choose a disk with more room"):
        require_space(tmp_path, 1 << 60)


# ---------------------------------------------------------------------------------------- stored deltas


@pytest.fixture
def stored(family: Family, tmp_path: Path) -> Path:
    compute_delta(DeltaConfig(), **family.references, out=tmp_path / "stored")
    return tmp_path / "stored"


def cut(folder: Path) -> None:
    file = folder / "delta.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def foreign(folder: Path) -> None:
    save_file({"a": torch.zeros(1)}, folder / "delta.safetensors")


def lose_entry(folder: Path) -> None:
    content = read_json(folder / "delta_stats.json")
    content["tensors"].popitem()
    write_json(folder / "delta_stats.json", content)


def spoil_norm(folder: Path) -> None:
    content = read_json(folder / "delta_stats.json")
    next(iter(content["tensors"].values()))["l2"] = math.nan
    (folder / "delta_stats.json").write_text(json.dumps(content))  # as Python alone writes it


def overflow_norm(folder: Path) -> None:
    spoil_norm(folder)
    stats = folder / "delta_stats.json"
    stats.write_text(stats.read_text().replace("NaN", "1e999"))  # JSON, and infinite as it is read


def lose_norm(folder: Path) -> None:
    content = read_json(folder / "delta_stats.json")
    next(iter(content["tensors"].values())).pop("l2")
    write_json(folder / "delta_stats.json", content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no usable Δ"),
        (lambda folder: (folder / "delta_stats.json").unlink(), "no usable Δ"),
        (lambda folder: (folder / "delta_stats.json").write_text("[]"), "no Δ"),
        (cut, "cut off"),
        (foreign, "no Δ; make one with `drift delta`"),
        (lose_entry, "do not hold the same tensors"),
        (lose_norm, "an entry is incomplete"),
        (spoil_norm, "delta_stats.json: missing or not JSON (NaN is no number)"),
        (overflow_norm, "an entry is incomplete (a number is NaN or infinite)"),
    ],
)
def test_a_broken_delta_is_refused_on_one_line(stored: Path, damage: object, message: str) -> None:
    damage(stored)  # type: ignore[operator]
    with pytest.raises(PriorError) as raised:
        load_delta(stored)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_tensor_that_delta_does_not_have_is_an_error(stored: Path) -> None:
    with pytest.raises(PriorError, match=r"no tensor 'norm\.weight'"):
        load_delta(stored).tensor("norm.weight")


def test_projection_of_a_model_of_other_depth_is_refused(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(PriorError, match=r"^layers\.1\."):
        projection(tiny_llm(tmp_path / "shallow", num_hidden_layers=1), stored)


def test_projection_of_a_model_of_nan_names_the_tensor(family: Family, stored: Path) -> None:
    model = damaged(family.vlm, UP, lambda tensor: tensor.fill_(math.nan))
    with pytest.raises(CheckpointError, match=rf"{model}/model.safetensors: '{UP}' holds NaN or infinity"):
        projection(model, stored)


def test_projection_along_a_delta_of_nan_names_the_tensor(family: Family, stored: Path) -> None:
    file = stored / "delta.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    tensors["layers.0.mlp.up_proj.weight"][0, 0] = math.nan
    save_file(tensors, file, metadata)
    with pytest.raises(PriorError, match=r"'layers\.0\.mlp\.up_proj\.weight' holds NaN or infinity; compute Δ again"):
        projection(family.vlm, stored)


def test_projection_of_a_model_from_another_vlm_is_refused(family: Family, stored: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(family.vlm, tmp_path / "model"))
    write_provenance(model, "train", config={}, inputs={}, original_vlm_sha256="another")
    with pytest.raises(PriorError, match="made from another φ_VL"):
        projection(model, stored)
