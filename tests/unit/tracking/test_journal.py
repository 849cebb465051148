"""The journal of a run, and its way to MLflow."""

import json
import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from drift.ground.errors import PipelineError
from drift.tracking.telling.delivery import Relay, missing_of
from drift.tracking.telling.journal import JOURNAL, append, end, last_error, read
from drift.tracking.telling.live import Live, telling
from tests.small_disk import small_disk


def event(key: str, kind: str = "metrics", **content) -> dict:
    return {"key": key, "event": kind, **content}


def test_events_come_back_in_order_and_from_a_position_on(tmp_path: Path):
    for number in range(3):
        append(tmp_path, event(f"k{number}"))
    lines = list(read(tmp_path))
    assert [line["key"] for line, _ in lines] == ["k0", "k1", "k2"]
    assert [line["key"] for line, _ in read(tmp_path, lines[0][1])] == ["k1", "k2"]


def test_parallel_steps_do_not_mix_their_lines(tmp_path: Path):
    def write(name: str) -> None:
        for number in range(50):
            append(tmp_path, event(f"{name}{number}", text="x" * 5000))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(read(tmp_path))) == 200


def test_a_line_torn_by_a_crash_is_left_out_and_the_next_ones_are_not(tmp_path: Path, caplog):
    append(tmp_path, event("whole"))
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"key": "to')
    assert [line["key"] for line, _ in read(tmp_path)] == ["whole"]
    append(tmp_path, event("after"))
    assert [line["key"] for line, _ in read(tmp_path)] == ["whole", "after"]
    assert "a line was torn" in caplog.text


def test_a_full_disk_tears_no_line_but_its_own_and_numbers_wait_for_room(tmp_path: Path, caplog):
    with small_disk(tmp_path, "64k"), telling(tmp_path, "r1/arm", "arm", ""):
        append(tmp_path, event("r1/arm"))
        (tmp_path / "ballast").write_bytes(b"x" * 40_000)
        with pytest.raises(PipelineError, match=r"events.jsonl: cannot be written \(No space left on device\); make"):
            append(tmp_path, event("torn", text="x" * 100_000))
        live = Live(every=0)
        live.tell({"loss": 1.0}, 1)
        (tmp_path / "ballast").unlink()
        live.tell({"loss": 0.5}, 2)
        assert [len(line.get("metrics", [])) for line, _ in read(tmp_path)] == [0, 2]
    assert "a line was torn" in caplog.text


def test_the_error_of_a_step_is_the_one_of_its_last_attempt(tmp_path: Path):
    append(tmp_path, event("run/arm/sft", "ended", status="FAILED", error="first"))
    append(tmp_path, event("run/arm/sft", "ended", status="FAILED", error="second"))
    append(tmp_path, event("run/arm/drift", "ended", status="FINISHED", error=None))
    assert last_error(tmp_path, "run/arm/sft") == "second"
    assert last_error(tmp_path, "run/arm/sft", end(tmp_path)) is None, "a third has not said anything yet"
    assert last_error(tmp_path, "run/arm/drift") is None
    assert last_error(tmp_path, "run/gate") is None


def test_the_relay_passes_everything_on_once_and_goes_on_where_it_was(tmp_path: Path):
    passed: list[str] = []
    for number in range(3):
        append(tmp_path, event(f"k{number}"))
    relay = Relay(tmp_path, lambda line: passed.append(line["key"]))
    relay.start()
    assert not relay.finish()
    append(tmp_path, event("k3"))
    with closing(Relay(tmp_path, lambda line: passed.append(line["key"]))) as again:
        assert again.deliver()
    assert passed == ["k0", "k1", "k2", "k3"]


def refusing(passed: list[str], *keys: str, error: Exception) -> Callable[[dict], None]:
    """Takes every line but those of `keys`, for as long as they are in the list."""

    def apply(line: dict) -> None:
        if line["key"] in keys:
            raise error
        passed.append(line["key"])

    return apply


def test_a_refused_event_is_kept_and_told_again_while_the_others_go_on(tmp_path: Path, caplog):
    passed: list[str] = []
    for number in range(3):
        append(tmp_path, event(f"k{number}", "files"))
    with closing(Relay(tmp_path, refusing(passed, "k1", error=ValueError("no right")))) as relay:
        assert not relay.deliver()
        assert passed == ["k0", "k2"]
        assert str(relay.missing()) == "1 of 3 events are missing (files of k1: no right)"
        assert missing_of(tmp_path) == relay.missing(), "whoever asks"
        assert not relay.deliver(everything=True)
    assert caplog.text.count("MLflow does not take 'files' of k1: no right") == 1, "said once"
    with closing(Relay(tmp_path, refusing(passed, error=ValueError()))) as again:
        assert again.deliver() and not again.missing()
    assert passed == ["k0", "k2", "k1"], "none twice"


def test_where_nobody_answers_nothing_is_told_and_nothing_is_lost(tmp_path: Path, caplog):
    passed: list[str] = []
    there = False

    def apply(line: dict) -> None:
        if not there:
            raise ConnectionError("refused")
        passed.append(line["key"])

    for number in range(3):
        append(tmp_path, event(f"k{number}"))
    with closing(Relay(tmp_path, apply, lambda: there)) as relay:
        assert not relay.deliver() and not relay.deliver()
        assert str(relay.missing()).startswith("3 of 3 events are missing (metrics of k0: refused; ")
        there = True
        assert relay.deliver()
    assert passed == ["k0", "k1", "k2"]
    assert caplog.text.count("MLflow does not take") == 1 and "answers again" in caplog.text


def test_what_hangs_is_tried_once_a_round_and_not_once_an_event(tmp_path: Path):
    tried: list[str] = []

    def apply(line: dict) -> None:
        tried.append(line["key"])
        if line["event"] == "metrics":
            raise TimeoutError("20 s")

    for number in range(5):
        append(tmp_path, event(f"m{number}"))
        append(tmp_path, event(f"f{number}", "files"))
    with closing(Relay(tmp_path, apply)) as relay:
        assert not relay.deliver()
        assert tried == ["m0", "f0", "f1", "f2", "f3", "f4"]
        assert not relay.deliver(everything=True)
        assert tried[-1] == "m1", "one that never passes keeps no other of its kind back"


def test_two_processes_cannot_tell_one_journal(tmp_path: Path):
    with (
        closing(Relay(tmp_path, lambda line: None)),
        pytest.raises(PipelineError, match=rf"process {os.getpid()} on .* tells MLflow of it; wait for that"),
    ):
        Relay(tmp_path, lambda line: None)


def test_the_position_of_an_earlier_release_is_understood(tmp_path: Path):
    passed: list[str] = []
    for number in range(3):
        append(tmp_path, event(f"k{number}"))
    (tmp_path / "events.position").write_text(str(next(read(tmp_path))[1]))
    with closing(Relay(tmp_path, lambda line: passed.append(line["key"]))) as relay:
        assert relay.deliver()
    assert passed == ["k1", "k2"]


def test_the_journal_is_plain_json_lines(tmp_path: Path):
    append(tmp_path, event("k", text="Δ"))
    assert json.loads((tmp_path / JOURNAL).read_text(encoding="utf-8"))["text"] == "Δ"
