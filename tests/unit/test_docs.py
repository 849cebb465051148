"""The code in the documentation runs as it stands there."""

import re
from pathlib import Path

import pytest
import torch

from drift.config.models import DeltaConfig
from drift.weights.delta import compute_delta
from drift.weights.modeling import load_processor, load_vlm
from tests.unit.prior.test_callback import conversations
from tests.world import EXPERT, VLM, training_set

PAGE = Path("docs/prior.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with Δ in `delta`, as the page has it."""
    compute_delta(DeltaConfig(), expert=str(EXPERT), vlm=str(VLM), base=None, out=tmp_path / "delta")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_plain_loop_of_the_page_moves_towards_the_expert(here, capsys):
    model = load_vlm(VLM, dtype="float32")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tokens = torch.arange(3, 15).reshape(2, 6)
    names = {"torch": torch, "model": model, "optimizer": optimizer}
    exec(BLOCKS[0], names | {"batches": [{"input_ids": tokens, "labels": tokens}] * 3})
    assert float(re.search(r"'projection': ([-\d.e]+)", capsys.readouterr().out)[1]) > 0


def test_the_trl_block_of_the_page_trains_with_the_prior(here):
    from trl import SFTConfig

    training_set(here, 8)
    args = SFTConfig(
        output_dir=str(here / "out"), max_steps=2, max_length=None, bf16=False, use_cpu=True, report_to="none",
        activation_checkpointing=False, logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    names = {"model": load_vlm(VLM, dtype="float32"), "args": args, "processor": load_processor(VLM)}
    names["dataset"] = conversations(here)
    exec(BLOCKS[1], names)
    assert names["trainer"].state.log_history[0]["prior_ratio"] > 0


def test_each_way_into_another_trainer_is_about_ten_lines():
    assert [len(block.splitlines()) <= 15 for block in BLOCKS] == [True, True]
