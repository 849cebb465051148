"""Failures that are gone when somebody tries again: which they are, and trying again with growing waits.

On a cluster nothing else repeats a step that fails: Argo repeats lost pods only.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
from collections.abc import Callable
from typing import TypeVar

from drift.ground.errors import ConfigError, DriftError, ServiceError, UnavailableError, first_line, links

log = logging.getLogger(__name__)

PATIENCE = "DRIFT_PATIENCE_SECONDS"
PATIENCE_SECONDS = 900.0
FIRST_WAIT_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 300.0

TRANSIENT = {
    "requests": {"ConnectionError", "Timeout", "RetryError", "ChunkedEncodingError"},
    "urllib3": {"MaxRetryError", "ProtocolError", "TimeoutError"},
    "httpx": {"TransportError"},
    "httpx2": {"TransportError"},
    "openai": {"APIConnectionError"},
    "botocore": {"HTTPClientError", "ConnectionError"},
    "socket": {"gaierror"},
}
"""Classes of errors of libraries that are not imported here, by the library; what derives from them too."""
PERMANENT = {"requests": {"SSLError"}, "httpx": {"UnsupportedProtocol"}, "httpx2": {"UnsupportedProtocol"}}
_CONNECTION = (ConnectionResetError, ConnectionRefusedError, ConnectionAbortedError, TimeoutError)
_STATUS = {408, 425, 429, *range(500, 600)} - {501, 505}
_SAYS = re.compile(
    r"failed with error code (429|50[0234]) "  # mlflow.utils.rest_utils.verify_rest_response
    r"|CUDA-capable device\(s\) is/are busy or unavailable"  # cudaErrorDevicesUnavailable
)

Result = TypeVar("Result")


def patience_seconds() -> float:
    """How long a step waits in all for what may come back; 0 is never. Raises ConfigError for no such number."""
    text = os.environ.get(PATIENCE, str(PATIENCE_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigError(
            f"{PATIENCE}: '{text}' is no number of seconds; give 0 to try once only, or {PATIENCE_SECONDS:g}"
        )
    return seconds


def patiently(
    work: Callable[[], Result],
    seconds: float,
    *,
    told: Callable[[int, BaseException], None] = lambda count, error: None,
    what: str = "this",
    first_wait: float | None = None,
) -> Result:
    """`work`, repeated while it fails transiently, until the waits between would exceed `seconds` in all.

    The time of the work itself does not count. Every wait is a warning in the log, and `told` gets its number and the
    error. Raises what the last try raised.
    """
    from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential_jitter

    def before_sleep(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        assert error is not None
        log.warning("%s failed (%s); again in %.0f s", what, first_line(error), state.upcoming_sleep)
        told(state.attempt_number, error)

    first = FIRST_WAIT_SECONDS if first_wait is None else first_wait
    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        wait=wait_exponential_jitter(multiplier=first, max=LONGEST_WAIT_SECONDS, jitter=first),
        stop=lambda state: state.idle_for + state.upcoming_sleep > seconds,
        before_sleep=before_sleep,
        reraise=True,
    )
    return retrying(work)


def is_transient(error: BaseException) -> bool:
    """Whether the same may go well a little later: network, 429, 5xx, a server that does not answer, a busy GPU.

    Errors of ours are judged by their cause, except for `UnavailableError`.
    """
    chain = list(links(error))
    if not isinstance(error, Exception) or any(_is_permanent(link) for link in chain):
        return False
    return any(_is_transient(link) for link in chain)


def service_error(error: BaseException) -> type[ServiceError]:
    """The class for an error of ours that cannot name `error` as its cause, since that may hold a key."""
    return UnavailableError if is_transient(error) else ServiceError


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, DriftError):
        return isinstance(error, UnavailableError)
    return isinstance(error, _CONNECTION) or _is_one(error, TRANSIENT) or _status(error) in _STATUS or _says_so(error)


def _is_permanent(error: BaseException) -> bool:
    return isinstance(error, ssl.SSLCertVerificationError) or _is_one(error, PERMANENT)


def _is_one(error: BaseException, classes: dict[str, set[str]]) -> bool:
    return any(one.__name__ in classes.get(one.__module__.partition(".")[0], ()) for one in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of openai, requests, httpx, huggingface_hub, botocore or an MLflow server has."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if type(error).__name__ == "RestException":  # of MLflow: any other error of it is 500 by default
        return int(error.get_http_status_code())  # type: ignore[attr-defined]
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _says_so(error: BaseException) -> bool:
    return bool(_SAYS.search(str(error)))
