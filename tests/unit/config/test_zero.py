"""A DeepSpeed configuration that contradicts the section `train` is refused by file and key, before anything starts."""

import json
from pathlib import Path

import pytest

from drift.config.train import TrainConfig
from drift.config.zero import check_deepspeed
from drift.ground.artifacts import write_json
from drift.ground.errors import ConfigError

SHIPPED = sorted(Path("configs/deepspeed").glob("*.json"))
GOOD = json.loads(Path("configs/deepspeed/zero2.json").read_text())
ZERO3 = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_configuration_that_ships_agrees_with_any_training(path):
    check_deepspeed(TrainConfig(deepspeed=str(path), per_device_batch_size=4, gradient_accumulation=8, bf16=False))


def test_the_shipped_ones_are_the_papers_zero2_a_zero3_and_one_with_offload():
    stages = {path.stem: json.loads(path.read_text())["zero_optimization"]["stage"] for path in SHIPPED}
    assert stages == {"zero2": 2, "zero3": 3, "zero3_offload": 3}


def test_equal_values_are_as_good_as_auto(tmp_path):
    said = {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 4, "gradient_clipping": 1.0}
    write_json(tmp_path / "zero.json", GOOD | said)
    check_deepspeed(
        TrainConfig(deepspeed=str(tmp_path / "zero.json"), per_device_batch_size=2, gradient_accumulation=4)
    )


def test_no_deepspeed_is_nothing_to_check():
    check_deepspeed(TrainConfig())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"gradient_accumulation_steps": 4},
            r"gradient_accumulation_steps is 4, but train\.gradient_accumulation is 1; set it to 'auto'",
        ),
        (
            {"train_micro_batch_size_per_gpu": 2},
            r"train_micro_batch_size_per_gpu is 2, but train\.per_device_batch_size is 1",
        ),
        ({"gradient_clipping": 0.5}, r"gradient_clipping is 0\.5, but train\.max_grad_norm is 1\.0"),
        ({"gradient_clipping": None}, r"gradient_clipping is None, but train\.max_grad_norm is 1\.0"),
        ({"bf16": {"enabled": False}}, r"bf16\.enabled is False, but train\.bf16 is True"),
        ({"train_batch_size": 64}, "train_batch_size is 64; set it to 'auto'"),
        ({"optimizer": {"type": "AdamW"}}, "optimizer: the section 'train' chooses it; remove it there"),
        ({"scheduler": {}}, "scheduler: the section 'train' chooses it"),
        ({"fp16": {"enabled": True}}, r"fp16\.enabled: training is in bf16 or float32"),
        ({"zero_optimization": {"stage": 4}}, r"zero_optimization\.stage is 4; set 0, 1, 2 or 3"),
        ({"zero_optimization": {}}, r"zero_optimization\.stage is None"),
        ({"zero_optimization": {"stage": 3}}, "stage3_gather_16bit_weights_on_model_save is not true"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            "zero_force_ds_cpu_optimizer is not false",
        ),
    ],
)
def test_a_contradiction_names_the_file_the_key_and_the_remedy(tmp_path, change, message):
    write_json(tmp_path / "zero.json", GOOD | change)
    with pytest.raises(ConfigError, match=rf"zero\.json: .*{message}") as caught:
        check_deepspeed(TrainConfig(deepspeed=str(tmp_path / "zero.json")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "train.deepspeed names no file"), ("{", "missing or not JSON"), ("[]", "not a DeepSpeed configuration")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "zero.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        check_deepspeed(TrainConfig(deepspeed=str(tmp_path / "zero.json")))


def test_rollouts_under_zero3_are_refused(tmp_path):
    write_json(tmp_path / "zero.json", GOOD | {"zero_optimization": ZERO3})
    with pytest.raises(ConfigError, match=r"stage 3 with train\.method on_policy: .* use stage 2"):
        check_deepspeed(TrainConfig(deepspeed=str(tmp_path / "zero.json"), method="on_policy"))


def test_lora_under_zero3_is_refused(tmp_path):
    write_json(tmp_path / "zero.json", GOOD | {"zero_optimization": ZERO3})
    with pytest.raises(ConfigError, match=r"stage 3 with train\.lora: .* use stage 2"):
        check_deepspeed(TrainConfig(deepspeed=str(tmp_path / "zero.json"), lora={}))
