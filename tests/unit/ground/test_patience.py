"""What is worth another try, by the errors that the libraries raise themselves, and trying again."""

import logging
import re
import ssl
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import openai
import pytest
import requests
from huggingface_hub import HfApi
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from drift.ground.errors import ConfigError, DataError, MissingCheckpointError, ServiceError, UnavailableError
from drift.ground.patience import PATIENCE, is_transient, patience_seconds, patiently, service_error
from tests.loopback import Loopback

NOBODY = "http://127.0.0.1:9"


class Answers(BaseHTTPRequestHandler):
    """Answers every request with the status in its path, `/status/503/…`."""

    def do_GET(self) -> None:
        found = re.search(r"/status/(\d+)", self.path)
        self.send_response(int(found[1]) if found else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815  # as the base class calls it

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""


@pytest.fixture(autouse=True)
def impatient_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def host() -> Iterator[str]:
    with Loopback(Answers) as server:
        yield server.host


def by_requests(url: str) -> None:
    requests.get(url, timeout=5).raise_for_status()


def by_openai(url: str) -> None:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=5) as client:
        client.models.list()


def by_mlflow(url: str) -> None:
    MlflowClient(url).search_experiments()


def by_the_hub(url: str) -> None:
    HfApi(endpoint=url).model_info("a/b", timeout=5)


def raised(call: Callable[..., Any], *arguments: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # whatever the library raises
        call(*arguments)
    return caught.value


ASKING = [by_requests, by_openai, by_mlflow, by_the_hub]


@pytest.mark.parametrize("ask", ASKING)
@pytest.mark.parametrize(
    ("status", "transient"),
    [(429, True), (500, True), (503, True), (504, True), (400, False), (401, False), (404, False)],
)
def test_a_server_that_is_overloaded_or_broken_may_recover_and_one_that_refuses_does_not(
    host: str, ask: Callable[[str], None], status: int, transient: bool
) -> None:
    assert is_transient(raised(ask, f"{host}/status/{status}")) is transient


@pytest.mark.parametrize("ask", ASKING)
@pytest.mark.parametrize("address", [NOBODY, "http://nowhere.invalid"])
def test_a_server_that_is_not_there_may_come(ask: Callable[[str], None], address: str) -> None:
    assert is_transient(raised(ask, address))


def wrapped(error: Exception, kind: type[Exception] = ServiceError) -> Exception:
    """As the steps raise what a library raised."""
    try:
        raise kind("of ours") from error
    except kind as ours:
        return ours


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (UnavailableError("a teacher does not answer"), True),
        (ServiceError("a teacher refuses the key"), False),
        (wrapped(ConnectionResetError()), True),
        (wrapped(requests.exceptions.ConnectTimeout(), MissingCheckpointError), True),
        (wrapped(FileNotFoundError("pool.parquet"), DataError), False),
        (wrapped(requests.exceptions.SSLError("certificate verify failed")), False),
        (wrapped(ssl.SSLCertVerificationError("self-signed"), UnavailableError), False),
        (wrapped(MlflowException("Could not find a registered artifact repository for: minio://x")), False),
        (RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), True),
        (RuntimeError("CUDA error: out of memory"), False),
        (BrokenPipeError("a worker is gone"), False),
        (ZeroDivisionError(), False),
        (KeyboardInterrupt(), False),
        (SystemExit(143), False),
    ],
)
def test_an_error_of_ours_is_judged_by_its_cause(error: BaseException, transient: bool) -> None:
    assert is_transient(error) is transient


def test_an_error_that_may_not_name_its_cause_says_itself_that_it_may_pass() -> None:
    assert service_error(ConnectionResetError()) is UnavailableError
    assert service_error(ValueError()) is ServiceError


class Work:
    """Fails with `error` until the last of `tries`."""

    def __init__(self, tries: int, error: Exception) -> None:
        self.tries, self.error, self.done = tries, error, 0

    def __call__(self) -> int:
        self.done += 1
        if self.done < self.tries:
            raise self.error
        return self.done


def test_what_may_pass_is_tried_again_and_each_wait_is_told(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[int, str]] = []
    work = Work(3, UnavailableError("the hub is away\nand more"))
    with caplog.at_level(logging.WARNING):
        done = patiently(
            work, 10, told=lambda count, error: told.append((count, str(error))), what="r1/ingest", first_wait=0.01
        )
    assert done == 3
    assert [count for count, _ in told] == [1, 2]
    said = [record.message for record in caplog.records]
    assert len(said) == 2 and all(line.startswith("r1/ingest failed (the hub is away); again in ") for line in said)


def test_what_does_not_pass_is_tried_once() -> None:
    work = Work(3, DataError("no rows"))
    with pytest.raises(DataError, match="no rows"):
        patiently(work, 10, first_wait=0.01)
    assert work.done == 1


@pytest.mark.parametrize(("seconds", "tries"), [(0, 1), (0.5, 2)])
def test_the_waits_are_bounded_and_the_work_s_own_hours_do_not_count(seconds: float, tries: int) -> None:
    work = Work(9, UnavailableError("away"))
    with pytest.raises(UnavailableError):
        patiently(work, seconds, first_wait=0.2)
    assert work.done == tries


@pytest.mark.parametrize("text", ["long", "-1", "nan", "inf"])
def test_a_patience_that_is_no_number_of_seconds_is_an_error(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, text)
    with pytest.raises(ConfigError, match=f"DRIFT_PATIENCE_SECONDS: '{text}' is no number of seconds"):
        patience_seconds()


def test_a_step_is_patient_for_a_quarter_of_an_hour_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PATIENCE, raising=False)
    assert patience_seconds() == 900
    monkeypatch.setenv(PATIENCE, "0")
    assert patience_seconds() == 0
