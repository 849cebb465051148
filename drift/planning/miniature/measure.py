r"""Accuracies in percent, by generation through the chat template.

An answer counts if it equals the gold one: the boxed value of a chain ``<think>…</think> \boxed{…}``, or the whole
reply where there is none. Questions are of the test split and the same for every seed.
"""

from __future__ import annotations

import random
import re
from functools import cache
from typing import Any

import torch
from PIL import Image

from drift.planning.miniature import render, world
from drift.planning.miniature import tokenizer as tk
from drift.planning.miniature.world import Exchange, Scene, Split

CHAIN = re.compile(r"<think>(.*?)</think>\s*\\boxed\{\s*(\S+)\s*\}\s*$", re.DOTALL)
BATCH = 100  # prompts generated at once
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 1.0}

Question = tuple[Scene, Exchange]


@cache
def shared_processor() -> Any:
    return tk.build_processor()


def final_answer(reply: str) -> str:
    """The boxed value of a well-formed chain, else the reply itself."""
    match = CHAIN.search(reply)
    return match.group(2) if match else reply.strip()


def text_accuracies(model: Any, questions: int) -> dict[str, float]:
    """Percent right of a text model: ``look_up``, ``read`` and problems of ``two`` and ``three`` operations."""
    return {kind: _accuracy(model, _questions(kind, questions), image=False) for kind in _KINDS}


def image_accuracies(model: Any, questions: int) -> dict[str, float]:
    """Percent right of a vision-language model on held-out renderings: the same four kinds."""
    return {kind: _accuracy(model, _questions(kind, questions), image=True) for kind in _KINDS}


def sampled_accuracies(model: Any, questions: int) -> dict[str, float]:
    """Percent right (``sampled``) and well formed (``sampled_format``) at temperature 0.7, on both kinds of problem."""
    torch.manual_seed(0)
    asked = _questions("two", questions // 2) + _questions("three", questions // 2)
    replies = ask(model, asked, image=True, **SAMPLING)
    right = [final_answer(reply) == gold.answer for reply, (_, gold) in zip(replies, asked, strict=True)]
    well_formed = [CHAIN.search(reply) is not None for reply in replies]
    return {"sampled": _percent(right), "sampled_format": _percent(well_formed)}


def ask(model: Any, questions: list[Question], *, image: bool, **sampling: Any) -> list[str]:
    """Replies to the questions about their scenes, shown as images of test renderings or as text."""
    rng = random.Random("measure")
    messages = [[_message(scene, exchange.question, rng, image=image)] for scene, exchange in questions]
    return [
        reply
        for start in range(0, len(messages), BATCH)
        for reply in _generate(model, messages[start : start + BATCH], image=image, **sampling)
    ]


@torch.inference_mode()
def _generate(model: Any, messages: list[Any], *, image: bool, **sampling: Any) -> list[str]:
    processor = shared_processor()
    template = processor.apply_chat_template if image else processor.tokenizer.apply_chat_template
    padding = {"processor_kwargs": {"padding": True}} if image else {"padding": True}
    inputs = template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True, **padding
    )
    output = model.generate(**inputs, max_new_tokens=48, **sampling)
    replies = processor.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [reply.strip() for reply in replies]


def _message(scene: Scene, question: str, rng: random.Random, *, image: bool) -> dict[str, Any]:
    if not image:
        return {"role": "user", "content": f"[ {scene.text} ] {question}"}
    picture: Image.Image = render.scene_image(scene, Split.TEST, render.choose_cells(scene, Split.TEST, rng))
    content = [{"type": "image", "image": picture.convert("RGB")}, {"type": "text", "text": question}]
    return {"role": "user", "content": content}


_KINDS = ("look_up", "read", "two", "three")


def _questions(kind: str, count: int) -> list[Question]:
    rng = random.Random(f"questions-{kind}")
    return [held_out_question(kind, rng) for _ in range(count)]


def held_out_question(kind: str, rng: random.Random) -> Question:
    """A question of the test split: ``look_up``, ``read``, ``two`` or ``three`` operations, with its short answer."""
    scene = world.sample_scene(rng, Split.TEST)
    if kind == "look_up":
        return scene, world.look_up(scene, rng.choice(world.LABELS))
    if kind == "read":
        return scene, world.read_out(scene)
    expression = world.sample_problem_in(scene, rng, {"two": 2, "three": 3}[kind], Split.TEST)
    return scene, world.compute(scene, expression, chain=False)


def _accuracy(model: Any, questions: list[Question], *, image: bool) -> float:
    replies = ask(model, questions, image=image)
    return _percent([final_answer(reply) == gold.answer for reply, (_, gold) in zip(replies, questions, strict=True)])


def _percent(right: list[bool]) -> float:
    return round(100 * sum(right) / len(right), 2)
