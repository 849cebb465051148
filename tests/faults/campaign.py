"""Commands by faults: every cell with each of its variants."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults.cells import Cell, Undisturbed, cell, judge, undisturbed
from tests.faults.commands import Command
from tests.faults.faults import Fault, Variant
from tests.faults.servers import Servers
from tests.faults.table import Tried
from tests.faults.world import make_world


class Campaign:
    """Use as a context manager; ``size`` is the number of variants that a cell has at most."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self._servers = Servers(folder)

    def __enter__(self) -> Self:
        self._world = make_world(self._folder / "world")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._servers.close()

    def row(self, command: Command, faults: Sequence[Fault], tell: Callable[[Tried], None]) -> list[Tried]:
        """The command undisturbed, then under each fault."""
        with self._cell(command, "undisturbed") as one:
            meant = undisturbed(one)
        tries = []
        for fault in faults:
            for number, variant in enumerate(fault.variants(command, self._size)):
                tries.append(self._tried(command, fault, variant, f"{fault.name} {number}", meant))
                tell(tries[-1])
        return tries

    def _cell(self, command: Command, name: str) -> contextlib.AbstractContextManager[Cell]:
        return cell(command, self._world, self._folder / _plain(f"{command.name} {name}"), self._servers)

    def _tried(self, command: Command, fault: Fault, variant: Variant, name: str, meant: Undisturbed) -> Tried:
        with self._cell(command, name) as one:
            one.undisturbed = meant
            with fault.strike(one, variant) as ended:
                wrong = judge(one, ended, fault.codes)
        shown = f"{variant:.2f}" if isinstance(variant, float) else str(variant)
        return Tried(command.name, fault.name, shown, tuple(wrong))


def _plain(text: str) -> str:
    return re.sub(r"\W+", "-", text).lower()
