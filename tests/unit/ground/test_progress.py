"""What a log has of a work that takes a while: amounts, a speed, and what is left."""

import logging

import pytest

from drift.ground.progress import Bar, shown


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("drift.ground.progress.LINE_SECONDS", -1.0)
    return caplog


def test_a_log_has_lines_with_a_speed_and_what_is_left(lines: pytest.LogCaptureFixture) -> None:
    assert list(shown("abc", "ingest", 3, unit="row")) == ["a", "b", "c"]
    first, second, third = lines.messages
    assert first.startswith("ingest: 1 of 3 rows, ") and first.endswith("/s, ? left"), "one may be of a batch"
    assert second.startswith("ingest: 2 of 3 rows, ") and second.endswith(" left") and "?" not in second
    assert third.startswith("ingest: 3 of 3 rows, ") and third.endswith(", 00:00 left")


def test_bytes_have_their_units_and_what_was_there_before_is_no_speed(lines: pytest.LogCaptureFixture) -> None:
    with Bar("upload", 4_000_000_000, done=1_000_000_000, unit="B") as bar:
        bar.advance(0)
        bar.advance(2_500_000_000)
    assert lines.messages[0] == "upload: 1.00GB of 4.00GB, 0.00B/s, ? left"
    assert lines.messages[1].startswith("upload: 3.50GB of 4.00GB, ") and lines.messages[1].endswith(", 00:00 left")


def test_where_nobody_knows_the_total_none_is_made_up(lines: pytest.LogCaptureFixture) -> None:
    assert len(list(shown(range(2), "ingest", None, unit="row"))) == 2
    assert lines.messages[-1].startswith("ingest: 2 of ? rows, ") and lines.messages[-1].endswith("/s, ? left")


def test_a_short_work_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    list(shown(range(100), "verify", 100, unit="answer"))
    assert caplog.messages == []
