"""The experts of a mixture, each layer's one tensor in three dimensions, guided on two ranks of ZeRO-3 and of FSDP2."""

from pathlib import Path

import pytest
import torch

from tests.invariance import REFERENCE, Scenario, deviation, run_all, worst_tensor
from tests.model_families import MIXTURES
from tests.tiny_models import Family

pytestmark = pytest.mark.slow

CUT = [Scenario("ZeRO-3", "zero3"), Scenario("FSDP2", "fsdp2")]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("mixture")
    family = MIXTURES["Qwen3-VL-MoE (hub)"]
    vlm = family.build_vlm()
    family.save_vlm(vlm, folder / "vlm")
    family.build_expert(vlm).save_pretrained(folder / "expert")
    models = Family(base=folder / "expert", expert=folder / "expert", vlm=folder / "vlm")
    return run_all(folder, models, [REFERENCE, *CUT])


@pytest.mark.parametrize("scenario", CUT, ids=lambda scenario: scenario.name)
def test_two_ranks_guide_the_experts_as_one_process_does(results, scenario):
    one, cut = results[REFERENCE.name], results[scenario.name]
    experts = [name for name in one.moved if ".mlp.experts." in name]
    assert len(experts) == 4 and all(one.moved[name].dim() == 3 and one.moved[name].any() for name in experts)
    assert deviation(cut, one) <= 1e-5
    assert worst_tensor(cut, one) <= 1e-5
    assert sum(cut.elements) == one.elements[0]
    assert torch.tensor(cut.metrics[0]["projection"]) > 0
