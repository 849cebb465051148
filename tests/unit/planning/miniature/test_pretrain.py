from pathlib import Path

import pytest
import torch

from drift.ground.errors import DriftError
from drift.planning.miniature import models, pretrain
from drift.planning.miniature.pretrain import Recipe


def test_an_expert_that_does_not_learn_is_refused_with_its_accuracy(tmp_path: Path):
    torch.manual_seed(0)
    models.save_text_model(models.new_text_model(), tmp_path / "base")
    recipe = Recipe(seed=5, progress=False, expert_steps=1, expert_extra_steps=1, questions=4)
    with pytest.raises(DriftError, match=r"seed 5: the expert solves \d+\.\d % of text problems, 95 are required"):
        pretrain.train_expert(tmp_path, recipe)
    assert not (tmp_path / "expert").exists()


def test_the_task_vector_of_a_vlms_own_decoder_makes_it_the_expert():
    torch.manual_seed(0)
    base, expert = models.new_text_model().state_dict(), models.new_text_model().state_dict()
    vlm = models.new_vlm(base)
    vision = {name: tensor.clone() for name, tensor in vlm.state_dict().items() if "visual" in name}
    models.add_task_vector(vlm, expert, base)
    # φ_VL + φ_reason − φ_base = φ_reason where φ_VL = φ_base; the vision tower has no partner and stays
    state = vlm.state_dict()
    for name, tensor in models.to_vlm_names(expert).items():
        torch.testing.assert_close(state[name], tensor)
    assert all(torch.equal(state[name], tensor) for name, tensor in vision.items()) and vision
