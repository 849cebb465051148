"""Where the paper's released code takes the miniature's weights: the oracle of `tests/unit/training/test_parity.py`.

Made once, by the code itself: WikiChao/DRIFT on GitHub at 0a1edeea83a8001aa4bf78f9a44afbaaccfa71fa, its
LLaMA-Factory/src/llamafactory/model/drift.py, under transformers 4.51.3, the last it attaches its hooks on. Its trainer
sets `model_accepts_loss_kwargs = False` (train/sft/trainer.py): a step's loss is the mean of the micro-batches' means.
It hangs on every micro-batch's gradient (`backward`). `step`, which it cannot do, is its own hooks called once on each
step's averaged gradient. The weights are float64. Here the batches are written down, and there, in an
environment of its own, they are trained on:

    python -m tests.golden.released_code inputs FOLDER
    python tests/golden/released_code.py record FOLDER drift.py > tests/golden/released_code.json

Kept are 32 random projections of each displacement: two displacements lie as far apart as their projections do.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ASSETS = Path(__file__).parents[2] / "drift" / "planning" / "miniature" / "assets"
BATCHES = "batches.safetensors"
STEPS, GLOBAL_BATCH, LEARNING_RATE, MAX_NORM = 3, 8, 1e-3, 1.0
CUTS = (1, 4)
"""Micro-batches of a step."""
PATTERNS = {"attn": ["attn"], "attn+mlp": ["mlp", "attn"]}
"""Which modules are guided: here, and as the released code is told it."""
SCALES = {
    "adaptive": ("adaptive_cosine", False),
    "grad_norm": ("gradnorm", False),
    "absolute": ("absolute", False),
    "absolute, rescaled": ("absolute", True),
}
"""How Δ acts: the released code's name for it, and whether Δ is brought to the norm of the weight."""
PLAIN: dict[str, Any] = {"scale": None, "modules": None, "apply": None}
CASES = [
    {**case, "cut": cut}
    for cut in CUTS
    for case in (
        PLAIN,
        *(dict(zip(PLAIN, names, strict=True)) for names in itertools.product(SCALES, PATTERNS, ("backward", "step"))),
    )
]
DIRECTIONS = 32


@functools.cache
def _directions(place: int, size: int) -> Any:
    """Standard normal, of numpy's frozen generator: the same with every version."""
    return np.random.RandomState(place).standard_normal((DIRECTIONS, size))


def projections(displacement: Mapping[str, Any]) -> Any:
    """A displacement of all tensors, by name, on 32 random directions."""
    total = np.zeros(DIRECTIONS)
    for place, name in enumerate(sorted(displacement)):
        flat = np.asarray(displacement[name], dtype=np.float64).ravel()
        total += _directions(place, flat.size) @ flat
    return total


def write_inputs(folder: Path) -> None:
    """The batches that our own training has, for each cut, step and micro-batch, as one file."""
    from safetensors.torch import save_file

    from drift.config.train import TrainConfig
    from drift.training.batches.collate import AnswerCollator, TrainingRows
    from drift.training.batches.order import RowOrder
    from drift.weights.modeling import load_processor
    from tests.world import VLM, training_set

    processor = load_processor(VLM)
    rows = TrainingRows(training_set(folder / "data", STEPS * GLOBAL_BATCH), processor, TrainConfig())
    order, collate, batches = list(RowOrder(rows.lengths, seed=0)), AnswerCollator(processor), {}
    for cut in CUTS:
        size = GLOBAL_BATCH // cut
        for place in range(STEPS * cut):
            batch = collate([rows[row] for row in order[place * size : (place + 1) * size]])
            batches |= {f"{cut}/{place}/{name}": value.contiguous() for name, value in batch.items()}
    save_file(batches, folder / BATCHES)


def record(folder: Path, code: Path) -> None:
    """Train every case as the released code does, and print where it went."""
    import torch
    import transformers

    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("released", code)
    released = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(released)
    for case in CASES:
        with contextlib.redirect_stdout(sys.stderr):  # it tells of each tensor
            moved = _displacement(case, folder, released)
        norm = float(np.sqrt(sum(np.square(value, dtype=np.float64).sum() for value in moved.values())))
        case |= {"norm": norm, "projections": projections(moved).tolist()}
        print(case["cut"], case["scale"], case["modules"], case["apply"], norm, file=sys.stderr)
    made_with = {"transformers": transformers.__version__, "torch": torch.__version__}
    json.dump({"made_with": made_with, "cases": CASES}, sys.stdout, indent=1)


def _displacement(case: dict[str, Any], folder: Path, released: Any) -> dict[str, Any]:
    from safetensors.torch import load_file

    before = load_file(ASSETS / "vlm" / "model.safetensors")
    model = _vlm(before)
    trainer = _trainer(model, _batches(folder, case["cut"]), case["cut"])
    prior = _prior(model, case, released) if case["scale"] else None
    if prior is not None and case["apply"] == "backward":
        prior.attach(model)
    elif prior is not None:
        _guide_each_step(trainer, prior)
    trainer.train()
    return {name: (value.detach() - before[name]).numpy() for name, value in model.state_dict().items()}


def _vlm(weights: Mapping[str, Any]) -> Any:
    """The miniature as transformers 4.51.3 configures it: the text's keys on top, mrope a kind of scaling."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    stored = json.loads((ASSETS / "vlm" / "config.json").read_text())
    text, vision = stored.pop("text_config"), stored.pop("vision_config")
    rope = text.pop("rope_parameters")
    vision.pop("rope_parameters")
    for key in ("model_type", "layer_types", "pad_token_id", "eos_token_id", "bos_token_id", "tie_word_embeddings"):
        text.pop(key)
    for key in ("architectures", "dtype", "model_type", "transformers_version"):
        stored.pop(key)
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    config = Qwen2_5_VLConfig(
        **stored, **text, vision_config=vision, rope_theta=rope["rope_theta"], rope_scaling=scaling
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.load_state_dict(weights)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("visual" not in name)
    return model.double()


def _batches(folder: Path, cut: int) -> list[dict[str, Any]]:
    from safetensors.torch import load_file

    stored = load_file(folder / BATCHES)
    known = {"input_ids", "attention_mask", "labels", "pixel_values", "image_grid_thw"}
    names = sorted({name.rpartition("/")[2] for name in stored} & known)
    return [{name: stored[f"{cut}/{place}/{name}"] for name in names} for place in range(STEPS * cut)]


def _trainer(model: Any, batches: list[dict[str, Any]], cut: int) -> Any:
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainingArguments

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=cut,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=MAX_NORM,
        optim="adamw_torch",
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = InOrder(model, arguments, data_collator=lambda rows: rows[0], train_dataset=batches)
    trainer.model_accepts_loss_kwargs = False  # as the released trainer
    return trainer


def _prior(model: Any, case: dict[str, Any], released: Any) -> Any:
    from transformers import AutoModelForCausalLM

    scale, rescaled = SCALES[case["scale"]]
    return released.DeltaDirectionPrior(
        model,
        AutoModelForCausalLM.from_pretrained(ASSETS / "expert"),
        alpha=1.0,
        scale=scale,
        normalize_delta_to_param=rescaled,
        merge_patterns=PATTERNS[case["modules"]],
    )


def _guide_each_step(trainer: Any, prior: Any) -> None:
    """The released code's own hooks, once on each averaged gradient, before it is clipped."""
    clip = trainer.accelerator.clip_grad_norm_

    def guided(*arguments: Any, **options: Any) -> Any:
        for parameter in prior._param_to_delta:
            parameter.grad = prior._make_hook(parameter)(parameter.grad)
        return clip(*arguments, **options)

    trainer.accelerator.clip_grad_norm_ = guided


if __name__ == "__main__":
    todo, *paths = sys.argv[1:]
    {"inputs": write_inputs, "record": record}[todo](*map(Path, paths))
