"""One step of a pipeline run, as a component calls it: checked parameter in, journal and step record out.

On this machine the step writes to the run's journal, and the runner passes it on to MLflow. On a cluster (no
DRIFT_RUN_DIR) the step has a journal of its own and passes it on itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from drift.config.places import CHAIN
from drift.config.section import SectionType, from_json
from drift.ground.artifacts import content_sha256, read_json, write_json
from drift.ground.errors import TERMINATED, ConfigError, DataError, DriftError, PipelineError
from drift.ground.patience import patience_seconds, patiently
from drift.tracking.runs.origin import CONFIG_FILE, IMAGE, config_text, origin, packages
from drift.tracking.runs.outputs import DEFAULT_UPLOAD, UPLOAD
from drift.tracking.store import RUN_ID
from drift.tracking.telling.journal import append, make_event, step_key
from drift.tracking.telling.live import Point, curves, milliseconds, telling, told
from drift.tracking.telling.machine import watched
from drift.tracking.telling.printed import printed

log = logging.getLogger(__name__)

RUN_DIR = "DRIFT_RUN_DIR"
LIFELINE = "DRIFT_LIFELINE"
"""File descriptor of a pipe whose other end the runner holds: it closes when the runner dies, however it dies."""

POD = "KFP_POD_NAME"
"""The name of a step's pod, as Kubeflow tells it."""

LOGS = "step"
"""Folder of a step's run in MLflow for what is about its process: its log, its record."""


class Report(Protocol):
    """What every step function returns.

    It may have `warnings`, sentences that a person should see, `run_tags()`, what the whole run in MLflow is told, and
    `page()`, what its page says, in Markdown, by part.
    """

    def metrics(self) -> dict[str, float]: ...


class Output(Protocol):
    """An artifact of Kubeflow's: its folder here, and its address for others."""

    path: str
    uri: str


ReportType = TypeVar("ReportType", bound=Report)


def run_step(
    step: str,
    parameter: str,
    section: type[SectionType],
    work: Callable[[SectionType], ReportType],
    *,
    record: str | Path,
    arm: str = "",
    files: Sequence[str | Path] = (),
    outputs: Mapping[str, Output] | None = None,
    datasets: Mapping[str, str | Path] | None = None,
    history: str | Path | None = None,
) -> ReportType:
    """Run `work` on the section in `parameter`, and say in the journal and in the file `record` what it did.

    `files` are the small files to keep in MLflow, on top; `outputs` the artifacts that the step writes, whose other
    files are kept below their names, or referred to; `datasets` the artifact folders the step reads, `history` a file
    of one JSON object per training step. Raises what `work` raises, after it is written down.
    """
    _die_with_the_runner()
    config, payload = _parse(step, parameter, section)
    journal = StepJournal(step, arm)
    journal.write("started", **_given(step, payload, datasets or {}))
    started = time.time()
    try:
        with _terminable(), journal.alive(), journal.telling(), watched(), journal.printed():
            report = journal.patiently(lambda: work(config))
    except BaseException as error:
        with contextlib.suppress(PipelineError):  # a full disk, which the error itself will say
            journal.write("ended", status=_status(error), error=_one_line(error), seconds=time.time() - started)
        raise
    seconds = time.time() - started
    metrics = finite_metrics(report)
    dropped = sorted(set(report.metrics()) - set(metrics))
    if dropped:
        log.warning("%s: no finite numbers, and not logged: %s", step, ", ".join(dropped))
    journal.write("metrics", metrics=_points(journal, metrics, history), not_finite=dropped)
    if tags := _run_tags(report):
        journal.write("tags", tags=tags)
    if parts := _page(report):
        journal.write("page", parts=parts)
    journal.write("files", paths=[str(path.resolve()) for path in map(Path, files) if path.exists()])
    if outputs:
        journal.write("outputs", **_outputs(outputs, files))
    journal.write("ended", status="FINISHED", error=None, seconds=seconds)
    warnings = list(getattr(report, "warnings", ()))
    write_json(Path(record), _record(journal, parameter, seconds, metrics, dropped) | {"warnings": warnings})
    return report


def finish_pipeline(state: str) -> None:
    """What the exit handler does: on a cluster, close the pipeline's run in MLflow. Here the runner does."""
    if os.environ.get(RUN_DIR):
        append(Path(os.environ[RUN_DIR]), make_event("", "finalize", "", "pipeline", state=state))
        return
    from drift.tracking.cluster import tracker_from_environment
    from drift.tracking.runs.ending import finish

    def close() -> None:
        if tracker := tracker_from_environment():
            finish(tracker, state)

    patiently(close, patience_seconds(), what="closing the run in MLflow")


def finite_metrics(report: Report) -> dict[str, float]:
    """The report's numbers without NaN and infinities: Kubeflow reads what a component says as strict JSON, and fails a
    step for them after its work is done."""
    return {name: float(value) for name, value in report.metrics().items() if math.isfinite(value)}


class StepJournal:
    """Where a step's events go: the run's journal, or MLflow itself where there is none."""

    def __init__(self, step: str, arm: str) -> None:
        self.step, self.arm = step, arm
        self.key = step_key(os.environ.get(RUN_ID, "local"), step, arm)
        folder = os.environ.get(RUN_DIR, "")
        self._pod = None if folder else _pod(self.key)
        self.folder = Path(folder) if self._pod is None else self._pod.folder
        self._started = 0.0

    def write(self, event: str, **content: Any) -> None:
        """Append one event; never raises because of MLflow."""
        line = make_event(self.key, self.step, self.arm, event, **content)
        if event == "started":
            self._started = line["time"]
            line |= {"pod": os.environ[POD]} if POD in os.environ else {}
        elif event == "ended":
            line["started"] = self._started
        if self._pod:
            self._pod.tell(line)
        else:
            append(self.folder, line)

    def untold(self) -> dict[str, Any]:
        """On a cluster, what MLflow does not have after the step's end."""
        return self._pod.untold() if self._pod else {}

    def alive(self) -> contextlib.AbstractContextManager[None]:
        """On a cluster, signs of life while the block runs: nobody else knows whether this process lives."""
        return self._pod.alive(self.step, self.arm) if self._pod else contextlib.nullcontext()

    def telling(self) -> contextlib.AbstractContextManager[None]:
        """What the step says of itself while the block runs comes here."""
        return telling(self.folder, self.key, self.step, self.arm)

    @contextlib.contextmanager
    def printed(self) -> Iterator[None]:
        """On a cluster, keep what the block prints, however it ends; here the runner keeps the log."""
        if not self._pod:
            yield
            return
        log = self.folder / "log.txt"  # it stays as long as the journal: MLflow may take it later
        try:
            with printed(log):
                yield
        finally:
            self.write("files", paths=[str(log)], at=LOGS)

    def patiently(self, work: Callable[[], ReportType]) -> ReportType:
        """`work`; on a cluster, where nobody is there to run it again, repeated while it fails transiently."""
        if not self._pod:
            return work()

        def told(count: int, error: BaseException) -> None:
            self.write("repeated", count=count, error=_one_line(error))

        return patiently(work, self._pod.patience, told=told, what=self.key)


def arm_of(parameter: str) -> str:
    """The name of the arm a loop's parameter describes."""
    return str(json.loads(parameter)["config"]["name"])


def recorded_arm(record: str | Path) -> str:
    """The name of the arm that wrote the record."""
    return str(read_json(Path(record) / "arm.json")["arm"])


def labelled(folders: Iterable[str | Path], file: str, key: str) -> dict[str, Path]:
    """Collected folders by the name each says it has, such as `label` in `scores.json`."""
    return {str(read_json(Path(folder) / file)[key]): Path(folder) for folder in folders}


def model_uri(arm: str, records: Iterable[Path]) -> str:
    """Where the arm's model is, as its record says. Raises DataError if no record is the arm's."""
    known = {record["arm"]: str(record["model_uri"]) for record in (read_json(path / "arm.json") for path in records)}
    if arm not in known:
        raise DataError(f"arm '{arm}' has no record; known: {', '.join(known)}")
    return known[arm]


def flatten(prefix: str, value: Any) -> dict[str, str]:
    """A section as dotted parameters: `train.prior.alpha` = `-1.0`. Empty and null values are written as JSON."""
    if isinstance(value, Mapping) and value:
        return {key: text for name, inner in value.items() for key, text in flatten(f"{prefix}.{name}", inner).items()}
    return {prefix: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


def parameter_sha256(parameter: str) -> str:
    """Identifies the parameter a step was given."""
    return hashlib.sha256(parameter.encode()).hexdigest()


def _parse(step: str, parameter: str, section: type[SectionType]) -> tuple[SectionType, dict[str, Any]]:
    """The section and the whole parameter; a section alone, from a pipeline that is not ours, is completed."""
    try:
        payload: dict[str, Any] = json.loads(parameter)
        if payload.get("config") is None:
            payload = {"config": payload, "code": "", "inputs": {}}
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{step}: not a parameter that `drift run` or `drift compile` made, nor a section") from error
    return from_json(section, json.dumps(payload["config"])), payload


def _given(step: str, payload: Mapping[str, Any], datasets: Mapping[str, str | Path]) -> dict[str, Any]:
    """What a step was given, and where it works; processes on this machine share the packages of the run."""
    code = {"drift.code": payload["code"]} if payload.get("code") else {}
    chain = {"texts": {CONFIG_FILE: config_text(payload[CHAIN])}} if payload.get(CHAIN) else {}
    return {
        "params": flatten(step, payload["config"]),
        "inputs": _inputs(payload, datasets),
        "origin": origin(step) | code,
        "packages": packages() if os.environ.get(IMAGE) else "",
        **chain,
    }


def _inputs(payload: Mapping[str, Any], datasets: Mapping[str, str | Path]) -> list[dict[str, str]]:
    known = [{"name": name, "digest": digest, "uri": name} for name, digest in payload["inputs"].items()]
    read = [{"name": name, "digest": content_sha256(Path(path)), "uri": str(path)} for name, path in datasets.items()]
    return [*known, *read]


def _points(journal: StepJournal, metrics: Mapping[str, float], history: str | Path | None) -> list[Point]:
    """Every metric as of now, and every point of the history that was not told while the step worked."""
    now = milliseconds(time.time())
    points: list[Point] = [(name, float(value), now, 0) for name, value in metrics.items()]
    known = told(journal.folder, journal.key) if history else set()
    for line in Path(history).read_text(encoding="utf-8").splitlines() if history else ():
        row = json.loads(line)
        stamp, step = milliseconds(row["time"]) if row.get("time") else now, int(row["step"])
        points += [(n, v, stamp, step) for n, v in curves(row).items() if (n, stamp, step) not in known]
    return points


def _record(
    journal: StepJournal, parameter: str, seconds: float, metrics: Mapping[str, float], dropped: Sequence[str]
) -> dict[str, Any]:
    return {
        "step": journal.step,
        "arm": journal.arm,
        "key": journal.key,
        "parameter_sha256": parameter_sha256(parameter),
        "seconds": round(seconds, 3),
        "metrics": metrics,
        **({"not_finite": dropped} if dropped else {}),
        **({"untold": untold} if (untold := journal.untold()) else {}),
    }


def _run_tags(report: Report) -> dict[str, str]:
    """What the report says of the whole run."""
    tell: Callable[[], Mapping[str, str]] = getattr(report, "run_tags", dict)
    return {name: str(value) for name, value in tell().items()}


def _page(report: Report) -> dict[str, str]:
    """What the report says on the page of the whole run."""
    tell: Callable[[], Mapping[str, str]] = getattr(report, "page", dict)
    return dict(tell())


def _outputs(outputs: Mapping[str, Output], files: Sequence[str | Path]) -> dict[str, Any]:
    folders = {name: {"path": str(Path(one.path).resolve()), "uri": one.uri} for name, one in outputs.items()}
    known = [str(Path(file).resolve()) for file in files]
    return {"folders": folders, "known": known, "upload": os.environ.get(UPLOAD) or DEFAULT_UPLOAD}


def _status(error: BaseException) -> str:
    killed = isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code == TERMINATED)
    return "KILLED" if killed else "FAILED"


def _one_line(error: BaseException) -> str:
    message = " ".join(str(error).split())
    return message if isinstance(error, DriftError) else f"{type(error).__name__}: {message}"


def _pod(key: str) -> Any:
    from drift.tracking.cluster import Pod

    return Pod(key)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block as an exception, so that it is written down and cleaned up like one."""

    def terminate(number: int, frame: Any) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _die_with_the_runner() -> None:
    """End this process group when the runner's end of the lifeline closes, even by SIGKILL: no orphan writes on."""
    descriptor = os.environ.pop(LIFELINE, None)
    if descriptor is None:
        return

    def wait() -> None:
        os.read(int(descriptor), 1)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    if select.select([int(descriptor)], [], [], 0)[0]:
        wait()  # it died while this process was starting
    threading.Thread(target=wait, name="lifeline", daemon=True).start()
