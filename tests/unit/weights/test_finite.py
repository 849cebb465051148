"""NaN and infinity are found in every dtype and at every place, and named as the file names them."""

import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from drift.ground.errors import CheckpointError
from drift.weights.modeling import load_vlm
from drift.weights.storage.finite import first_not_finite, is_finite
from tests.world import VLM

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
UP = "layers.1.mlp.up_proj.weight"


def spoiled(folder: Path, name: str, value: float) -> tuple[Path, str]:
    """A copy of the miniature VLM with one element of one tensor changed, and that tensor's name in the file."""
    copy = Path(shutil.copytree(VLM, folder))
    tensors = load_file(copy / "model.safetensors")
    own = next(one for one in tensors if one.endswith(name))
    tensors[own].view(-1)[-1] = value
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    return copy, own


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 500, 999])
def test_one_element_is_enough(dtype: torch.dtype, value: float, place: int) -> None:
    tensor = torch.zeros(1000, dtype=dtype)
    assert is_finite(tensor)
    tensor[place] = value
    assert not is_finite(tensor)
    assert not is_finite(tensor.view(10, 100).T)


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_the_verdict_is_torchs_own_element_by_element(values: list[float]) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    assert bool(is_finite(tensor)) == bool(tensor.isfinite().all())


def test_eight_bits_are_looked_at_and_integers_and_nothing_are_finite() -> None:
    eight = torch.ones(4).to(torch.float8_e4m3fn)
    assert is_finite(eight)
    assert not is_finite(torch.tensor([1.0, math.nan]).to(torch.float8_e4m3fn))
    assert is_finite(torch.tensor([1, 2])) and is_finite(torch.empty(0)) and is_finite(torch.tensor(2.0))


def test_the_first_that_is_not_finite_is_named() -> None:
    broken = torch.tensor([1.0, math.nan])
    assert first_not_finite([("a", torch.ones(2)), ("b", broken), ("c", broken)]) == "b"
    assert first_not_finite([("a", torch.ones(2))]) is None
    assert first_not_finite([]) is None


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_model_of_nan_is_not_loaded_and_its_tensor_is_named_as_in_the_file(tmp_path: Path, value: float) -> None:
    model, own = spoiled(tmp_path / "vlm", UP, value)
    with pytest.raises(CheckpointError) as caught:
        load_vlm(model)
    assert str(caught.value) == (
        f"{model}/model.safetensors: '{own}' holds NaN or infinity; the checkpoint is broken, take another"
    )


def test_weights_too_large_for_the_dtype_they_are_loaded_in_are_no_fault_of_the_file(tmp_path: Path) -> None:
    model, _ = spoiled(tmp_path / "vlm", UP, 1e6)  # the largest float16 is 65,504
    load_vlm(model, dtype="float32")
    with pytest.raises(CheckpointError, match=rf"{re.escape(UP)}' is too large for torch\.float16; load it in its own"):
        load_vlm(model, dtype="float16")
