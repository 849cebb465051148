"""The training stages: base, expert, vision tower and VLM, teacher.

Each stage is a function of a directory, which holds the models of the stages before it, and a `Recipe`; it
saves its model there and returns its accuracies. Stages run in worker processes of one thread, so that their results do
not depend on the machine's number of cores.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from tqdm import tqdm
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from drift.ground.errors import DriftError
from drift.planning.miniature import curriculum, measure, models, render, world
from drift.planning.miniature.dialogs import GRID, Batch, scene_patches, shared_tokenizer
from drift.planning.miniature.world import LABELS, MODULUS, Split

REQUIRED_EXPERT_ACCURACY = 95.0  # percent of text problems of three operations
WANTED_TEACHER_ACCURACY = 70.0  # percent of sampled answers; far below 100 on purpose
EXTRA_ROUNDS = 4


@dataclass(frozen=True)
class Recipe:
    """Everything a stage depends on. Steps are optimizer steps at scale 1."""

    seed: int
    steps_scale: float = 1.0
    progress: bool = True
    base_steps: int = 650
    vision_steps: int = 250
    look_up_steps: int = 60
    vlm_steps: int = 400
    expert_steps: int = 700
    expert_extra_steps: int = 250
    teacher_steps: int = 40
    teacher_extra_steps: int = 15
    questions: int = 200  # per measured accuracy

    def steps(self, at_scale_one: int) -> int:
        return max(1, round(at_scale_one * self.steps_scale))

    def rng(self, stage: str) -> random.Random:
        """The stage's own generator; seeds torch's as well."""
        torch.manual_seed(zlib.crc32(f"{stage}-{self.seed}".encode()))
        return random.Random(f"{stage}-{self.seed}")


def train_base(directory: Path, recipe: Recipe) -> dict[str, float]:
    """φ_base: arithmetic facts and direct text dialogs."""
    rng = recipe.rng("base")
    model = models.new_text_model()
    _fit(model, curriculum.base_batches(rng), recipe.steps(recipe.base_steps), 3e-3, "base", recipe)
    models.save_text_model(model, directory / "base")
    return measure.text_accuracies(model, recipe.questions)


def train_expert(directory: Path, recipe: Recipe) -> dict[str, float]:
    """φ_reason: text chains of thought, in rounds until it is right on 95 % of held-out problems.

    Raises DriftError if it is not after the last round (never at a steps_scale below 1).
    """
    rng = recipe.rng("expert")
    model = models.load_text_model(directory / "base")
    batches = curriculum.expert_batches(rng)
    _fit(model, batches, recipe.steps(recipe.expert_steps), 2e-3, "expert", recipe)
    for extra_round in range(EXTRA_ROUNDS + 1):
        scores = measure.text_accuracies(model, recipe.questions)
        if recipe.steps_scale < 1 or scores["three"] >= REQUIRED_EXPERT_ACCURACY or extra_round == EXTRA_ROUNDS:
            break
        _fit(model, batches, recipe.steps(recipe.expert_extra_steps), 1e-3, "expert, longer", recipe)
    if recipe.steps_scale >= 1 and scores["three"] < REQUIRED_EXPERT_ACCURACY:
        raise DriftError(
            f"seed {recipe.seed}: the expert solves {scores['three']:.1f} % of text problems, "
            f"{REQUIRED_EXPERT_ACCURACY:.0f} are required; take another seed"
        )
    models.save_text_model(model, directory / "expert")
    return scores


def train_vlm(directory: Path, recipe: Recipe) -> dict[str, float]:
    """φ_VL: the vision tower aligned with the base's embeddings, then all weights on direct answers about images."""
    rng = recipe.rng("vlm")
    model = models.new_vlm(models.load_text_model(directory / "base").state_dict())
    _align_vision(model, rng, recipe)
    look_ups = itertools.islice(curriculum.look_up_batches(rng), recipe.steps(recipe.look_up_steps))
    batches = itertools.chain(look_ups, curriculum.vlm_batches(rng))
    _fit(model, batches, recipe.steps(recipe.vlm_steps), 2e-3, "vlm", recipe, worker=1)
    models.save_vlm(model, directory / "vlm")
    return measure.image_accuracies(model, recipe.questions)


def train_teacher(directory: Path, recipe: Recipe) -> dict[str, float]:
    """φ_teacher: φ_VL + φ_reason − φ_base, then a short fine-tuning on chains about images.

    Good, but not perfect, so that its wrong and malformed chains have to be filtered: trained in short rounds until
    70 % of its sampled answers are right.
    """
    rng = recipe.rng("teacher")
    base, expert = (models.load_text_model(directory / name).state_dict() for name in ("base", "expert"))
    model = models.load_vlm(directory / "vlm")
    models.add_task_vector(model, expert, base)
    batches = curriculum.teacher_batches(rng)
    _fit(model, batches, recipe.steps(recipe.teacher_steps), 1e-3, "teacher", recipe)
    for extra_round in range(EXTRA_ROUNDS + 1):
        sampled = measure.sampled_accuracies(model, recipe.questions)
        if recipe.steps_scale < 1 or sampled["sampled"] >= WANTED_TEACHER_ACCURACY or extra_round == EXTRA_ROUNDS:
            break
        _fit(model, batches, recipe.steps(recipe.teacher_extra_steps), 1e-3, "teacher, longer", recipe)
    models.save_vlm(model, directory / "teacher")
    return measure.image_accuracies(model, recipe.questions) | sampled


def _fit(
    model: Any, batches: Iterable[Batch], steps: int, learning_rate: float, name: str, recipe: Recipe, worker: int = 0
) -> None:
    """AdamW without weight decay, 5 % warm-up, cosine to a tenth, gradients clipped at norm 1. In place."""
    optimizer, schedule = _optimizer(model.parameters(), learning_rate, steps)
    model.train()
    for batch in tqdm(itertools.islice(batches, steps), name, steps, disable=not recipe.progress, position=worker):
        loss = model(**batch).loss
        _step(loss, model.parameters(), optimizer, schedule)
    model.eval()


def _align_vision(model: Any, rng: random.Random, recipe: Recipe) -> None:
    """Pull each image token towards the embedding of its cell's word (``c2``); the decoder is not touched.

    Cross-entropy over the 28 words' embeddings plus squared distance. Without it the VLM learns nothing in this budget.
    """
    words = [f"{label}{value}" for label in LABELS for value in range(MODULUS)]
    word_ids = shared_tokenizer().convert_tokens_to_ids(words)
    embeddings = model.get_input_embeddings().weight[word_ids].detach()
    vision, steps = model.model.visual, recipe.steps(recipe.vision_steps)
    optimizer, schedule = _optimizer(vision.parameters(), 3e-3, steps)
    for _ in tqdm(range(steps), "vision tower", disable=not recipe.progress, position=1):
        scenes = [world.sample_scene(rng, Split.TRAIN) for _ in range(32)]
        patches = [scene_patches(s, Split.TRAIN, render.choose_cells(s, Split.TRAIN, rng)) for s in scenes]
        target = torch.tensor([words.index(word) for scene in scenes for word in scene.text.split()])
        tokens = vision(torch.cat(patches), grid_thw=torch.tensor([GRID] * len(scenes))).pooler_output
        tokens = tokens if isinstance(tokens, torch.Tensor) else torch.cat(tokens)
        loss = functional.cross_entropy(tokens @ embeddings.T, target)
        _step(loss + functional.mse_loss(tokens, embeddings[target]), vision.parameters(), optimizer, schedule)


def _optimizer(parameters: Any, learning_rate: float, steps: int) -> tuple[Any, Any]:
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    warm_up = max(1, steps // 20)
    return optimizer, get_cosine_with_min_lr_schedule_with_warmup(optimizer, warm_up, steps, min_lr_rate=0.1)


def _step(loss: torch.Tensor, parameters: Any, optimizer: Any, schedule: Any) -> None:
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad(set_to_none=True)
