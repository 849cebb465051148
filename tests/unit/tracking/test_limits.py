"""How long MLflow's client waits."""

import os
import threading

import pytest

from drift.tracking.limits import MODEL, NUMBERS, OURS, QUESTION, RETRIES, TIMEOUT, begin, for_file, limit, own_settings


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (OURS, TIMEOUT, RETRIES):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def now() -> tuple[int, int]:
    return int(os.environ[TIMEOUT]), int(os.environ[RETRIES])


def test_a_limit_holds_while_its_block_runs_and_the_longest_wins():
    begin()
    assert now() == (QUESTION.seconds, QUESTION.retries)
    with limit(NUMBERS):
        assert now() == (20, 0)
        with pytest.raises(KeyError), limit(MODEL):
            assert now() == (3600, 2)
            raise KeyError
        assert now() == (20, 0)
    assert now() == (QUESTION.seconds, QUESTION.retries)


def test_an_upload_of_another_thread_is_never_cut_short_by_a_metric():
    inside, over = threading.Event(), threading.Event()

    def upload() -> None:
        with limit(MODEL):
            inside.set()
            over.wait(10)

    thread = threading.Thread(target=upload)
    thread.start()
    inside.wait(10)
    with limit(NUMBERS):
        assert now() == (3600, 2)
    over.set()
    thread.join()


def test_what_the_user_has_set_is_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(TIMEOUT, "600")
    begin()
    assert own_settings() == {TIMEOUT: "600"}
    with limit(NUMBERS):
        assert now() == (600, 0)
    with limit(MODEL):
        assert now() == (600, 2)


def test_a_process_that_inherits_our_limits_does_not_take_them_for_the_users():
    with limit(NUMBERS):
        assert own_settings() == {}
        with limit(MODEL):
            assert now() == (3600, 2)


def test_a_large_file_gets_the_time_it_needs():
    assert (for_file(1).seconds, for_file(5_000_000_000).seconds) == (300, 5000)
