"""What TIES, DARE and DELLA leave of a task vector t, by magnitude or by chance; density is the share that is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from drift.weights.storage.streaming import CHUNK_ELEMENTS

_LOW_BITS = 15


def trim(task: Tensor, density: float) -> Tensor:
    """Keep the ⌊density · n⌋ elements of largest magnitude, the rest is 0 (TIES, arXiv 2306.01708, step 1)."""
    return trimmer(lambda: iter([task]), task.numel(), density)(task)


def trimmer(read: Callable[[], Iterator[Tensor]], elements: int, density: float) -> Callable[[Tensor], Tensor]:
    """`trim` of a float32 tensor that is read in pieces: call the result on each piece, from the first to the last.

    Of magnitudes equal to the smallest that is kept, the first ones stay, so that ⌊density · n⌋ do.
    """
    kept = int(density * elements)
    if density >= 1:
        return lambda piece: piece
    threshold, left = _kth_magnitude(read, kept) if kept else (math.inf, 0)

    def keep(piece: Tensor) -> Tensor:
        nonlocal left
        magnitude = piece.abs()
        mask = magnitude > threshold
        equal = (magnitude == threshold).nonzero(as_tuple=True)
        first = tuple(index[:left] for index in equal)
        mask[first] = True
        left -= len(first[0])
        return piece * mask

    return keep


def _kth_magnitude(read: Callable[[], Iterator[Tensor]], k: int) -> tuple[float, int]:
    """(the k-th largest magnitude, how many of that very magnitude are among the k largest), in two readings.

    The bits of a non-negative float32 are ordered as its values are: count the upper half of the bits, then the lower
    half of those in the bin where the k-th lies. No piece is sorted or copied.
    """
    upper = _counts((piece.abs().view(torch.int32) >> _LOW_BITS for piece in read()), 1 << 16)
    high, above = _kth_bin(upper, k)
    bits = (piece.abs().view(torch.int32).reshape(-1) for piece in read())
    inside = (piece[piece >> _LOW_BITS == high] & ((1 << _LOW_BITS) - 1) for piece in bits)
    low, more = _kth_bin(_counts(inside, 1 << _LOW_BITS), k - above)
    return float(torch.tensor(high << _LOW_BITS | low, dtype=torch.int32).view(torch.float32)), k - above - more


def _counts(pieces: Iterable[Tensor], bins: int) -> Tensor:
    total = torch.zeros(bins, dtype=torch.int64)
    for piece in pieces:
        total += torch.bincount(piece.reshape(-1), minlength=bins)
    return total


def _kth_bin(counts: Tensor, k: int) -> tuple[int, int]:
    """The bin of the k-th from above, and how many are in the bins above it."""
    from_above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_above, k))
    return len(counts) - 1 - place, int(from_above[place - 1]) if place else 0


def drop(task: Tensor, density: float, generator: torch.Generator, *, rescale: bool) -> Tensor:
    """Keep each element with probability `density` (DARE, arXiv 2311.03099); `rescale` divides by it."""
    return masked(task, keep_mask(task.numel(), density, generator).reshape(task.shape), density, rescale)


def keep_mask(elements: int, density: float, generator: torch.Generator) -> Tensor:
    """Which elements DARE keeps: the same bits, drawn at once or in pieces one after the other."""
    mask = torch.empty(elements, dtype=torch.bool)
    for piece in mask.split(CHUNK_ELEMENTS):
        piece.copy_(torch.bernoulli(torch.full((piece.numel(),), density), generator=generator))
    return mask


def masked(task: Tensor, mask: Tensor, density: float, rescale: bool) -> Tensor:
    """The elements that are kept, divided by the density if they are rescaled."""
    return task * mask / density if rescale and density < 1 else task * mask


def drop_by_magnitude(
    rows: Tensor, density: float, epsilon: float, generator: torch.Generator, *, rescale: bool
) -> Tensor:
    """Keep each element of a matrix with `keep_probabilities`; `rescale` divides it by its own (DELLA, 2406.11617)."""
    if density >= 1:
        return rows
    chances = keep_probabilities(rows, density, epsilon)
    kept = rows * torch.bernoulli(chances, generator=generator)
    return kept / chances if rescale else kept


def keep_probabilities(rows: Tensor, density: float, epsilon: float) -> Tensor:
    """From density − ε for the smallest magnitude of a row to density + ε for its largest, in equal steps by rank.

    Of equal magnitudes the first ranks lowest. DELLA's MAGPRUNE (section 3.1, ranks within a row); ε is that of its
    code and of mergekit, half the width of the window.
    """
    order = rows.abs().argsort(dim=1, stable=True)
    places = torch.arange(rows.shape[1], dtype=torch.float32).expand_as(rows)
    ranks = torch.empty_like(places).scatter_(1, order, places)
    return (density - epsilon) + ranks / max(1, rows.shape[1] - 1) * (2 * epsilon)


def whole_rows(stretches: Iterable[Sequence[Tensor]], width: int) -> Iterator[list[Tensor]]:
    """The same stretches cut anew, so that each holds whole rows of so many elements; use one before the next."""
    left: list[Tensor] = []
    for stretch in stretches:
        joined = [torch.cat(parts) for parts in zip(left, stretch, strict=True)] if left else list(stretch)
        whole = len(joined[0]) // width * width
        if whole:
            yield [tensor[:whole] for tensor in joined]
        left = [tensor[whole:].clone() for tensor in joined]
