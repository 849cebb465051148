"""What `drift plan` says: Ση, the bound on the projection worked by hand, and a real Adam that stays below it."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from drift.cli.app import main
from drift.config.chain import Config
from drift.config.models import DeltaConfig
from drift.config.section import validate
from drift.config.train import TrainConfig
from drift.ground.artifacts import write_json
from drift.ground.errors import ConfigError
from drift.planning.reach import forecast, sampled_ratio
from drift.planning.rehearsal import ASSETS, rehearsal_of
from drift.training.safety.effect import remark, sum_of_rates
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import load_delta
from drift.weights.pairing import plan
from drift.weights.storage.forms import LEFT
from tests.model_families import MIXTURES
from tests.tiny_models import Family, tiny_family


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"))


@pytest.fixture
def raw(family: Family) -> dict:
    return {
        "name": "test",
        "models": family.references,
        "ingest": {"source": "pool"},
        "generate": {"teacher": {"kind": "local", "model": "teacher"}},
        "curate": {"keep": 90, "replay": {"source": "pool", "fraction": 0.1}},
        "deltas": {"paper": {}, "base": {"minus": "base"}},
        "train": {"epochs": 2, "gradient_accumulation": 8, "learning_rate": 1e-3},
        "arms": {
            "sft": {"train": {}},
            "drift": {"train": {}, "delta": "paper"},
            "slow": {"train": {"learning_rate": 1e-9}, "delta": "paper"},
            "merged": {"merge": {"method": "ties"}},
            "both": {"merge": {"method": "linear"}, "train": {}},
        },
        "evaluate": {"data": "tsv", "benchmarks": {"R": {"role": "reasoning"}, "P": {"role": "perception"}}},
        "gate": {"candidate": "drift"},
        "register": {"model": "test"},
    }


def test_a_rank_is_rehearsed_as_one_that_fits_the_miniature(raw: dict) -> None:
    raw["deltas"]["paper"] = {"rank": 512}
    config = rehearsal_of(validate(Config, raw), ASSETS, gpu=False)
    models = config.models
    todo = plan(config.deltas["paper"], expert=models.expert, vlm=models.vlm, base=models.base)
    assert {source.parts[LEFT][1][1] for source in todo.sources if LEFT in source.parts} == {4}
    assert config.deltas["base"].rank is None


def test_an_adapter_is_planned_as_the_expert_that_it_makes(raw: dict, family: Family, tmp_path: Path) -> None:
    (adapter := tmp_path / "adapter").mkdir()
    a, b = torch.zeros(2, 32), torch.zeros(32, 2)
    a[0, 0] = b[0, 0] = 1.0
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file({f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}, adapter / "adapter_model.safetensors")
    write_json(adapter / "adapter_config.json", {"peft_type": "LORA", "r": 2, "lora_alpha": 2})
    raw["models"]["expert"] = f"{family.base}+{adapter}"
    raw["deltas"] = {"paper": {"minus": "base", "modules": [r"re:^layers\.0\.self_attn\.q_proj\.weight"]}}
    (drift,) = (arm for arm in forecast(validate(Config, raw), gpus=1) if arm.arm == "drift")
    assert drift.reach == pytest.approx(drift.sum_of_rates)  # Δ is one element of 1: ‖Δ‖₁/‖Δ‖₂² = 1


def test_sums_of_rates_worked_by_hand() -> None:
    # 100 steps at 2, 10 of them warm-up: the triangle is 10; then 90 · 2, or half of it where the rate falls.
    train = {"learning_rate": 2.0, "warmup_ratio": 0.1}
    kinds = {"constant": 200, "constant_with_warmup": 190, "linear": 100, "cosine": 100}
    for kind, expected in kinds.items():
        assert sum_of_rates(TrainConfig(lr_scheduler=kind, **train), 100) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["constant", "constant_with_warmup", "linear", "cosine"])
def test_sums_of_rates_are_transformers_own(kind: str) -> None:
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_scheduler(kind, optimizer, num_warmup_steps=20, num_training_steps=400)
    rates = []
    for _ in range(400):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    train = TrainConfig(lr_scheduler=kind, learning_rate=1.0, warmup_ratio=0.05)
    assert sum_of_rates(train, 400) == pytest.approx(math.fsum(rates), rel=0.01)


def test_adam_with_every_gradient_along_delta_goes_as_far_as_the_bound_says() -> None:
    # η = 0.01, 50 steps, Δ = (3, −1): reach = 0.5 · 4 / 10 = 0.2. Adam moves each weight by η in Δ's sign.
    delta = torch.tensor([3.0, -1.0])
    weights = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.AdamW([weights], lr=0.01, weight_decay=0)
    for _ in range(50):
        weights.grad = -delta.clone()
        optimizer.step()
    assert float(weights.detach() @ delta / (delta @ delta)) == pytest.approx(0.2, rel=1e-4)


def test_every_arm_is_foretold(raw: dict, family: Family, tmp_path: Path) -> None:
    raw["arms"]["half"] = {"merge": {"method": "delta", "delta": "paper", "weights": [1, 0.5]}}
    config = validate(Config, raw)
    compute_delta(config.deltas["paper"], **family.references, out=tmp_path / "paper")
    arms = {arm.arm: arm for arm in forecast(config, deltas=tmp_path)}
    # 90 chains and a tenth of replay are 100 rows, 13 steps an epoch, 26 in all.
    assert arms["sft"].steps == arms["drift"].steps == 26
    prior = load_delta(tmp_path / "paper")
    ratio = sum(entry["l1"] for entry in prior.stats.values()) / prior.squared_l2
    assert arms["drift"].reach == pytest.approx(0.5 * 26e-3 * ratio)
    assert "α cannot matter at this learning rate" in arms["slow"].remark
    assert (arms["merged"].does, arms["merged"].steps) == ("ties of 25 tensors", 0)
    assert arms["half"].does == "φ_VL + 0.5 Δ 'paper'"
    assert arms["both"].does == "linear of 25 tensors, then SFT"


def test_a_sample_stands_in_for_a_delta_that_is_not_there_yet(raw: dict, family: Family, tmp_path: Path) -> None:
    # The tiny matrices are sampled whole, so the sample is exact; statistics of all tensors are the oracle.
    compute_delta(DeltaConfig(), **family.references, out=tmp_path / "delta")
    prior = load_delta(tmp_path / "delta")
    exact = sum(entry["l1"] for entry in prior.stats.values()) / prior.squared_l2
    assert sampled_ratio(plan(DeltaConfig(), **family.references)) == pytest.approx(exact)
    assert {arm.arm for arm in forecast(validate(Config, raw), samples=100) if arm.reach} == {"drift", "slow"}


def test_going_past_the_expert_is_told_unless_a_schedule_stops_it() -> None:
    constant = TrainConfig.model_validate({"prior": {}})
    stopping = TrainConfig.model_validate({"prior": {"schedule": {"kind": "projection"}}})
    assert remark(3.0, constant).startswith("may overshoot: Adam can reach 3 of Δ")
    assert remark(3.0, stopping) == "Adam can reach 3 of Δ"


def test_an_unknown_number_of_steps_asks_for_samples(raw: dict) -> None:
    raw["curate"] = {"keep": None}
    with pytest.raises(ConfigError, match=r"^curate\.keep: .* give --samples"):
        forecast(validate(Config, raw))
    assert forecast(validate(Config, raw), samples=8)[0].steps == 2


def test_the_steps_are_those_of_the_gpus_that_train(raw: dict) -> None:
    # 100 rows in steps of 8 a rank: on 8 GPUs 2 steps an epoch, 4 in all; on 2 processes 7 and 14
    def steps(**options: int) -> set[int]:
        return {arm.steps for arm in forecast(validate(Config, raw), **options) if arm.steps}

    assert (steps(gpus=8), steps(gpus=0)) == ({4}, {26})
    assert steps() == {2 * math.ceil(100 / 8 / max(1, torch.cuda.device_count()))}
    raw["train"]["processes"] = 2
    assert steps(gpus=8) == {14}


def test_of_models_that_are_not_here_only_the_reach_is_left_out(
    raw: dict, family: Family, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = {arm.arm: arm for arm in forecast(validate(Config, raw))}
    compute_delta(DeltaConfig(), **family.references, out=tmp_path / "paper")
    raw["models"] = {role: f"/no/{role}" for role in raw["models"]}
    arms = {arm.arm: arm for arm in forecast(validate(Config, raw))}
    assert arms["drift"] == dataclasses.replace(known["drift"], reach=None, remark="")
    assert (arms["sft"], arms["both"].does) == (known["sft"], "linear, then SFT")
    assert "reach: not known ('/no/" in caplog.text
    stored = {arm.arm: arm for arm in forecast(validate(Config, raw), deltas=tmp_path)}
    assert stored["drift"].reach == pytest.approx(known["drift"].reach)


# -------------------------------------------------------------------------------------------- dry runs


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == 0
    return capsys.readouterr().out


def test_a_dry_run_of_a_delta_says_every_pair_and_writes_nothing(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["--expert", str(family.expert), "--vlm", str(family.vlm), "--out", str(tmp_path / "out"), "--dry-run"]
    plan = json.loads(output(capsys, "delta", *models, "--modules", "attn", "--json"))
    assert (plan["tensors"], plan["write_bytes"], plan["read_bytes"]) == (14, 3136 * 4 * 2, 3136 * 4 * 2 * 2)
    assert plan["pairs"][0]["pairs"] == [["model.layers.0.self_attn.k_proj.bias"] * 2]
    assert len(plan["not_selected"]) == 27 - 14
    assert "read bytes" in output(capsys, "delta", *models)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_a_merge_says_what_is_merged_and_copied(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [f"--{role}={path}" for role, path in family.references.items()]
    arguments = ["merge", "--method", "ties", *models, "--out", str(tmp_path / "out"), "--dry-run"]
    plan = json.loads(output(capsys, *arguments, "--json"))
    assert plan["tensors"] == len(plan["pairs"]) == 25
    assert plan["copied"] == len(plan["not_merged"])
    assert "lm_head.weight" in plan["not_merged"]
    assert "write bytes" in output(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_published_preset_is_what_the_papers_baselines_used(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [f"--{role}={path}" for role, path in family.references.items()]
    output(capsys, "merge", "--method", "dare_linear", "--preset", "br2v", *models, "--out", str(tmp_path / "out"))
    recipe = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert (recipe["weights"], recipe["density"], recipe["rescale"]) == ([1.6, 0.2], 0.2, False)
    output(
        capsys, "merge", "--method", "ties", "--preset", "br2v", "--density", "0.5", *models, f"--out={tmp_path}/two"
    )
    assert json.loads((tmp_path / "two" / "merge.json").read_text())["density"] == 0.5


def test_a_mixture_is_planned_and_lora_guided_on_its_experts_is_refused(raw: dict, tmp_path: Path) -> None:
    mixture = MIXTURES["Qwen3-VL-MoE (hub)"]
    vlm = mixture.build_vlm()
    models = {"vlm": str(mixture.save_vlm(vlm, tmp_path / "vlm")), "expert": str(tmp_path / "expert")}
    mixture.build_expert(vlm).save_pretrained(tmp_path / "expert")
    lora = {"train": {"lora": {"rank": 4}}}
    some = {"deltas": {"paper": {}, "attention": {"modules": ["attn"]}}, "models": models}
    arms = {"sft": {"train": {}}, "drift": {"train": {}, "delta": "paper"}, "thin": {**lora, "delta": "attention"}}
    planned = forecast(validate(Config, {**raw, **some, "arms": arms}))
    assert [one.reach is not None for one in planned] == [False, True, True]
    arms["drift"] |= lora
    with pytest.raises(ConfigError, match=r"arms\.drift: lora .*experts\.down_proj.*modules to \[attn\]"):
        forecast(validate(Config, {**raw, **some, "arms": arms}))
