"""φ_VL + c·Δ as a LoRA adapter: what peft makes of it against the model that the same merge writes whole."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from drift.cli.app import main
from drift.config.models import DeltaConfig, MergeConfig
from drift.ground.artifacts import read_json, read_provenance
from drift.ground.errors import CheckpointError, ConfigError, PriorError
from drift.weights.delta.delta import compute_delta
from drift.weights.merging.adapter import AdapterReport, merge_as_adapter
from drift.weights.merging.merge import merge
from drift.weights.modeling import load_vlm
from drift.weights.storage.checkpoints import fingerprint
from tests.tiny_models import Family, tiny_family, tiny_vlm

MATRICES: dict[str, Any] = {"rank": 4, "include_bias": False}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"))


def delta_of(family: Family, folder: Path, **config: Any) -> Path:
    compute_delta(DeltaConfig(**config), **family.references, out=folder / "delta")
    return folder / "delta"


def both_ways(family: Family, delta: Path, folder: Path, **config: Any) -> tuple[AdapterReport, torch.Tensor]:
    """The report of the adapter, and how far its logits are from the merged model's and φ_VL's: (2,)."""
    from peft import PeftModel

    todo = MergeConfig(method="delta", **config)
    report = merge_as_adapter(todo, vlm=str(family.vlm), delta=delta, out=folder / "adapter")
    merge(todo, expert=None, vlm=str(family.vlm), base=None, delta=delta, out=folder / "merged")
    own = logits(PeftModel.from_pretrained(load_vlm(family.vlm, dtype="float32"), folder / "adapter"))
    others = (load_vlm(path, dtype="float32") for path in (folder / "merged", family.vlm))
    return report, torch.stack([(own - logits(other)).abs().max() for other in others])


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(1, 17).view(1, -1)
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return found


PARTS = [{"modules": ["attn"], "weights": (1, 2)}, {"layers": "1", "weights": (1, -0.5)}]
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "whole step": ({}, {"weights": (1, 1)}),
    "half": ({}, {"weights": (1, 0.5)}),
    "other factors in parts": ({}, {"weights": (1, 0.3), "parts": PARTS}),
    "some matrices stored whole": ({"rank": 12}, {"weights": (1, 0.7), "parts": PARTS}),
    "head": ({"modules": ("mlp", "head")}, {"weights": (1, 1)}),
    "one layer": ({"layers": "1"}, {"weights": (1, 1)}),
}


@pytest.mark.parametrize("case", CASES)
def test_peft_makes_of_the_adapter_what_the_merge_writes_whole(family: Family, tmp_path: Path, case: str) -> None:
    of_delta, of_merge = CASES[case]
    delta = delta_of(family, tmp_path, **MATRICES | of_delta)
    report, (from_merged, from_vlm) = both_ways(family, delta, tmp_path, **of_merge)
    assert from_merged < 1e-5 < 1e-2 < from_vlm
    assert report.left_out == 0 and not report.warnings
    assert report.bytes < (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size < report.bytes + 9_000


def test_an_adapter_of_sixteen_bits_is_the_merge_to_their_rounding(tmp_path: Path) -> None:
    family = tiny_family(tmp_path, dtype=torch.bfloat16)
    delta = delta_of(family, tmp_path, **MATRICES)
    _, (from_merged, from_vlm) = both_ways(family, delta, tmp_path, weights=(1, 1))
    assert from_merged < from_vlm / 10
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}


def test_the_adapter_is_an_expert_of_its_vlm(family: Family, tmp_path: Path) -> None:
    both_ways(family, delta_of(family, tmp_path, **MATRICES), tmp_path, weights=(1, 0.5))
    config = MergeConfig(method="linear", weights=(0, 1))
    merge(config, expert=str(tmp_path / "adapter"), vlm=str(family.vlm), base=None, out=tmp_path / "later")
    now, later = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "later"))
    for name, tensor in now.items():
        torch.testing.assert_close(later[name], tensor, rtol=0, atol=1e-6)


def test_what_no_lora_moves_is_left_out_counted_and_named(family: Family, tmp_path: Path) -> None:
    delta = delta_of(family, tmp_path, rank=4, modules=("attn", "norm", "embed"))
    report, (from_merged, _) = both_ways(family, delta, tmp_path, weights=(1, 1))
    # two layers: 3 biases and 2 norms each, the final norm, the embeddings; of matrices 4 projections each
    assert (report.tensors, report.left_out) == (8, 12) and from_merged > 1e-3
    assert re.match(
        r"a LoRA moves matrices of linear layers alone: 12 tensors of Δ \(\d+\.\d\d% of ‖Δ‖²\) are not in the adapter "
        r"\(.*layers\.N\.self_attn\.q_proj\.bias.*, embed_tokens\.weight.*\); a merge without --as-adapter has them",
        report.warnings[0],
    )
    assert report.metrics()["adapter/left_out"] == 12


def test_the_command_names_the_base_and_writes_the_same_bytes_again(family: Family, tmp_path: Path) -> None:
    delta = delta_of(family, tmp_path, **MATRICES)
    for name in ("one", "two"):
        given = ["--method", "delta", "--delta", str(delta), "--vlm", str(family.vlm), "--weights", "1,0.5"]
        with pytest.raises(SystemExit) as end:
            main(["merge", *given, "--as-adapter", "--out", str(tmp_path / name)])
        assert not end.value.code
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    config = read_json(tmp_path / "one" / "adapter_config.json")
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == (str(family.vlm), 4, 2.0)
    provenance = read_provenance(tmp_path / "one")
    assert provenance["original_vlm_sha256"] == fingerprint(family.vlm)
    assert [entry["name"] for entry in provenance["inputs"]] == ["vlm", "delta"]


def test_what_makes_no_adapter_is_refused_and_leaves_nothing(family: Family, tmp_path: Path) -> None:
    whole, ranked = delta_of(family, tmp_path / "whole"), delta_of(family, tmp_path / "ranked", **MATRICES)
    other, out = tiny_vlm(tmp_path / "other", fine_tune=7), tmp_path / "out"
    step = MergeConfig(method="delta", weights=(1, 1))
    with pytest.raises(
        CheckpointError, match=r"whole/delta: Δ is not of a rank; compute it with one \(drift delta --r"
    ):
        merge_as_adapter(step, vlm=str(family.vlm), delta=whole, out=out)
    with pytest.raises(ConfigError, match="method: 'linear' makes no adapter; give method delta and a Δ"):
        merge_as_adapter(MergeConfig(method="linear"), vlm=str(family.vlm), delta=None, out=out)
    with pytest.raises(PriorError, match="made from another φ_VL"):
        merge_as_adapter(step, vlm=str(other), delta=ranked, out=out)
    assert not out.exists()
