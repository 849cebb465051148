"""What each training stage sees: endless streams of token batches, drawn from a seeded generator."""

from __future__ import annotations

import random
from collections.abc import Iterator

from drift.planning.miniature import world
from drift.planning.miniature.dialogs import Batch, Dialog, dialog_batch, fact_batch
from drift.planning.miniature.world import Exchange, Scene, Split

TURNS = 5  # exchanges per dialog about one scene
CHAIN_TURNS = 3
FACTS_PER_LINE = 10


def base_batches(rng: random.Random) -> Iterator[Batch]:
    """Arithmetic facts and direct text dialogs in turn."""
    while True:
        yield facts(rng, 20)
        yield dialog_batch([direct_text(rng) for _ in range(20)], rng)


def expert_batches(rng: random.Random) -> Iterator[Batch]:
    """Text chains of thought (5 in 8); direct text dialogs (2 in 8), or direct answering is forgotten; facts."""
    while True:
        for kind in "ccdccdcf":
            if kind == "c":
                yield dialog_batch([chains(rng, image=False, turns=CHAIN_TURNS) for _ in range(16)], rng)
            elif kind == "d":
                yield dialog_batch([direct_text(rng) for _ in range(16)], rng)
            else:
                yield facts(rng, 16)


def look_up_batches(rng: random.Random) -> Iterator[Batch]:
    """The first steps with images: only the value of one label."""
    while True:
        scenes = [world.sample_scene(rng, Split.TRAIN) for _ in range(20)]
        dialogs = [Dialog(scene, [_look_up(scene, rng) for _ in range(TURNS)], image=True) for scene in scenes]
        yield dialog_batch(dialogs, rng)


def vlm_batches(rng: random.Random) -> Iterator[Batch]:
    """Direct answers about images, without one chain of thought; every eighth batch is facts."""
    while True:
        for place in range(8):
            if place == 7:
                yield facts(rng, 20)
            else:
                yield dialog_batch([direct_image(rng) for _ in range(20)], rng)


def teacher_batches(rng: random.Random) -> Iterator[Batch]:
    """Chains of thought about images, a quarter of the dialogs direct perception."""
    while True:
        direct = [direct_image(rng) for _ in range(4)]
        yield dialog_batch([chains(rng, image=True, turns=1) for _ in range(12)] + direct, rng)


def facts(rng: random.Random, lines: int) -> Batch:
    """``lines`` lines of ten arithmetic facts."""
    return fact_batch([[world.sample_fact(rng) for _ in range(FACTS_PER_LINE)] for _ in range(lines)])


def direct_text(rng: random.Random) -> Dialog:
    """Look-ups, reading and single operations about a scene given as text, answered directly."""
    scene = world.sample_scene(rng, Split.TRAIN)
    return Dialog(scene, [_direct(scene, rng, ("look_up", "read", "one")) for _ in range(TURNS)])


def direct_image(rng: random.Random) -> Dialog:
    """The same about an image, and three operations at once, which cannot be answered well directly."""
    scene = world.sample_scene(rng, Split.TRAIN)
    kinds = ("look_up", "look_up", "read", "read", "one", "three")
    return Dialog(scene, [_direct(scene, rng, kinds) for _ in range(TURNS)], image=True)


def chains(rng: random.Random, *, image: bool, turns: int) -> Dialog:
    """Reasoning questions of two or three operations, answered by chains."""
    scene = world.sample_scene(rng, Split.TRAIN)
    return Dialog(scene, [_reason(scene, rng, rng.choice((2, 3)), chain=True) for _ in range(turns)], image)


def _direct(scene: Scene, rng: random.Random, kinds: tuple[str, ...]) -> Exchange:
    kind = rng.choice(kinds)
    if kind == "look_up":
        return _look_up(scene, rng)
    if kind == "read":
        return world.read_out(scene)
    return _reason(scene, rng, 1 if kind == "one" else 3, chain=False)


def _look_up(scene: Scene, rng: random.Random) -> Exchange:
    return world.look_up(scene, rng.choice(world.LABELS))


def _reason(scene: Scene, rng: random.Random, operations: int, *, chain: bool) -> Exchange:
    return world.compute(scene, world.sample_problem_in(scene, rng, operations, Split.TRAIN), chain=chain)
