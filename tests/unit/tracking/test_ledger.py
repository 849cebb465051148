"""The ledger of looks: each counted once, none lost."""

import hashlib
import threading
from pathlib import Path

import pytest

from drift.ground.errors import DataError, ServiceError
from drift.tracking.models.ledger import FileLedger, Ledger, Look, RegistryLedger, conclude, open_ledger, take_look
from drift.tracking.models.registry import find_champion
from tests.mlflow_store import fresh_store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

DATA = "d" * 64


def look(attempt: int, data: str = DATA) -> Look:
    return Look(hashlib.sha256(bytes([attempt])).hexdigest(), data, "drift", "ab" * 32, 0.999)


@pytest.fixture(params=["registry", "file"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if request.param == "registry":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", fresh_store(tmp_path))
    return open_ledger("drift-vlm", tmp_path / "runs")


def test_the_same_answers_again_are_the_same_look(ledger: Ledger) -> None:
    assert [take_look(ledger, look(number)) for number in (7, 5, 7, 9, 5)] == [1, 2, 1, 3, 2]


def test_other_questions_and_other_models_have_looks_of_their_own(ledger: Ledger, tmp_path: Path) -> None:
    take_look(ledger, look(1))
    assert take_look(ledger, look(1, data="e" * 64)) == 1
    assert take_look(open_ledger("another", tmp_path / "runs"), look(2)) == 1


def test_what_came_of_a_look_is_kept_with_the_time_of_the_first(ledger: Ledger) -> None:
    take_look(ledger, look(1))
    (taken,) = ledger.looks(DATA)
    assert taken.passed is None
    conclude(ledger, look(1), passed=True)
    take_look(ledger, look(1))
    (known,) = ledger.looks(DATA)
    assert (known.passed, known.time) == (True, taken.time)


def test_runs_at_once_lose_no_look(ledger: Ledger) -> None:
    threads = [threading.Thread(target=take_look, args=(ledger, look(number))) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {known.attempt for known in ledger.looks(DATA)} == {look(number).attempt for number in range(8)}


def test_a_model_that_has_only_been_looked_at_has_no_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fresh_store(tmp_path))
    take_look(RegistryLedger("drift-vlm"), look(1))
    assert find_champion("drift-vlm") is None


def test_the_store_in_the_runs_folder_is_used_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert open_ledger("drift-vlm", tmp_path) == FileLedger(tmp_path / "looks.jsonl", "drift-vlm")
    fresh_store(tmp_path)
    assert open_ledger("drift-vlm", tmp_path) == RegistryLedger("drift-vlm")


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    ledger = FileLedger(tmp_path / "looks.jsonl", "drift-vlm")
    take_look(ledger, look(1))
    with ledger.path.open("a") as file:
        file.write("{half\n")
    with pytest.raises(DataError, match=r"looks\.jsonl:2: no look that a gate wrote"):
        ledger.looks(DATA)


def test_a_registry_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match=r"http://127\.0\.0\.1:9"):
        take_look(RegistryLedger("drift-vlm"), look(1))
