"""A Δ of a rank, in int8 and in fp8: what is left of it, what is in its file, statistics of what is stored."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from drift.cli.app import main
from drift.config.models import DeltaConfig, MergeConfig
from drift.ground.artifacts import read_json, write_json
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import DeltaFile, energy, load_delta, projection
from drift.weights.merging.merge import merge
from drift.weights.storage.forms import LEFT, RIGHT, SCALE, WHOLE, layout, shortened
from drift.weights.storage.headers import read_header
from drift.weights.storage.streaming import sparsity
from tests.tiny_models import Family, tiny_family

UP = "layers.1.mlp.up_proj.weight"
BIAS = "layers.1.self_attn.q_proj.bias"
SHORT = {"rank": {"rank": 4}, "int8": {"dtype": "int8"}, "fp8": {"dtype": "float8_e4m3fn"}}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"), dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def deltas(family: Family, tmp_path_factory: pytest.TempPathFactory) -> dict[str, DeltaFile]:
    out = tmp_path_factory.mktemp("deltas")
    for name, settings in (SHORT | {"full": {}}).items():
        compute_delta(DeltaConfig.model_validate(settings), **family.references, out=out / name)
    return {name: load_delta(out / name) for name in (*SHORT, "full")}


# ---------------------------------------------------------------------------------------------- one tensor


@pytest.mark.parametrize(("rank", "rows", "columns"), [(3, 40, 24), (3, 24, 40), (10, 30, 24)])
def test_the_factors_are_the_leading_singular_directions(rank: int, rows: int, columns: int) -> None:
    u, _, v = torch.linalg.svd(torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)))
    s = 0.7 ** torch.arange(24)
    form = shortened((u[:, :24] * s) @ v[:24], DeltaConfig(rank=rank), "a")
    assert {ending: tuple(part.shape) for ending, part in form.parts.items()} == {
        LEFT: (rows, rank), RIGHT: (rank, columns),
    }  # fmt: skip
    torch.testing.assert_close(form.whole(), (u[:, :rank] * s[:rank]) @ v[:rank], atol=1e-4, rtol=0)
    torch.testing.assert_close(form.parts[LEFT].norm(dim=0), s[:rank], rtol=1e-3, atol=0)


def test_hardly_anything_is_lost_to_chance_where_no_direction_leads() -> None:
    # Of noise, the hardest case: a randomised method finds directions slowest where all are alike.
    whole = torch.randn(300, 200, generator=torch.Generator().manual_seed(0))
    form = shortened(whole, DeltaConfig(rank=16), "a")
    best = torch.linalg.svdvals(whole)[:16].norm()
    assert 0.97 < form.whole().norm() / best <= 1
    before = torch.get_rng_state()
    assert torch.equal(shortened(whole, DeltaConfig(rank=16), "a").whole(), form.whole())
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_in_eight_bits_worked_by_hand() -> None:
    # The largest of a row becomes 127: scales 254/127 = 2 and 0; 3/2 = 1.5 is rounded to the even 2.
    whole = torch.tensor([[254.0, 3.0, -8.0], [0.0, 0.0, 0.0]])
    form = shortened(whole, DeltaConfig(dtype="int8"), "a")
    assert form.parts[WHOLE].tolist() == [[127, 2, -4], [0, 0, 0]]
    assert form.parts[SCALE].tolist() == [2.0, 0.0]
    assert form.whole().tolist() == [[254.0, 4.0, -8.0], [0.0, 0.0, 0.0]]
    # The largest of float8_e4m3fn is 448; 17 lies between 16 and 18, and is rounded to the even one.
    form = shortened(torch.tensor([[896.0, 34.0]]), DeltaConfig(dtype="float8_e4m3fn"), "a")
    assert form.parts[SCALE].tolist() == [2.0]
    assert form.whole().tolist() == [[896.0, 32.0]]


def test_what_a_form_would_not_make_smaller_is_stored_whole() -> None:
    full = {WHOLE: (torch.bfloat16, (8, 8))}
    assert layout(DeltaConfig(rank=4), (8, 8), torch.bfloat16) == full
    assert layout(DeltaConfig(rank=3), (8, 8), torch.bfloat16) != full
    for config in (DeltaConfig(rank=1), DeltaConfig(dtype="int8")):
        assert layout(config, (8,), torch.bfloat16) == {WHOLE: (torch.bfloat16, (8,))}
    assert layout(DeltaConfig(dtype="int8"), (4, 8, 2), torch.float32)[SCALE] == (torch.float32, (4, 8))


def test_sparsity_worked_by_hand() -> None:
    # Of 8 elements 2 are 0; the largest is 4, and 3e-5 is below 4e-5 while 5e-5 is not.
    assert sparsity(torch.tensor([0.0, -4.0, 3e-5, -3e-5, 5e-5, 0.0, 1.0, 2.0])) == (0.25, 0.5)
    assert sparsity(torch.zeros(3)) == (1.0, 1.0)


# ---------------------------------------------------------------------------------------------- whole Δ


@pytest.mark.parametrize("kind", SHORT)
def test_statistics_are_those_of_what_is_stored(
    family: Family, deltas: dict[str, DeltaFile], kind: str, tmp_path: Path
) -> None:
    vlm, prior = load_file(family.vlm / "model.safetensors"), deltas[kind]
    for name, entry in prior.stats.items():
        full, stored = deltas["full"].tensor(name).double(), prior.tensor(name).double()
        assert entry["l2"] == pytest.approx(float(stored.norm()))
        assert entry["l1"] == pytest.approx(float(stored.abs().sum()))
        assert entry["full_l2"] == pytest.approx(float(full.norm()))
        assert entry["energy"] == pytest.approx(1 - float((full - stored).norm() / full.norm()) ** 2, abs=1e-6)
        own = vlm[f"model.language_model.{name}" if f"model.language_model.{name}" in vlm else f"model.{name}"]
        assert entry["vlm_dot_delta"] == pytest.approx(float((own.double() * stored).sum()), abs=1e-6)
        assert entry["cosine"] == deltas["full"].stats[name]["cosine"]
    assert projection(family.vlm, prior.folder) == pytest.approx(0, abs=1e-9)


def test_vectors_stay_as_they_are(deltas: dict[str, DeltaFile]) -> None:
    for kind in SHORT:
        assert torch.equal(deltas[kind].tensor(BIAS), deltas["full"].tensor(BIAS))
        assert deltas[kind].stats[BIAS]["energy"] == 1.0


def test_how_much_is_left_and_how_large_it_is(deltas: dict[str, DeltaFile]) -> None:
    left = {kind: energy(prior.stats.values()) for kind, prior in deltas.items()}
    size = {kind: prior.size_bytes / deltas["full"].size_bytes for kind, prior in deltas.items()}
    assert left["full"] == 1.0
    assert left["int8"] > 0.9999 and left["fp8"] > 0.998
    assert 0.1 < left["rank"] < 0.9
    assert all(size[kind] < 0.7 for kind in SHORT)


def test_the_file_says_its_form_and_reads_without_this_library(deltas: dict[str, DeltaFile]) -> None:
    for kind, metadata in (("rank", ("4", None)), ("int8", (None, "int8")), ("full", (None, None))):
        header = read_header(deltas[kind].folder / "delta.safetensors")
        assert (header.metadata.get("rank"), header.metadata.get("dtype")) == metadata
        assert deltas[kind].shapes == deltas["full"].shapes
    eight = load_file(deltas["fp8"].folder / "delta.safetensors")
    assert eight[UP].dtype == torch.float8_e4m3fn
    torch.testing.assert_close(eight[UP].float() * eight[f"{UP}.scale"][:, None], deltas["fp8"].tensor(UP))


@pytest.mark.parametrize("kind", SHORT)
def test_several_files_hold_the_same(family: Family, deltas: dict[str, DeltaFile], kind: str, tmp_path: Path) -> None:
    config = DeltaConfig.model_validate(SHORT[kind])
    compute_delta(config, **family.references, out=tmp_path / "cut", shard_bytes=3000)
    cut = load_delta(tmp_path / "cut")
    assert len(list((tmp_path / "cut").glob("delta-*.safetensors"))) > 2
    assert all(torch.equal(cut.tensor(name), deltas[kind].tensor(name)) for name in cut.names)


@pytest.mark.parametrize("kind", SHORT)
def test_a_merge_adds_the_stored_tensor(
    family: Family, deltas: dict[str, DeltaFile], kind: str, tmp_path: Path
) -> None:
    config = MergeConfig(method="delta", weights=(1, 0.5))
    merge(config, expert=None, vlm=str(family.vlm), base=None, out=tmp_path / "half", delta=deltas[kind].folder)
    assert projection(tmp_path / "half", deltas[kind].folder) == pytest.approx(0.5, abs=0.02)


def test_the_report_has_what_is_left(family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = ["--expert", str(family.expert), "--vlm", str(family.vlm)]
    with pytest.raises(SystemExit) as end:
        main(["delta", *models, "--rank", "2", "--out", str(tmp_path / "delta"), "--json"])
    numbers = json.loads(capsys.readouterr().out)
    assert not end.value.code
    prior = load_delta(tmp_path / "delta")
    assert numbers["delta/energy"] == pytest.approx(energy(prior.stats.values()))
    assert numbers["delta/bytes"] == prior.size_bytes
    assert 0 < numbers["delta/energy"] < 0.7


def test_a_folder_is_shown(deltas: dict[str, DeltaFile], capsys: pytest.CaptureFixture[str]) -> None:
    for kind, form in (("rank", "rank 4"), ("int8", "int8"), ("full", "BF16")):
        with pytest.raises(SystemExit) as end:
            main(["deltas", "show", str(deltas[kind].folder), "--json"])
        shown = json.loads(capsys.readouterr().out)
        assert not end.value.code
        assert (shown["form"], shown["bytes"], shown["tensors"]) == (form, deltas[kind].size_bytes, 20)
        assert [model.split(" (")[0] for model in shown["models"]] == ["vlm", "expert"]
        assert [(row["layer"], row["module"]) for row in shown["by_layer"]] == [
            (layer, module) for layer in (0, 1) for module in ("mlp", "attn")
        ]
        assert math.hypot(*(row["l2"] for row in shown["by_layer"])) == pytest.approx(shown["l2"], rel=1e-3)
        assert (min(row["energy"] for row in shown["by_layer"]) < 1) == (kind != "full")
    with pytest.raises(SystemExit):
        main(["deltas", "show", str(deltas["rank"].folder)])
    table = capsys.readouterr().out
    assert "rank 4" in table and "energy" in table and "expert − vlm: 0." in table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rank", "0"], "rank: input should be greater than or equal to 1 (got 0)"),
        (["--rank", "500"], "rank: 500 makes no tensor of Δ smaller; give a lower one"),
        (["--dtype", "int4"], "dtype: input should be 'int8' or 'float8_e4m3fn' (got 'int4')"),
        (["--dtype", "int8", "--rank", "2"], "rank: 2 with dtype int8; Δ is stored in one form, remove one of them"),
    ],
)
def test_a_bad_form_is_refused_on_one_line(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    models = ["--expert", str(family.expert), "--vlm", str(family.vlm)]
    with pytest.raises(SystemExit) as end:
        main(["delta", *models, *options, "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------- sparsity


def sparse_expert(family: Family, out: Path, share: float) -> Path:
    """The base, of whose every matrix a share of the elements is the expert's: what RL is known to leave."""

    shutil.copytree(family.base, out)
    base, expert = (load_file(path / "model.safetensors") for path in (family.base, family.expert))
    generator = torch.Generator().manual_seed(0)
    for name, tensor in base.items():
        moved = torch.rand(tensor.shape, generator=generator) < share
        base[name] = torch.where(moved, expert[name], tensor)
    save_file(base, out / "model.safetensors", {"format": "pt"})
    return out


def test_a_sparse_expert_is_measured_and_warned_of(family: Family, tmp_path: Path) -> None:
    expert = sparse_expert(family, tmp_path / "sparse", 0.1)
    references = family.references | {"expert": str(expert)}
    report = compute_delta(DeltaConfig(minus="base"), **references, out=tmp_path / "delta")
    assert report.zeros == pytest.approx(0.9, abs=0.02)
    assert any("sparse: 90% of its difference from" in warning for warning in report.warnings)
    content = read_json(tmp_path / "delta" / "delta_stats.json")
    (vector,) = content["task_vectors"]
    assert (vector["expert"], vector["minus"]) == ("sparse", "base")
    assert vector["zeros"] == pytest.approx(0.9, abs=0.02)
    assert content["tensors"][UP]["zeros"] == pytest.approx(0.9, abs=0.05)
    merged = merge(MergeConfig(method="ties"), **references, out=tmp_path / "merged")
    assert any("merges badly" in warning for warning in merged.warnings)


def test_a_dense_expert_is_not(family: Family, deltas: dict[str, DeltaFile], tmp_path: Path) -> None:
    report = compute_delta(DeltaConfig(minus="base"), **family.references, out=tmp_path / "delta")
    assert not report.warnings and report.zeros < 0.1
    assert math.isfinite(report.tiny)


def test_statistics_of_an_older_version_are_read(family: Family, tmp_path: Path) -> None:
    compute_delta(DeltaConfig(), **family.references, out=tmp_path / "delta")
    content = read_json(tmp_path / "delta" / "delta_stats.json")
    for entry in content["tensors"].values():
        for key in ("full_l2", "energy", "zeros", "tiny"):
            del entry[key]
    write_json(tmp_path / "delta" / "delta_stats.json", content)
    assert energy(load_delta(tmp_path / "delta").stats.values()) == 1.0
