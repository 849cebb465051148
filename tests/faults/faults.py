"""What goes wrong: one column a fault. Where a fault has no meaning for a command, it has no variants there."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.fault_proxy import Fault as Broken
from tests.faults.cells import ENDED, Cell, Ended, Strike
from tests.faults.commands import Command
from tests.small_disk import small_disk

PAGE = 4096
ROOM = (0.0, 0.5, 0.9)
"""Of what the undisturbed command leaves on its disk."""
HANG_SECONDS = 60
TENTH = re.compile(r"-?\d+\.\d+")

Variant = str | float


@dataclass(frozen=True)
class Fault:
    """``variants`` of a command, with their number at full size; ``ends`` names the exit codes that are right."""

    name: str
    strike: Strike
    variants: Callable[[Command, int], Sequence[Variant]]
    ends: str = "input"

    @property
    def codes(self) -> tuple[int, ...]:
        """Exit codes that are right."""
        return ENDED[self.ends]


# --------------------------------------------------------------------------- signals


def moments(command: Command, count: int) -> Sequence[Variant]:
    """Shares of the undisturbed time, drawn from the command's name."""
    drawn = random.Random(command.name)
    return [drawn.random() for _ in range(count)] if command.writes else []


def _signalled(number: int) -> Strike:
    @contextlib.contextmanager
    def strike(one: Cell, moment: Variant) -> Iterator[list[Ended]]:
        assert one.undisturbed
        process = one.start()
        time.sleep(float(moment) * one.undisturbed.seconds)
        process.send(number)
        yield [process.wait()]

    return strike


# --------------------------------------------------------------------------- the disk, and company


def rooms(command: Command, count: int) -> Sequence[Variant]:
    """Shares of the room that the command needs; none where it writes no file, or nobody may mount."""
    return ROOM[: max(1, min(count, len(ROOM)))] if command.writes and command.prepare is None and may_mount() else []


def may_mount() -> bool:
    """Whether this user may make a disk."""
    return os.geteuid() == 0 and shutil.which("mount") is not None


@contextlib.contextmanager
def full_disk(one: Cell, share: Variant) -> Iterator[list[Ended]]:
    """`disk` on a disk that is full before the command is through; then room is made."""
    assert one.undisturbed
    pages = max(1, int(float(share) * one.undisturbed.bytes) // PAGE)
    with small_disk(one.disk, str(pages * PAGE)):
        if not float(share):
            _fill(one.disk / "others")
        ended = one.run()
        subprocess.run(["mount", "-o", "remount,size=1g", str(one.disk)], check=True)
        (one.disk / "others").unlink(missing_ok=True)
        yield [ended]


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb") as file:
        while True:
            file.write(b"x" * PAGE)
            file.flush()


def pairs(command: Command, count: int) -> Sequence[Variant]:
    """Shares of the undisturbed time by which the second comes later."""
    return [0.0, 0.4, 0.8][: max(1, min(count, 3))] if command.writes else []


@contextlib.contextmanager
def two_at_once(one: Cell, later: Variant) -> Iterator[list[Ended]]:
    """The same command twice, into the same place."""
    assert one.undisturbed
    first = one.start()
    time.sleep(float(later) * one.undisturbed.seconds)
    second = one.start()
    yield [first.wait(), second.wait()]


# --------------------------------------------------------------------------- inputs


def _spoiled(spoil: Callable[[Path], None]) -> Strike:
    @contextlib.contextmanager
    def strike(one: Cell, file: Variant) -> Iterator[list[Ended]]:
        path = one.inputs / str(file)
        before = path.read_bytes()
        spoil(path)
        ended = one.run()
        path.write_bytes(before)
        yield [ended]

    return strike


def inputs(command: Command, count: int) -> Sequence[Variant]:
    """The files that it reads."""
    return command.reads[:count]


def cut(path: Path) -> None:
    """The first six tenths of the file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


def corrupt(path: Path) -> None:
    """64 bytes of noise: in the header of weights, before the footer of a table, else in the middle."""
    content = bytearray(path.read_bytes())
    at = {".safetensors": 16, ".parquet": len(content) - 200}.get(path.suffix, len(content) // 2)
    content[at : at + 64] = random.Random(path.name).randbytes(64)
    path.write_bytes(content)


def with_numbers(command: Command, count: int) -> Sequence[Variant]:
    """The files that it reads that hold numbers."""
    return [file for file in command.reads if file.endswith((".safetensors", ".json", ".yaml"))][:count]


def not_a_number(path: Path) -> None:
    """One weight, or the first number with a point, is none."""
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        name = sorted(name for name, tensor in tensors.items() if "self_attn" in name and tensor.dim() == 2)[0]
        tensors[name][0, 0] = torch.nan
        save_file(tensors, path, metadata=_metadata(path))
    else:
        literal = "NaN" if path.suffix == ".json" else ".nan"
        path.write_text(TENTH.sub(literal, path.read_text(), count=1))


def _metadata(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header.get("__metadata__", {"format": "pt"})


# --------------------------------------------------------------------------- servers


def served(command: Command, count: int) -> Sequence[Variant]:
    """From the first request on, or from a later one."""
    return [0.0, 0.5][: max(1, min(count, 2))] if command.server else []


def _broken(fault: Broken | None) -> Strike:
    @contextlib.contextmanager
    def strike(one: Cell, moment: Variant) -> Iterator[list[Ended]]:
        assert one.proxy and one.undisturbed
        process = one.start() if moment else None
        time.sleep(float(moment) * one.undisturbed.seconds)
        with _breaking(one, fault):
            ended = (process or one.start()).wait()
        yield [ended]

    return strike


@contextlib.contextmanager
def _breaking(one: Cell, fault: Broken | None) -> Iterator[None]:
    assert one.proxy
    if fault is None:
        with one.proxy.closed():
            yield
    else:
        one.proxy.faults.append(fault)
        yield
        one.proxy.faults.remove(fault)


@contextlib.contextmanager
def refusing(one: Cell, status: Variant) -> Iterator[list[Ended]]:
    """Every request is answered with this status."""
    with _broken(Broken("", status=int(status)))(one, 0.0) as ended:
        yield ended


def statuses(command: Command, count: int) -> Sequence[Variant]:
    """401 and 403."""
    return [401, 403][:count] if command.server else []


FAULTS = [
    Fault("SIGKILL", _signalled(signal.SIGKILL), moments, ends="kill"),
    Fault("SIGTERM", _signalled(signal.SIGTERM), lambda command, count: moments(command, min(count, 3)), ends="term"),
    Fault("disk full", full_disk, rooms),
    Fault("two at once", two_at_once, pairs),
    Fault("truncated", _spoiled(cut), inputs),
    Fault("corrupted", _spoiled(corrupt), inputs),
    Fault("NaN", _spoiled(not_a_number), with_numbers),
    Fault("down", _broken(None), served),
    Fault("hanging", _broken(Broken("", "hang", seconds=HANG_SECONDS)), served),
    Fault("refusing", refusing, statuses),
    Fault("web page", _broken(Broken("", "page")), served),
]
