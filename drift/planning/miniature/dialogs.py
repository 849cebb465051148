"""Dialogs about scenes as padded token batches.

A batch has ``input_ids``, ``attention_mask`` and ``labels`` [B, T] (−100 outside the answers, padded on the
right), and with images ``pixel_values`` [16 B, 1176], ``image_grid_thw`` [B, 3] and ``mm_token_type_ids`` [B, T].
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from drift.planning.miniature import render
from drift.planning.miniature import tokenizer as tk
from drift.planning.miniature.world import Exchange, Scene, Split

Batch = dict[str, torch.Tensor]
IGNORED = -100
GRID = (1, 2, 8)  # frames, rows and columns of 14 px patches in a scene's image


@dataclass(frozen=True)
class Dialog:
    """Exchanges about one scene, shown as an image of training renderings or as text."""

    scene: Scene
    exchanges: list[Exchange]
    image: bool = False


@cache
def shared_tokenizer() -> Any:
    return tk.build_tokenizer()


@cache
def cell_patches(split: Split) -> dict[tuple[str, int], torch.Tensor]:
    """Vision patches of every rendering of the split: per (label, value) a tensor [renderings, 4, 1176].

    A merged image token covers exactly one cell, and patches are ordered by merged token: a scene's
    ``pixel_values`` are those of its cells, one after the other.
    """
    processor = tk.build_processor().image_processor
    patches = {}
    for key, bank in render.cells(split).items():
        pixels = processor([cell.image() for cell in bank], return_tensors="pt")["pixel_values"]
        patches[key] = pixels.reshape(len(bank), 4, -1)
    return patches


def scene_patches(scene: Scene, split: Split, choice: list[int]) -> torch.Tensor:
    """``pixel_values`` [16, 1176] of the scene with the chosen renderings."""
    bank = cell_patches(split)
    return torch.cat([bank[key][number] for key, number in zip(scene.cells, choice, strict=True)])


def dialog_batch(dialogs: list[Dialog], rng: random.Random) -> Batch:
    """Batch of dialogs, all with images or all without; loss on the answers and their end tokens."""
    batch = _padded([_encode(dialog) for dialog in dialogs])
    if not dialogs[0].image:
        return batch
    patches = [scene_patches(d.scene, Split.TRAIN, render.choose_cells(d.scene, Split.TRAIN, rng)) for d in dialogs]
    image_id = shared_tokenizer().convert_tokens_to_ids(tk.IMAGE)
    batch["pixel_values"] = torch.cat(patches)
    batch["image_grid_thw"] = torch.tensor([GRID] * len(dialogs))
    batch["mm_token_type_ids"] = (batch["input_ids"] == image_id).long()
    return batch


def fact_batch(facts: list[list[str]]) -> Batch:
    """Batch of lines of facts; loss only on results, since the operands cannot be predicted."""
    end = f" {tk.END}"
    lines = [" ; ".join(line) + end for line in facts]
    encoded = []
    for line in lines:
        ids = shared_tokenizer()(line)["input_ids"]
        words = shared_tokenizer().convert_ids_to_tokens(ids)
        is_result = [place > 0 and words[place - 1] == "=" for place in range(len(ids))]
        encoded.append((ids, [id if result else IGNORED for id, result in zip(ids, is_result, strict=True)]))
    return _padded(encoded)


def _encode(dialog: Dialog) -> tuple[list[int], list[int]]:
    """Token ids and labels, equal to what the chat template gives (a test holds this)."""
    image = tk.VISION_START + tk.IMAGE * len(dialog.scene.cells) + tk.VISION_END
    context = image if dialog.image else f"[ {dialog.scene.text} ]"
    parts = []
    for turn, exchange in enumerate(dialog.exchanges):
        shown = f"{context} " if turn == 0 else ""
        parts.append(f"{tk.START}user\n{shown}{exchange.question}{tk.END}\n{tk.START}assistant\n")
        parts.append(f"{exchange.answer}{tk.END}")
    ids: list[int] = []
    labels: list[int] = []
    for place, part in enumerate(shared_tokenizer()(parts, add_special_tokens=False)["input_ids"]):
        ids += part
        labels += part if place % 2 else [IGNORED] * len(part)
    return ids, labels


def _padded(encoded: list[tuple[list[int], list[int]]]) -> Batch:
    pad_id = shared_tokenizer().pad_token_id
    ids = [torch.tensor(ids) for ids, _ in encoded]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence([torch.tensor(labels) for _, labels in encoded], True, IGNORED),
    }
