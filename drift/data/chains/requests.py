"""What a teacher is asked, and the seed of each draw."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from drift.inference.reply import Reply


@dataclass(frozen=True)
class Request:
    """One sample to draw: number ``sample`` for problem ``id``, from the user's ``text`` and encoded images."""

    id: str
    sample: int
    text: str
    images: list[bytes] = field(repr=False)
    seed: int


Answered = tuple[Request, Reply]


def sample_seed(seed: int, *parts: object) -> int:
    """31 bits from SHA-256 over the run's seed and what is drawn: equal for equal keys, whatever ran before."""
    digest = hashlib.sha256("/".join(map(str, [seed, *parts])).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
