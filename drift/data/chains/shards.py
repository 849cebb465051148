"""A shard: the part of the requests that one of several steps asks; and all of them together again.

An id belongs to the shard that its SHA-256 names, so no shard depends on the order of the rows. Requests that are drawn
together are never parted, since their composition may decide what is drawn: a batch belongs to the shard of its first
id. So all shards together draw what one step draws alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from drift.ground.errors import ConfigError, DataError

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Number `number` of `of`, counted from 1."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/4`. Raises ConfigError."""
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise ConfigError(f"shard '{text}': write NUMBER/OF, such as 1/4, 2/4, 3/4 and 4/4 for four shards")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def holds(self, id: str) -> bool:
        """Whether the requests of ``id`` are this shard's."""
        return int.from_bytes(hashlib.sha256(id.encode()).digest()) % self.of == self.number - 1

    def batches(self, items: Iterable[T], size: int, id_of: Callable[[T], str]) -> Iterator[list[T]]:
        """Its own of the batches of ``size`` that ``items`` come in; ``id_of``: whose an item is."""
        remaining = iter(items)
        while batch := list(islice(remaining, size)):
            if self.holds(id_of(batch[0])):
                yield batch

    def address(self) -> dict[str, str]:
        """What its work is told from that of others by; nothing for the whole, whose address never had it."""
        return {} if self == WHOLE else {"shard": str(self)}


WHOLE = Shard()


def named(what: str, folders: Sequence[Path]) -> dict[str, Path]:
    """Folders that are read together by the names of inputs: `what`, or of several `what 1`, `what 2` and so on."""
    if len(folders) == 1:
        return {what: folders[0]}
    return {f"{what} {number}": folder for number, folder in enumerate(folders, start=1)}


def require_own(folder: Path, others: int, shard: Shard) -> None:
    """Raise DataError if the folder, in which work is to go on, holds replies of ``others`` than the shard."""
    if others:
        raise DataError(
            f"{folder}: holds {others} replies that are not of shard {shard}: begun as another shard; give each shard "
            "an --out of its own"
        )


def require_all(shards: Sequence[tuple[Path, Mapping[str, Any]]]) -> None:
    """Raise DataError unless the folders are all shards of one piece of work, each once.

    What each says: `fingerprint`, and `shard` if it is not the whole.
    """
    if not shards:
        return
    first, said = shards[0]
    known: dict[Shard, Path] = {}
    for folder, one in shards:
        shard = Shard.parse(one.get("shard", str(WHOLE)))
        if one.get("fingerprint") != said.get("fingerprint"):
            raise DataError(
                f"{folder}: of another model, of other settings or data than {first} (fingerprint "
                f"{one.get('fingerprint')}, not {said.get('fingerprint')}); give the shards of one piece of work"
            )
        if shard in known:
            raise DataError(f"{folder}: shard {shard} is given twice, in {known[shard]} too; give each shard once")
        known[shard] = folder
        if shard.of != next(iter(known)).of:
            raise DataError(f"{folder}: shard {shard} does not fit shard {next(iter(known))} in {first}; cut alike")
    _require_none_missing(known)


def _require_none_missing(known: Mapping[Shard, Path]) -> None:
    of = next(iter(known)).of
    missing = [str(shard) for number in range(1, of + 1) if (shard := Shard(number, of)) not in known]
    if missing:
        more = f" and {len(missing) - 1} more are" if len(missing) > 1 else " is"
        raise DataError(f"{next(iter(known.values()))}: shard {missing[0]}{more} missing; give the folders of all {of}")
