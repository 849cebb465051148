"""A local model whose arithmetic breaks is refused, and does not answer with whatever token comes first."""

import math
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from drift.ground.errors import CheckpointError
from drift.inference.draws import Draws
from drift.inference.local import LocalModel, Soundness
from drift.planning.miniature import render, world
from drift.planning.miniature.world import Split
from tests.world import VLM

IMAGE = render.scene_png(world.sample_scene(random.Random(1), Split.TRAIN), Split.TRAIN, random.Random(1))
LIMIT = {"do_sample": False, "max_new_tokens": 2}


@dataclass(frozen=True)
class Turn:
    text: str = "1 + 1 ="
    images: list[bytes] = field(default_factory=lambda: [IMAGE])


def overflowing(folder: Path) -> Path:
    """The miniature VLM with finite weights whose logits overflow float32."""
    copy = Path(shutil.copytree(VLM, folder))
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], 3e38)
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    return copy


@pytest.mark.parametrize("sampling", [LIMIT, {"do_sample": True, "max_new_tokens": 2, "top_p": 0.9}])
def test_logits_that_overflow_end_the_batch_with_one_line(tmp_path: Path, sampling: dict) -> None:
    model = overflowing(tmp_path / "vlm")
    asked = LocalModel(model, sampling, dtype="float32", threads=1)
    with pytest.raises(CheckpointError) as caught:
        asked.replies([Turn(), Turn()])
    assert str(caught.value) == (
        f"{model}: the model's logits are NaN or infinite, computed in torch.float32; "
        "set dtype: float32 where it is not, or take another checkpoint"
    )


def test_a_sound_model_answers_as_before() -> None:
    asked = LocalModel(VLM, LIMIT, dtype="float32", threads=1)
    greedy = asked.replies([Turn(), Turn("2 + 2 =")])
    assert [reply.completion_tokens for reply in greedy] and greedy == asked.replies([Turn(), Turn("2 + 2 =")])
    drawn = asked.replies([Turn()], draws=Draws(1.0, [7]))
    assert drawn == asked.replies([Turn()], draws=Draws(1.0, [7]))


def test_a_logit_of_minus_infinity_is_a_choice_that_is_forbidden_and_no_fault() -> None:
    sound, scores = Soundness(), torch.tensor([[0.0, -math.inf], [1.0, 2.0]])
    assert torch.equal(sound(torch.empty(2, 0), scores), scores) and not sound.broken
    for value in (math.nan, math.inf):
        broken = Soundness()
        changed = broken(torch.empty(2, 0), torch.tensor([[0.0, value], [1.0, 2.0]]))
        assert changed.tolist() == [[0.0, 0.0], [1.0, 2.0]] and broken.broken
