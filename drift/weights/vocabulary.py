"""Embeddings and head of models whose vocabularies differ in size: the rows that both have, and their tokens.

Row i of `embed_tokens` and of `lm_head` belongs to token i. Vocabularies of one family begin alike and end differently:
a multimodal model adds tokens, and rows are padded.
"""

from __future__ import annotations

from pathlib import Path

from drift.ground.errors import CheckpointError
from drift.weights.storage.adapters import Adapted
from drift.weights.storage.checkpoints import Checkpoint

TOKENIZER = "tokenizer.json"


def check_tokens(expert: Path, other: Path, sizes: tuple[int, int], *, force: bool) -> list[str]:
    """Warnings about the tokens of two models' common rows; ``sizes``: the rows of the expert's and of the other's.

    Raises CheckpointError, unless `force`, where the sizes differ and an id is another token to each: these are no two
    sizes of one vocabulary. With equal sizes that is a warning; so are ids that only one of the two knows, and, where
    sizes differ, a folder without a tokenizer.
    """
    if missing := [path for path in (expert, other) if not (path / TOKENIZER).is_file()]:
        unknown = f"{missing[0]} has no {TOKENIZER}: whether common rows of embeddings and head are the same tokens"
        return [f"{unknown} is not known"] if sizes[0] != sizes[1] else []
    theirs, ours = tokens(expert, min(sizes)), tokens(other, min(sizes))
    for place in sorted(theirs.keys() & ours.keys()):
        if theirs[place] != ours[place]:
            said = f"{expert}: token {place} is {theirs[place]!r}, but {ours[place]!r} in {other}"
            if sizes[0] == sizes[1] or force:
                return [f"{said}; Δ of embeddings and head mixes tokens"]
            raise CheckpointError(f"{said}; select neither embed nor head (force: true goes on)")
    alone = sorted(theirs.keys() ^ ours.keys())
    first = [repr(one[place]) for place in alone[:1] for one in (theirs, ours) if place in one]
    return [f"{len(alone)} tokens that only one of {expert} and {other} has ({first[0]}) are in Δ"] if alone else []


def tokenizer_folder(model: Checkpoint) -> Path:
    """Where a model's tokenizer is: an adapter's may be its base's."""
    if isinstance(model, Adapted) and not (model.path / TOKENIZER).is_file():
        return model.base.path
    return model.path


def tokens(path: Path, rows: int) -> dict[int, str]:
    """The tokens of the first ``rows`` ids of a folder's tokenizer. Raises CheckpointError if it does not load.

    Of the file itself: transformers gives some models another tokenizer than it holds.
    """
    from tokenizers import Tokenizer

    try:
        found: dict[str, int] = Tokenizer.from_file(str(path / TOKENIZER)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library raises this itself
        raise CheckpointError(f"{path / TOKENIZER}: does not load ({error}); download it again") from error
    return {place: token for token, place in found.items() if place < rows}
