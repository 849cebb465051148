"""A pool of problems and their generations, left on disk: only ids, and where each generation's line begins, are here.

A generation's number is its place in the order of the problems and samples, whatever files it came in and in which
order: one folder, several of shards, or lines in no order at all. About 30 bytes a generation and 200 a problem.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from drift.data import tables
from drift.data.chains.generations import KEY, generation_files
from drift.data.tables import Row
from drift.ground.errors import DataError
from drift.ground.progress import shown
from drift.inference.parts import read_line

GENERATIONS_AT_ONCE = 32768
CHARACTERS_AT_ONCE = 1 << 24
"""So many generations are judged together: processes are started once for all of them."""
OPEN_FILES = 32

Asked = tuple[Row, list[tuple[int, Row]]]
"""A problem, and its generations with their numbers."""


class Pool:
    """Problems in their order, each with its generations in the order of their samples; to be closed."""

    def __init__(self, problems: Path, folders: Sequence[Path]) -> None:
        """Raises DataError: no problems, no generations, one that is no reply, of no problem here, or twice there."""
        self.table = problems / tables.PROBLEMS_FILE
        self.places = {row["id"]: place for place, row in enumerate(tables.read_rows(self.table, ["id"]))}
        if not self.places:
            raise DataError(f"{self.table}: no problems; run `drift ingest` on a source that has some")
        self._lines = _Lines(generation_files(*folders))
        place, sample, file, offset, line = _index(self._lines.paths, self.places)
        order = np.lexsort((sample, place))
        self._file, self._offset, self._line = file[order], offset[order], line[order]
        self._require_once(place[order], sample[order])
        self.begins = np.searchsorted(place[order], np.arange(len(self.places) + 1))
        """Number of the first generation of each problem, and the number of all."""

    def __len__(self) -> int:
        """The number of generations."""
        return len(self._offset)

    def close(self) -> None:
        """Let go of the files."""
        self._lines.close()

    def generation(self, number: int) -> Row:
        """One generation, read anew."""
        return self._lines.read(*(int(column[number]) for column in (self._file, self._offset, self._line)))

    def problems(self, columns: Sequence[str]) -> Iterator[Row]:
        """All problems in their order."""
        return tables.read_rows(self.table, columns)

    def chunks(self, columns: Sequence[str], characters_at_once: int = CHARACTERS_AT_ONCE) -> Iterator[list[Asked]]:
        """Problems that were answered, with their generations, as many at a time as memory has room for."""
        chunk: list[Asked] = []
        characters = rows = 0
        problems = shown(self.problems(columns), "curate", len(self.places), unit="problem")
        for place, problem in enumerate(problems):
            numbers = range(self.begins[place], self.begins[place + 1])
            if numbers:
                chunk.append((problem, [(number, self.generation(number)) for number in numbers]))
                rows += len(numbers)
                characters += sum(len(row["text"]) for _, row in chunk[-1][1])
            if rows >= GENERATIONS_AT_ONCE or characters >= characters_at_once:
                yield chunk
                chunk, characters, rows = [], 0, 0
        if chunk:
            yield chunk

    def _require_once(self, places: np.ndarray[Any, Any], samples: np.ndarray[Any, Any]) -> None:
        twice = np.flatnonzero((np.diff(places) == 0) & (np.diff(samples) == 0))
        if len(twice):
            first, second = (self._lines.paths[self._file[number]] for number in (twice[0], twice[0] + 1))
            row = self.generation(int(twice[0]))
            self.close()
            raise DataError(
                f"generations: problem '{row['id']}', sample {row['sample']} is there twice ({first}, {second}), and "
                f"{len(twice)} in all; give each folder once, or take one of them out"
            )


class _Lines:
    """Lines of many files, read where they begin; a few files stay open."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()

    def read(self, file: int, offset: int, line: int) -> Row:
        if file not in self._open:
            self._open[file] = self.paths[file].open("rb")
        self._open.move_to_end(file)
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        self._open[file].seek(offset)
        return read_line(self._open[file].readline(), KEY, self.paths[file], line)

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def _index(paths: list[Path], places: dict[str, int]) -> list[np.ndarray[Any, Any]]:
    """Of each generation: its problem's place, its sample, and where it is: file, offset and line."""
    columns = [array("q") for _ in range(5)]
    foreign: list[str] = []
    for file, path in enumerate(paths):
        offset = 0
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                id, sample = _checked(read_line(line, KEY, path, number), path, number)
                if id in places:
                    for column, value in zip(columns, (places[id], sample, file, offset, number), strict=True):
                        column.append(value)
                else:
                    foreign.append(id)
                offset += len(line)
    if foreign:
        raise DataError(
            f"{len(foreign)} of {len(foreign) + len(columns[0])} generations are of other problems (id '{foreign[0]}')"
            "; give the problems that they were generated from"
        )
    return [np.array(column) for column in columns]


def _checked(row: Row, path: Path, number: int) -> tuple[str, int]:
    """Id and sample of a row, where these and the text are of their kinds."""
    for column, kind in (("id", str), ("sample", int), ("text", str)):
        if not isinstance(row[column], kind):
            raise DataError(
                f"{path}: line {number}: {column} {row[column]!r:.60} is no {kind.__name__}; correct the line"
            )
    return row["id"], row["sample"]
