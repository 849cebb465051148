"""A LoRA adapter as the expert: peft's own merge is the oracle, and what is no plain LoRA is refused."""

import json
import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from drift.cli.app import main
from drift.config.models import DeltaConfig, MergeConfig, ModelsConfig
from drift.config.plan import DeltasStep, delta_inputs
from drift.ground.artifacts import content_sha256, read_json, read_provenance, write_json
from drift.ground.errors import CheckpointError, ConfigError
from drift.planning.outside import check_model
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import load_delta
from drift.weights.merging.merge import merge
from drift.weights.storage.adapters import WEIGHTS, Adapted, open_model
from drift.weights.storage.headers import read_header
from tests.tiny_models import Family, tiny_family, tiny_llm

ALL = ("attn", "mlp", "norm", "head", "embed")
PROJECTIONS = ["q_proj", "v_proj", "up_proj", "down_proj"]
Config = dict[str, Any]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"))


def adapt(base: Path, folder: Path, dtype: torch.dtype = torch.float32, **config: Any) -> tuple[Path, Path]:
    """An adapter of ``base`` with random factors as peft saves it, and the model that peft merges it into."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    settings = {"r": 4, "lora_alpha": 12, "target_modules": PROJECTIONS, "task_type": "CAUSAL_LM"} | config
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), LoraConfig(**settings))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an adapted embedding
        model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), folder / "adapter")
    loaded.merge_and_unload().save_pretrained(folder / "merged")
    return folder / "adapter", folder / "merged"


@pytest.fixture(scope="module")
def adapter(family: Family, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return adapt(family.base, tmp_path_factory.mktemp("lora"))


KINDS: dict[str, Config] = {
    "plain": {},
    "rank stabilised": {"use_rslora": True},
    "ranks and alphas by module": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.1\.mlp\.up_proj": 40}},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "one layer": {"layers_to_transform": [1]},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_delta_of_an_adapter_is_that_of_the_model_peft_merges(family: Family, tmp_path: Path, kind: str) -> None:
    adapter, merged = adapt(family.base, tmp_path, **KINDS[kind])
    config = DeltaConfig(modules=ALL, minus="base")
    deltas = [
        compute_delta(config, expert=str(expert), vlm=str(family.vlm), base=str(family.base), out=tmp_path / name)
        for expert, name in ((adapter, "one"), (merged, "two"))
    ]
    one, two = (load_file(report.folder / "delta.safetensors") for report in deltas)
    assert one.keys() == two.keys()
    assert any(tensor.any() for tensor in two.values())
    for name, tensor in two.items():
        torch.testing.assert_close(one[name], tensor, rtol=0, atol=1e-6)
    assert deltas[0].l2 == pytest.approx(deltas[1].l2, rel=1e-5)


def test_fan_in_fan_out_means_nothing_to_linear_layers_here_and_in_peft(family: Family, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter, _ = adapt(family.base, tmp_path, target_modules=["q_proj"])
    rewrite(adapter, fan_in_fan_out=True)
    with pytest.warns(UserWarning, match="fan_in_fan_out"):
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(family.base), adapter)
    weight = model.merge_and_unload().model.layers[1].self_attn.q_proj.weight
    torch.testing.assert_close(open_model(str(adapter)).tensor("model.layers.1.self_attn.q_proj.weight"), weight)


def test_what_the_adapter_moved_is_not_rounded_to_the_bases_dtype_first(tmp_path: Path) -> None:
    family = tiny_family(tmp_path, dtype=torch.bfloat16)
    adapter, merged = adapt(family.base, tmp_path, torch.bfloat16, lora_alpha=1)
    vlm, name = load_file(family.vlm / "model.safetensors"), "layers.0.self_attn.q_proj.weight"
    factors = load_file(adapter / WEIGHTS)
    a, b = (factors[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{one}.weight"].double() for one in "AB")
    exact = load_file(family.base / "model.safetensors")[f"model.{name}"].double() + b @ a / 4 - vlm[f"model.{name}"]
    errors = []
    for expert in (adapter, merged):
        out = tmp_path / f"delta of {expert.name}"
        compute_delta(DeltaConfig(), expert=str(expert), vlm=str(family.vlm), base=None, out=out)
        delta = load_delta(out).tensor(name)
        assert delta.dtype == torch.bfloat16
        errors.append(float((delta.double() - exact).norm() / exact.norm()))
    assert errors[0] < 0.003
    assert errors[0] < errors[1] / 2


def test_stretches_that_cut_rows_are_the_same_tensor(adapter: tuple[Path, Path]) -> None:
    model, name = open_model(str(adapter[0])), "model.layers.1.mlp.down_proj.weight"
    whole = torch.cat([piece.clone() for piece in model.pieces(name, 7)])
    torch.testing.assert_close(whole.view(model.shapes[name]), model.tensor(name))
    torch.testing.assert_close(model.first_rows(name, 100), model.tensor(name)[:2])


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_a_merge_takes_an_adapter(family: Family, adapter: tuple[Path, Path], tmp_path: Path, method: str) -> None:
    for expert, name in zip(adapter, ("one", "two"), strict=True):
        references = family.references | {"expert": str(expert)}
        merge(MergeConfig(method=method), **references, out=tmp_path / name)  # type: ignore[arg-type]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in two.items():
        torch.testing.assert_close(one[name], tensor, rtol=0, atol=1e-6)
    assert {"expert", "expert_base"} <= read_json(tmp_path / "one" / "merge.json")["weights_sha256"].keys()


def test_a_given_base_goes_before_the_one_that_the_adapter_names(family: Family, adapter: tuple[Path, Path]) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    own, given = (open_model(text) for text in (str(adapter[0]), f"{family.expert}+{adapter[0]}"))
    moved = own.tensor(name) - load_file(family.base / "model.safetensors")[name]
    assert isinstance(given, Adapted) and given.base.path == family.expert
    torch.testing.assert_close(given.tensor(name), load_file(family.expert / "model.safetensors")[name] + moved)


def test_an_adapter_and_its_base_stand_in_the_delta(family: Family, adapter: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ["--expert", str(adapter[0]), "--vlm", str(family.vlm), "--out", str(tmp_path / "delta"), "--json"]
    main_ok(["delta", *arguments])
    models = json.loads(read_header(tmp_path / "delta" / "delta.safetensors").metadata["models"])
    assert [(model["name"], model["sha256"]) for model in models] == [
        (path.name, content_sha256(path)) for path in (family.vlm, adapter[0], family.base)
    ]
    inputs = {entry["name"]: entry["uri"] for entry in read_provenance(tmp_path / "delta")["inputs"]}
    assert (inputs["expert_1"], inputs["expert_1_base"]) == (str(adapter[0]), str(family.base))


def main_ok(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert not end.value.code


@pytest.mark.parametrize("given", [False, True])
def test_a_step_runs_again_when_the_adapters_base_changes(
    family: Family, adapter: tuple[Path, Path], tmp_path: Path, given: bool
) -> None:
    base = Path(shutil.copytree(family.base, tmp_path / "base"))
    own = Path(shutil.copytree(adapter[0], tmp_path / "adapter"))
    rewrite(own, base_model_name_or_path="/not/here" if given else str(base))
    models = ModelsConfig(vlm=str(family.vlm), expert=f"{base}+{own}" if given else str(own))
    step = DeltasStep(models=models, deltas={"paper": DeltaConfig()})
    before = delta_inputs(step)
    (base / "more").touch()
    after = delta_inputs(step)
    assert {key for key in after if before[key] != after[key]} == {"models.expert: base"}


def test_a_plan_looks_at_the_adapter_and_at_its_base(
    family: Family, adapter: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    check_model("models.expert", str(adapter[0]))
    check_model("models.expert", f"{family.expert}+{adapter[0]}")
    own = Path(shutil.copytree(adapter[0], tmp_path / "adapter"))
    for base, message in (("/none", "'/none' does not exist"), ("drift-tests/none", "is not in the hub's cache")):
        rewrite(own, base_model_name_or_path=base)
        with pytest.raises(ConfigError, match=f"models.expert: base: .*{message}"):
            check_model("models.expert", str(own))


# ------------------------------------------------------------------------------------------- refusals


def rewrite(adapter: Path, **changes: Any) -> None:
    file = adapter / "adapter_config.json"
    write_json(file, read_json(file) | changes)


def spoil(adapter: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(adapter / WEIGHTS)
    change(tensors)
    save_file(tensors, adapter / WEIGHTS)


A = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"

REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "DoRA": (lambda a: rewrite(a, use_dora=True), "use_dora is True, which is not understood; merge it into its base"),
    "other method": (lambda a: rewrite(a, peft_type="IA3"), "peft_type is IA3, only LORA is understood"),
    "trained biases": (lambda a: rewrite(a, bias="lora_only"), "bias is lora_only"),
    "biases of the factors": (lambda a: rewrite(a, lora_bias=True), "lora_bias is True"),
    "whole modules": (lambda a: rewrite(a, modules_to_save=["lm_head"]), "modules_to_save is ['lm_head']"),
    "PiSSA": (lambda a: rewrite(a, init_lora_weights="pissa"), "init_lora_weights is pissa"),
    "layers copied": (lambda a: rewrite(a, layer_replication=[[0, 2]]), "layer_replication is [[0, 2]]"),
    "a key of tomorrow": (lambda a: rewrite(a, use_tomorrow=True), "use_tomorrow is True"),
    "no JSON": (lambda a: (a / "adapter_config.json").write_text("{"), "not JSON"),
    "no base": (lambda a: rewrite(a, base_model_name_or_path=None), "names no base_model_name_or_path"),
    "base not there": (lambda a: rewrite(a, base_model_name_or_path="/none"), "its base: '/none': no such directory"),
    "no weights": (lambda a: (a / WEIGHTS).rename(a / "adapter_model.bin"), "convert it to safetensors"),
    "cut off": (lambda a: (a / WEIGHTS).write_bytes((a / WEIGHTS).read_bytes()[:-9]), "cut off"),
    "half a pair": (lambda a: spoil(a, lambda t: t.pop(A)), "layers.1.mlp.up_proj' has B alone"),
    "a tensor that is no factor": (lambda a: spoil(a, lambda t: t.update(x=torch.ones(2))), "'x' (F32 [2]) is no fact"),
    "no rank": (lambda a: spoil(a, lambda t: t.update({A: torch.ones(0, 32)})), "(F32 [0, 32]) is no factor"),
    "wrong width": (lambda a: spoil(a, lambda t: t.update({A: torch.ones(4, 8)})), "does not fit"),
    "wrong layer": (
        lambda a: spoil(a, lambda t: [t.update({n.replace("layers.1", "layers.7"): t.pop(n)}) for n in list(t)]),
        "'model.layers.7.mlp.down_proj.weight': the model has no tensor of this name",
    ),
    "NaN": (lambda a: spoil(a, lambda t: t[A].fill_(math.nan)), f"{WEIGHTS}: '{A}' holds NaN or infinity"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_plain_lora_of_the_base_is_refused_on_one_line(
    family: Family, adapter: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    damage, message = REFUSED[kind]
    own = Path(shutil.copytree(adapter[0], tmp_path / "adapter"))
    damage(own)
    with pytest.raises(SystemExit) as end:
        main(["delta", "--expert", str(own), "--vlm", str(family.vlm), "--out", str(tmp_path / "out")])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("drift: ")]
    assert end.value.code == 2
    assert len(lines) == 1 and message in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["adapter"]


def test_an_adapter_of_another_model_is_refused(adapter: tuple[Path, Path], tmp_path: Path) -> None:
    other = tiny_llm(tmp_path / "other", hidden_size=64)
    with pytest.raises(CheckpointError, match=r"shape .* does not fit .*; give its own base \(BASE\+ADAPTER\)"):
        open_model(f"{other}+{adapter[0]}")


def test_a_base_for_what_is_no_adapter_is_refused(family: Family) -> None:
    with pytest.raises(CheckpointError, match=r"expert: no LoRA adapter \(adapter_config.json\) to put on"):
        open_model(f"{family.base}+{family.expert}")


def test_an_adapter_is_no_vlm(family: Family, adapter: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="only an adapter"):
        compute_delta(DeltaConfig(), expert=str(family.expert), vlm=str(adapter[0]), base=None, out=tmp_path / "delta")
