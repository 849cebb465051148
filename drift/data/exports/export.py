"""A training set for another trainer: its files in a new folder, with the tokens that our trainer has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from drift.data import tables
from drift.data.exports.chats import read_chats
from drift.data.exports.formats import WRITERS
from drift.data.exports.pictures import Pictures
from drift.ground.artifacts import staged, write_provenance
from drift.ground.errors import DataError
from drift.ground.progress import shown


@dataclass(frozen=True)
class ExportReport:
    """Rows written, images written as files, and images that were converted so that all trainers see the same."""

    rows: int
    image_files: int
    converted: int

    def metrics(self) -> dict[str, float]:
        """Numbers for the terminal."""
        return {name: float(value) for name, value in vars(self).items()}


def export(training_set: Path, to: str, out: Path, *, image_max_pixels: int | None = None) -> ExportReport:
    """Write the training set ``training_set`` for the trainer ``to`` (`formats.WRITERS`) into the new folder ``out``.

    Images above ``image_max_pixels`` are scaled down as our training does. Memory holds a row group. Raises DataError:
    no training set, no rows, or a row that the trainer would read otherwise than ours.
    """
    table = training_set / tables.TRAIN_FILE
    if not (count := tables.count_rows(table)):
        raise DataError(f"{table}: holds no rows")
    pictures = Pictures(image_max_pixels)
    with staged(out) as folder:
        chats = shown(read_chats(training_set), "export", count, unit="row")
        WRITERS[to](chats, folder, pictures)
        config = {"to": to, "image_max_pixels": image_max_pixels}
        write_provenance(folder, "export", config=config, inputs={"training_set": training_set})
    return ExportReport(count, pictures.files, pictures.converted)
