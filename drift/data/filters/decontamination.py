"""What is evaluated is not trained on: questions that a benchmark's table holds are found and left out."""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from drift.config.data import CurateConfig
from drift.data.filters.candidates import Chain
from drift.data.near import SAME_IMAGE, Table, read_table, shared
from drift.data.problems.tsv import REFERENCE_LENGTH, Row, image_cell, read_tsv
from drift.ground.errors import ConfigError, DataError
from drift.inference.images import decode_image

logger = logging.getLogger(__name__)

COLUMNS = ("index", "image", "question")


@dataclass(frozen=True)
class Held:
    """A problem, or a row of the replay, that the row ``index`` of ``table`` asks too."""

    id: str
    table: str
    index: str
    why: str

    @property
    def reason(self) -> str:
        """Its name in the funnel."""
        return "same_image" if self.why == SAME_IMAGE else "near_question"


def require_tables(config: CurateConfig) -> None:
    """Raises ConfigError if the tables are not known, or one is not there."""
    if config.decontaminate and not config.against:
        raise ConfigError(
            "curate.decontaminate: a chain gives the tables of its section evaluate, and this is none; "
            "name them in curate.against, and leave curate.decontaminate out"
        )
    for path in config.against:
        if not Path(path).is_file():
            raise ConfigError(f"curate.against: '{path}' does not exist; give TSV files in VLMEvalKit's format")


def read_evaluated(config: CurateConfig) -> list[Table]:
    """The questions of all tables. Raises DataError if one is no table."""
    return [read_table(path, _lines(Path(path))) for path in config.against]


def find_held(asked: Table, evaluated: Sequence[Table]) -> dict[str, Held]:
    """By its key, each question that a table holds: the first that does."""
    found: dict[str, Held] = {}
    for table in evaluated:
        for place, there, why in shared(asked, table):
            found.setdefault(asked.keys[place], Held(asked.keys[place], table.name, table.keys[there], why))
    return found


def held_by_reason(held: Mapping[str, Held], chains: Iterable[Chain]) -> dict[int, str]:
    """The chains whose problem a table holds, by number, each with its reason."""
    return {chain.number: held[chain.id].reason for chain in chains if chain.id in held}


def _lines(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """``(index, question, image)``; rows without one image that decodes cannot be asked either, and are told."""
    referred = {row["image"] for row in read_tsv(path, COLUMNS) if len(row["image"]) <= REFERENCE_LENGTH}
    images = {row["index"]: row["image"] for row in read_tsv(path, COLUMNS) if row["index"] in referred}
    without = 0
    for row in read_tsv(path, COLUMNS):
        if (image := _image(row, images)) is None:
            without += 1
        else:
            yield row["index"], row["question"], image
    if without:
        logger.warning("%s: %d rows have no single image that decodes; nothing was compared with them", path, without)


def _image(row: Row, images: dict[str, str]) -> bytes | None:
    try:
        image = base64.b64decode(image_cell(row, images), validate=True)
        decode_image(image, "image")
    except (binascii.Error, DataError):
        return None
    return image
