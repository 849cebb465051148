"""The journal of a run, and its way to MLflow."""

import json
import threading
from pathlib import Path

from drift.tracking.journal import JOURNAL, Relay, append, last_error, mend, read


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
    mend(tmp_path)
    append(tmp_path, event("after"))
    assert [line["key"] for line, _ in read(tmp_path)] == ["whole", "after"]
    assert "torn by a crash" in caplog.text


def test_the_error_of_a_step_is_the_one_of_its_last_attempt(tmp_path: Path):
    append(tmp_path, event("run/arm/sft", "ended", status="FAILED", error="first"))
    append(tmp_path, event("run/arm/sft", "ended", status="FAILED", error="second"))
    append(tmp_path, event("run/arm/drift", "ended", status="FINISHED", error=None))
    assert last_error(tmp_path, "run/arm/sft") == "second"
    assert last_error(tmp_path, "run/arm/drift") is None
    assert last_error(tmp_path, "run/gate") is None


def test_the_relay_passes_everything_on_once_and_goes_on_where_it_was(tmp_path: Path):
    passed: list[str] = []
    for number in range(3):
        append(tmp_path, event(f"k{number}"))
    relay = Relay(tmp_path, lambda line: passed.append(line["key"]))
    relay.start()
    assert relay.finish()
    append(tmp_path, event("k3"))
    assert Relay(tmp_path, lambda line: passed.append(line["key"])).deliver()
    assert passed == ["k0", "k1", "k2", "k3"]


def test_a_refused_event_is_kept_and_tried_again_in_order(tmp_path: Path, caplog):
    passed: list[str] = []
    broken = True

    def apply(line: dict) -> None:
        if broken and line["key"] == "k1":
            raise ConnectionError("server went away")
        passed.append(line["key"])

    for number in range(3):
        append(tmp_path, event(f"k{number}"))
    relay = Relay(tmp_path, apply)
    assert not relay.deliver()
    assert passed == ["k0"] and "server went away" in caplog.text
    broken = False
    assert relay.deliver()
    assert passed == ["k0", "k1", "k2"]


def test_the_journal_is_plain_json_lines(tmp_path: Path):
    append(tmp_path, event("k", text="Δ"))
    assert json.loads((tmp_path / JOURNAL).read_text(encoding="utf-8"))["text"] == "Δ"
