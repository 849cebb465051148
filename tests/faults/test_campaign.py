"""The campaign at its reduced size; and that it sees what is wrong, each kind of it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.campaign import Campaign
from tests.faults.cells import Cell, Ended, cell, judge, said_wrong, undisturbed
from tests.faults.commands import COMMANDS
from tests.faults.faults import FAULTS
from tests.faults.servers import Servers
from tests.faults.table import MARKERS, Tried, summary, table, write
from tests.small_disk import small_disk

VERIFY = next(one for one in COMMANDS if one.name == "verify")
WELL = Ended(0, "", "", 1.0)


@pytest.mark.slow
def test_the_cheap_commands_are_right_under_every_fault(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    with small_disk(tmp_path / "disk", "64k"):
        pass  # or the test is skipped, and says so
    with Campaign(tmp_path / "campaign", size=1) as campaign, ThreadPoolExecutor(2) as pool:
        rows = pool.map(lambda one: campaign.row(one, FAULTS, print), [one for one in COMMANDS if one.cheap])
        tried = [one for row in rows for one in row]
    assert {one.fault for one in tried} == {one.name for one in FAULTS}
    assert [one for one in tried if one.wrong] == []


@pytest.mark.parametrize(
    ("ended", "wrong"),
    [
        (WELL, []),
        (replace(WELL, code=2, err="50 %\ndrift: x: missing\n"), []),
        (replace(WELL, code=None), ["hang: not over after 1 s"]),
        (replace(WELL, code=1), ["exit 1: "]),
        (replace(WELL, code=2), ["0 lines: ''"]),
        (replace(WELL, left=("python -c",)), ["left running: ('python -c',)"]),
        (
            replace(WELL, code=2, err="Traceback (most recent call last):\ndrift: x\n"),
            ["traceback: drift: x"],
        ),
    ],
)
def test_how_a_command_ended_is_right_or_named(ended: Ended, wrong: list[str]) -> None:
    assert said_wrong(ended, (0, 2)) == wrong


@pytest.fixture
def verify(tmp_path: Path) -> Iterator[Cell]:
    """A cell of `verify`, as the command left it when nothing disturbed it."""
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "pairs.jsonl").write_text('{"gold": "3", "response": "3"}\n')
    with cell(VERIFY, tmp_path / "world", tmp_path / "cell", Servers(tmp_path)) as one:
        one.undisturbed = undisturbed(one)
        yield one


def test_half_a_file_and_another_result_and_changed_inputs_are_seen(verify: Cell) -> None:
    assert judge(verify, [WELL], (0,)) == []
    out, before = verify.disk / "out", (verify.disk / "out").read_bytes()
    out.write_bytes(before[:5])
    refused = replace(WELL, code=2, err="drift: refused\n")
    assert judge(verify, [refused], (2,))[0].startswith("half: out")
    out.write_bytes(before[:5])
    assert judge(verify, [WELL], (0,))[0].startswith("wrong: ended with 0")
    (verify.inputs / "pairs.jsonl").write_text("")
    assert "lost: what it reads was changed" in judge(verify, [WELL], (0,))


def test_what_is_left_beside_the_result_is_seen(verify: Cell) -> None:
    (verify.disk / "out").unlink()
    (verify.disk / "out.partial").write_text("")
    assert judge(verify, [replace(WELL, code=-9)], (-9,)) == ["again, litter: ['out.partial']"]


TRIED = [Tried("a", "x", "1", ()), Tried("a", "x", "2", ("hang",)), Tried("b", "y", "1", ())]


def test_a_cell_of_the_table_has_the_number_of_its_tries_or_how_many_were_right() -> None:
    assert table(TRIED, ["a", "b"], ["x", "y"]).splitlines()[2:] == ["| `a` | **1 of 2** | - |", "| `b` | - | 1 |"]
    assert summary(TRIED) == "1 of 2 cells right; 2 of 3 tries"


def test_the_table_is_put_between_the_markers_of_the_page(tmp_path: Path) -> None:
    page, (begin, end) = tmp_path / "page.md", MARKERS
    page.write_text(f"Before.\n{begin}\nold\n{end}\nAfter.\n")
    write("| new |", page)
    write("| newer |", page)
    assert page.read_text() == f"Before.\n{begin}\n\n| newer |\n\n{end}\nAfter.\n"
