"""GPU memory by ZeRO stage, worked by hand and against a running network; the table in docs/operations.md."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from drift.cli.app import main
from drift.config.file import load
from drift.config.train import TrainConfig
from drift.planning.sizing import Weights, count, disk_bytes, memory, per_rank
from drift.training.network import trainable_network, trained_elements
from drift.weights.modeling import load_processor
from drift.weights.storage.checkpoints import Checkpoint
from tests.world import EXPERT, VLM

DOCUMENT = Path(__file__).parents[3] / "docs" / "operations.md"
TABLE = re.compile(r"(?<=<!-- sizing -->\n).*?(?=<!-- /sizing -->)", re.DOTALL)

QWEN: dict[str, dict[str, Any]] = {
    "2B": {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "intermediate_size": 8960},
    "3B": {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "intermediate_size": 11008},
    "7B": {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "intermediate_size": 18944},
    "32B": {"hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40, "intermediate_size": 27648},
    "72B": {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "intermediate_size": 29568},
}
"""The text decoders of Qwen2-VL (2B) and Qwen2.5-VL, as their config.json has them."""


def test_sixteen_bytes_a_weight_are_cut_by_stage() -> None:
    # 100 weights, 80 of them trained, 4 ranks: 200 B of weights, 160 B of gradients, 960 B of optimizer.
    weights = Weights(100, 80)
    assert [per_rank(weights, stage, 4) for stage in range(4)] == [
        200 + 160 + 960, 200 + 160 + 240, 200 + 40 + 240, 50 + 40 + 240,
    ]  # fmt: skip
    assert {per_rank(weights, stage, 1) for stage in range(4)} == {1320}
    assert per_rank(Weights(100, 100), 0, 1) == 1600


@pytest.mark.parametrize("freeze", [True, False])
def test_what_is_counted_from_headers_is_what_a_training_moves(freeze: bool) -> None:
    network = trainable_network(TrainConfig(freeze_vision=freeze), VLM, load_processor(VLM))
    counted = count(Checkpoint(VLM), Checkpoint(EXPERT), freeze_vision=freeze)
    assert counted == Weights(sum(p.numel() for p in network.parameters()), trained_elements(network))


def test_the_plan_shows_the_configurations_own_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "-c", "configs/miniature.yaml", "--json"])
    stages = json.loads(capsys.readouterr().out)["memory"]
    weights = count(Checkpoint(VLM), Checkpoint(EXPERT), freeze_vision=True)
    assert stages[2]["bytes_per_rank"]["8"] == per_rank(weights, 2, 8)
    with pytest.raises(SystemExit):
        main(["plan", "-c", "configs/miniature.yaml"])
    assert "ZeRO-3" in capsys.readouterr().out


def test_disk_is_a_model_per_arm_and_delta_and_the_checkpoints_that_are_kept() -> None:
    vlm = Checkpoint(VLM)
    size = sum(info.size_bytes for info in vlm.tensors.values())
    assert disk_bytes(load("configs/miniature.yaml"), vlm) == 7 * size  # five arms, two Δs, no checkpoints
    # float32 weights of 4 bytes; a checkpoint has 12 a weight, of which three exist at once, in four trainings
    assert disk_bytes(load("configs/miniature.yaml", ["train.save_steps=5"]), vlm) == 7 * size + 4 * 3 * 3 * size


def test_the_documented_table_is_computed() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    if os.environ.get("DRIFT_UPDATE_GOLDEN"):
        DOCUMENT.write_text(TABLE.sub(lambda _: table(), text), encoding="utf-8")
    found = TABLE.search(DOCUMENT.read_text(encoding="utf-8"))
    assert found is not None and found[0] == table(), "make golden, and look at the diff"


def table() -> str:
    heads = ["model", "weights", "ZeRO stage", "1 GPU", "2 GPUs", "4 GPUs", "8 GPUs"]
    lines = [f"| {' | '.join(heads)} |", "|---|---:|---|---:|---:|---:|---:|"]
    for name in QWEN:
        weights = counted(name)
        for stage in memory(weights):
            sizes = [f"{size / 1e9:.0f}" for size in stage.bytes_per_rank.values()]
            cells = [
                f"{'Qwen2-VL' if name == '2B' else 'Qwen2.5-VL'}-{name}",
                f"{weights.total / 1e9:.2f} B",
                str(stage.stage),
                *sizes,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def counted(name: str) -> Weights:
    """Of transformers' own class, without memory for the weights; vision tower and projector are frozen."""
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration

    network = Qwen2VLForConditionalGeneration if name == "2B" else Qwen2_5_VLForConditionalGeneration
    with torch.device("meta"):
        model = network(_configuration(name))
    trained = set(model.get_decoder().parameters()) | set(model.get_output_embeddings().parameters())
    return Weights(*(sum(p.numel() for p in weights) for weights in (model.parameters(), trained)))


def _configuration(name: str) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2VLConfig

    text, tied = QWEN[name], name in ("2B", "3B")
    heads = {"2B": 2, "3B": 2, "7B": 4}.get(name, 8)
    common = {"num_key_value_heads": heads, "vocab_size": 151936 if tied else 152064, "tie_word_embeddings": tied}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    text = {**text, **common, "rope_parameters": rope}
    vision = {"depth": 32, "num_heads": 16}
    if name == "2B":
        vision |= {"embed_dim": 1280, "mlp_ratio": 4, "hidden_size": text["hidden_size"]}
        return Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)
    vision |= {"hidden_size": 1280, "intermediate_size": 3420 if name in ("3B", "7B") else 3456}
    vision |= {"out_hidden_size": text["hidden_size"]}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)
