"""Options that need a GPU, a package or memory: refused in one line where they cannot work, and the others train."""

import importlib.util

import pytest
import torch
from safetensors.torch import load_file

from drift.config.section import validate
from drift.config.train import TrainConfig
from drift.ground.errors import ConfigError
from drift.training import options
from drift.training.options import check_options, workers_of
from drift.training.sft import train
from tests.ranks import IN_ONE_PIECE, QUICK, apart
from tests.world import VLM, training_set

ALONE = {**QUICK, **IN_ONE_PIECE, "prior": None}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return training_set(tmp_path_factory.mktemp("data"), 24)


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    """The weights that plain SFT gives."""
    return run(data, tmp_path_factory.mktemp("plain") / "out")


def run(data, out, **changes):
    train(TrainConfig(**{**ALONE, **changes}), model=str(VLM), training_set=data, out=out)
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attention": "flash_attention_2"}, "train.attention: flash_attention_2 is not installed (no flash_attn); "),
        (
            {"attention": "flash_attention_3"},
            "train.attention: flash_attention_3 is not installed (no flash_at",
        ),
        ({"optimizer": "adamw_8bit"}, "train.optimizer: adamw_8bit needs bitsandbytes, which is not installed; pip "),
        ({"lora": {"base": "4bit"}}, "train.lora.base: 4bit needs bitsandbytes, which is not installed; pip install"),
        ({"liger": True}, "train.liger: true, but the kernels are not installed; pip install 'drift-mllm[liger]'"),
        ({"lora": {}}, "train.lora needs peft, which is not installed; pip install 'drift-mllm[train]'"),
        ({"deepspeed": "zero2.json"}, "train.deepspeed needs deepspeed, which is not installed; pip install"),
    ],
)
def test_an_option_whose_package_is_not_here_is_refused(changes, said, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        check_options(TrainConfig(**changes))
    assert str(caught.value).startswith(said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attention": "flash_attention_2"}, "train.attention: flash_attention_2 needs a GPU; set it to sdpa or null"),
        ({"optimizer": "adamw_8bit"}, "train.optimizer: adamw_8bit needs a GPU; change it"),
        ({"lora": {"base": "4bit"}}, "train.lora.base: 4bit needs a GPU; change it"),
        ({"liger": True}, "train.liger: true needs a GPU; set it to false"),
    ],
)
def test_an_option_that_needs_a_gpu_is_refused_without_one(changes, said, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ConfigError) as caught:
        check_options(TrainConfig(**changes))
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": "adamw_8bit", "fsdp": True}, "train: optimizer adamw_8bit: its moments cannot be sharded"),
        ({"attention": "flash_attention_2", "bf16": False}, "train: attention flash_attention_2 is for 16-bit arithm"),
        ({"lora": {"base": "4bit"}, "deepspeed": "z.json"}, "train: lora.base 4bit with deepspeed"),
        ({"lora": {"save": "both"}, "add_think_tokens": True}, "train: lora.save both with add_think_tokens"),
        ({"lora": {"base": "4bit"}, "prior": {}}, "train: lora.base 4bit with a prior"),
        ({"lora": {"base": "4bit"}, "add_think_tokens": True}, "train: lora.base 4bit with add_think_tokens"),
    ],
)
def test_options_that_do_not_go_together_are_refused(changes, said):
    with pytest.raises(ConfigError) as caught:
        validate(TrainConfig, changes, where="train")
    assert str(caught.value).startswith(said)


def test_workers_whose_batches_do_not_fit_into_shared_memory_are_refused(monkeypatch):
    monkeypatch.setattr(options, "_shared_memory", lambda: 64 * 2**20)  # a container's, unless it is told otherwise
    with pytest.raises(ConfigError, match=r"workers: 8 hand over up to 100,663,296 bytes, but /dev/shm has 67,1"):
        check_options(TrainConfig(workers=8))  # 8 workers, 2 batches each, of 262,144 pixels with 24 bytes
    check_options(TrainConfig(workers=4))


@pytest.mark.parametrize(
    ("gpu", "processors", "memory", "workers"),
    [(False, 64, 2**40, 0), (True, 64, 2**40, 4), (True, 3, 2**40, 2), (True, 1, 2**40, 0), (True, 64, 2**24, 1)],
)
def test_a_rank_with_a_gpu_has_as_many_workers_as_make_sense(monkeypatch, gpu, processors, memory, workers):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(processors)))
    monkeypatch.setattr(options, "_shared_memory", lambda: memory)
    assert workers_of(TrainConfig()) == workers
    assert workers_of(TrainConfig(workers=7)) == 7


def test_workers_do_not_change_the_weights(data, plain, tmp_path):
    made = run(data, tmp_path / "out", workers=2, image_max_pixels=65536)
    assert all(torch.equal(made[name], plain[name]) for name in plain)


@pytest.mark.parametrize("changes", [{"optimizer": "adamw_fused"}, {"attention": "eager"}, {"attention": "sdpa"}])
def test_another_kernel_gives_the_same_weights_but_for_rounding(data, plain, tmp_path, changes):
    assert apart(run(data, tmp_path / "out", **changes), plain) <= 1e-4
