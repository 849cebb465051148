"""Commands by faults: every cell with each of its variants."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults.cells import Cell, Undisturbed, cell, judge, undisturbed
from tests.faults.commands import Command
from tests.faults.faults import Fault, Variant
from tests.faults.servers import Servers
from tests.faults.table import Tried
from tests.faults.world import make_world

NAMES_OF_MLFLOW = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID")


class Campaign:
    """Use as a context manager; ``size`` is the number of variants that a cell has at most."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self._servers = Servers(folder)
        self._elsewhere: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Commands are to find the servers that they are told of, not one that somebody's MLflow has left in the
        environment."""
        self._elsewhere = {name: os.environ.pop(name) for name in list(os.environ) if name in NAMES_OF_MLFLOW}
        self._world = make_world(self._folder / "world")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._servers.close()
        os.environ.update(self._elsewhere)

    def row(self, command: Command, faults: Sequence[Fault], tell: Callable[[Tried], None]) -> list[Tried]:
        """The command undisturbed, then under each fault; all are wrong if it does not end well undisturbed."""
        try:
            with self._cell(command, "undisturbed") as one:
                meant = undisturbed(one)
        except AssertionError as error:
            tell(failed := Tried(command.name, "undisturbed", "", (str(error),)))
            return [replace(failed, fault=fault.name) for fault in faults if fault.variants(command, self._size)]
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
