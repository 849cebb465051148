"""The whole chain on this machine: Kubeflow's local runner, continued where it stopped, and checked afterwards."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from drift.config.chain import Config, checkpoint_paths, key_variables
from drift.config.places import ONE
from drift.config.plan import MODULES, Plan, arm_steps, plan
from drift.ground.artifacts import read_json, write_text
from drift.ground.errors import DriftError, PipelineError, ServiceError
from drift.ground.fingerprint import code_fingerprint
from drift.tracking import store
from drift.tracking.models.rights import check_champion, check_files, check_rights
from drift.tracking.models.versions import standing
from drift.tracking.runs.origin import CODE_VERSION, CONFIG_FILE, IMAGE, code_version, config_text, origin, packages
from drift.tracking.runs.outputs import UPLOAD
from drift.tracking.runs.page import FOLDER
from drift.tracking.runs.tracker import PIPELINE, Tracker
from drift.tracking.steps import RUN_DIR, flatten, parameter_sha256
from drift.tracking.telling.delivery import Relay
from drift.tracking.telling.journal import Event, append, make_event
from pipelines.check import require_honest
from pipelines.drift_sft import drift_sft, pipeline
from pipelines.local.folders import TASKS, RunFolder, create_run, only_one, store_of, unfinished_runs
from pipelines.local.kubeflow import LOG, run_pipeline
from pipelines.local.past import link_outputs
from pipelines.local.result import RunResult, StepResult, lasting, tracking_of
from pipelines.local.runner import EXIT_TASK, GRACE_SECONDS, Chain, Done, StepEvent
from pipelines.local.work import GPU, ForkServer
from pipelines.placement import NOTHING

__all__ = ["RunResult", "Runner", "StepEvent", "StepResult", "parameters", "run"]


log = logging.getLogger(__name__)

Runner = Literal["subprocess", "docker"]


def run(
    config: Config,
    *,
    on_event: Callable[[StepEvent], None] | None = None,
    fresh: bool = False,
    runner: Runner = "subprocess",
) -> RunResult:
    """Run the whole chain, each step in a process of its own; steps whose inputs are unchanged come from the cache.

    With the runner `docker` each step runs in a container of its role's image, whose digest then stands for the code.

    An unfinished run with the same parameters is continued in its folder, unless `fresh`, which also uses no cache.
    Raises PipelineError for a step that failed, ServiceError if MLflow does not answer or would refuse the model,
    ConfigError for a missing input; KeyboardInterrupt or SystemExit when interrupted, after the steps have ended.
    """
    runs = Path(config.runs).resolve()
    uri = store.store_uri(runs)
    with only_one(runs, config.name), _fork_server(uri, runner) as server:
        planned = parameters(config, uri, runner)
        spec = _spec(planned)
        experiment = _experiment(config)
        _require_rights(config, experiment)
        folder = _folder(runs, config.name, planned, fresh=fresh, experiment=experiment)
        tracker = Tracker.open(uri, experiment=experiment, run_id=folder.run_id, name=folder.path.name)
        at = {"mlflow_uri": store.redact(uri), "mlflow_run_id": tracker.parent, "mlflow": _page(tracker)}
        at["experiment"] = experiment
        folder = folder.mark("running", **at)
        write_text(folder.path / CONFIG_FILE, config_text(config.model_dump(mode="json", by_alias=True)))
        tags = origin() | {FOLDER: str(folder.path)}
        _tell(folder, "begun", params=_flat(config), tags=tags, texts={"packages.txt": packages()})
        _tell(folder, "files", paths=[str(folder.path / CONFIG_FILE)])
        environment = _environment(folder, tracker, experiment, config.tracking.upload, runner)
        grace = _grace(config)
        chain = Chain(folder.path, folder.run_id, planned.places, environment, on_event, server, grace_seconds=grace)
        with _closed(folder, tracker, chain) as relay, _containers(config, chain, runner) as settings:
            cache = runs / "cache"
            run_pipeline(spec, planned.arguments(), chain, cache_root=cache, use_cache=not fresh, containers=settings)
            result = _result(planned, folder.path, chain.done, tracker)
        return replace(result, missing=tracking_of(folder.path, relay.missing()))


def parameters(config: Config, uri: str, runner: Runner) -> Plan:
    """The parameters that a run has on this machine now, with the MLflow store at ``uri``.

    Raises ServiceError if MLflow does not answer, ConfigError for a missing input.
    """
    store.check_server(uri)
    return plan(config, store=store.store_identity(uri, _experiment(config)), codes=_codes(runner))


def _require_rights(config: Config, experiment: str) -> None:
    """What the last steps will ask of a server, before the first is paid for. Raises ServiceError."""
    if os.environ.get(store.URI):
        check_rights(config.register_.model)
        check_files(experiment)
        check_champion(config.register_.model)


def _experiment(config: Config) -> str:
    return config.tracking.experiment or config.name


def _codes(runner: Runner) -> dict[str, str]:
    """What stands for the code of each step: its own contents, or the image it runs in."""
    if runner == "subprocess":
        return {step: code_fingerprint(module) for step, module in MODULES.items()}
    from pipelines.local import containers

    with containers.engine() as client:
        return containers.image_ids(client)


def _grace(config: Config) -> float:
    """Seconds that steps have to end when the run is stopped: trainings save what they have first."""
    trainings = [step.train.grace_seconds + GRACE_SECONDS for step in arm_steps(config) if step.train]
    return max([GRACE_SECONDS, *trainings])


@contextlib.contextmanager
def _containers(config: Config, chain: Chain, runner: Runner) -> Iterator[Mapping[str, Any] | None]:
    """What the containers of the run's steps get; None where steps are processes."""
    if runner == "subprocess":
        yield None
        return
    from pipelines.local import containers

    every = {Path(path).resolve() for path in checkpoint_paths(config).values()}
    kept = sorted(path for path in every if not path.is_relative_to(chain.folder.parent))
    for path in kept:
        path.mkdir(parents=True, exist_ok=True)  # Docker mounts what is there
    writable = (chain.folder.parent, Path(chain.environment["TMPDIR"]), *kept)
    with containers.engine() as client:
        containers.clear(client, chain.environment[store.RUN_ID])
        yield containers.settings(chain.environment[store.RUN_ID], writable, chain.environment, key_variables(config))


@contextlib.contextmanager
def _fork_server(uri: str, runner: Runner) -> Iterator[ForkServer | None]:
    """What starts the run's step processes; MLflow, which every run asks for the champion, comes first."""
    if runner == "docker":
        yield None
        return
    with contextlib.closing(ForkServer(first=store.modules(uri))) as server:
        yield server


def _spec(planned: Plan) -> PipelineSpec:
    """The pipeline, checked; with one GPU arms and shards cannot share it, so they go one after the other."""
    spec = PipelineSpec()
    chain = drift_sft if planned.shards == ONE else pipeline(NOTHING, shards=planned.shards)
    spec.CopyFrom(chain.pipeline_spec)
    require_honest(json_format.MessageToDict(spec))
    if GPU.exists():
        for component in spec.components.values():
            for task in component.dag.tasks.values():
                if task.WhichOneof("iterator"):
                    task.iterator_policy.parallelism_limit = 1
    return spec


def _folder(runs: Path, name: str, planned: Plan, *, fresh: bool, experiment: str) -> RunFolder:
    """The latest unfinished run with these parameters, or a new one; other unfinished runs are closed."""
    chosen = None
    for folder in unfinished_runs(runs, name):
        if chosen is None and not fresh and folder.state["parameters_sha256"] == planned.sha256():
            chosen = folder
            continue
        _close(folder, experiment)
    if chosen is None:
        return create_run(runs, name, planned.sha256())
    return chosen.mark("running")


def _close(folder: RunFolder, experiment: str) -> None:
    """End a run that nobody will continue, in the MLflow and the experiment that it was tracked in."""
    _tell(folder, "closed", status="FAILED" if folder.state["status"] == "failed" else "KILLED")
    try:
        of = folder.state.get("experiment", experiment)
        left = Tracker.open(store_of(folder), experiment=of, run_id=folder.run_id, name=folder.path.name)
    except ServiceError as error:  # another server than this run's
        log.warning("%s: its run in MLflow stays as it was (%s)", folder.path, error)
    else:
        with contextlib.closing(Relay(folder.path, left.apply, left.answers)) as relay:
            relay.deliver(everything=True)
            left.note_missing(relay.missing())
    folder.mark("superseded")
    shutil.rmtree(_temporary(folder), ignore_errors=True)


def _flat(config: Config) -> dict[str, str]:
    """The configuration as dotted parameters: what two runs differ in is seen beside their numbers."""
    sections = config.model_dump(mode="json", by_alias=True)
    return {key: text for name, section in sections.items() for key, text in flatten(name, section).items()}


def _environment(folder: RunFolder, tracker: Tracker, experiment: str, upload: str, runner: Runner) -> dict[str, str]:
    temporary = _temporary(folder)
    temporary.mkdir(exist_ok=True)
    return {
        store.RUN_ID: folder.run_id,
        RUN_DIR: str(folder.path),
        store.URI: tracker.uri,
        store.EXPERIMENT: experiment,
        store.RUN: tracker.parent,
        "TMPDIR": str(temporary),
        UPLOAD: upload,
        **({CODE_VERSION: code_version(), IMAGE: ""} if runner == "subprocess" else {}),
    }


def _temporary(folder: RunFolder) -> Path:
    """Temporary files of the steps: outside the run's folder, since sockets need a short path."""
    return Path(tempfile.gettempdir()) / f"drift-{folder.run_id[:12]}"


@contextlib.contextmanager
def _closed(folder: RunFolder, tracker: Tracker, chain: Chain) -> Iterator[Relay]:
    """MLflow hears of the steps while they work; however the block ends, no run stays RUNNING."""
    relay = Relay(folder.path, tracker.apply, tracker.answers)
    relay.start()
    status = "KILLED"
    try:
        with _interruptible(chain):
            yield relay
        status = "FINISHED"
    except DriftError:
        status = "FAILED"
        raise
    finally:
        _end(folder, tracker, relay, status)
        shutil.rmtree(_temporary(folder), ignore_errors=True)


def _end(folder: RunFolder, tracker: Tracker, relay: Relay, status: str) -> None:
    """The run's last words. Where the disk is full MLflow alone hears that it is over, and the folder stays unfinished:
    the same command goes on in it."""
    try:
        _tell_files(folder)
        _tell(folder, "closed", status=status)
    except PipelineError as error:
        log.warning("%s", error)
        relay.finish()
        relay.tell_once(_event(folder, "closed", status=status))
        return
    missing = relay.finish()
    tracker.note_missing(missing)
    if missing and status != "FINISHED":  # else the closing table says so
        log.warning("MLflow: %s", tracking_of(folder.path, missing))
    link_outputs(folder.mark(status.lower()))


def _tell_files(folder: RunFolder) -> None:
    """What the run itself has written, beside its steps."""
    _tell(folder, "files", paths=[str(folder.path / LOG)])
    exit_task = (folder.path / TASKS / EXIT_TASK).glob("*")
    _tell(folder, "files", paths=[str(path) for path in exit_task], at=EXIT_TASK)


def _tell(folder: RunFolder, event: str, **content: Any) -> None:
    append(folder.path, _event(folder, event, **content))


def _event(folder: RunFolder, event: str, **content: Any) -> Event:
    """Of the whole run."""
    return make_event(folder.run_id, PIPELINE, "", event, **content)


@contextlib.contextmanager
def _interruptible(chain: Chain) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the steps at work first. Signals can only be heard in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        chain.stop()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def require_planned(planned: Plan, done: list[Done], *, passed: bool) -> None:
    """Raise PipelineError unless exactly the planned tasks ran or came from the cache, each with its own parameter.

    Rests on what each step wrote about itself, not on what Kubeflow reports.
    """
    happened = [(str(one.record["step"]), str(one.record["arm"])) for one in done]
    expected = planned.tasks(registers=passed)
    for step, arm in expected:
        if happened.count((step, arm)) != 1:
            raise PipelineError(f"step {step} {arm}: ran {happened.count((step, arm))} times instead of once")
    for step, arm in happened:
        if (step, arm) not in expected:
            raise PipelineError(f"step {step} {arm}: ran although it was not to")
    for one in done:
        step, arm = one.record["step"], one.record["arm"]
        if one.record["parameter_sha256"] != parameter_sha256(planned.parameter(step, arm)):
            raise PipelineError(f"step {step} {arm}: was given another parameter than planned")


def _result(planned: Plan, folder: Path, done: list[Done], tracker: Tracker) -> RunResult:
    outputs: Mapping[str, Mapping[str, Any]] = {one.record["step"]: one.outputs for one in done}
    for step in ("gate", "report"):
        if step not in outputs:
            raise PipelineError(f"step {step}: did not run")
    gate = read_json(Path(outputs["gate"]["gate"].uri) / "gate.json")
    require_planned(planned, done, passed=gate["passed"])
    report = Path(outputs["report"]["report"].uri)
    last = next((one for one in reversed(done) if one.record["step"] == "register"), done[-1])
    steps = (StepResult(one.record["step"], one.record["arm"], one.record["seconds"], one.cached) for one in done)
    return RunResult(
        folder=folder,
        steps=tuple(steps),
        gate=gate,
        summary=read_json(report / "summary.json"),
        registered=registered(last, tracker.uri) if gate["passed"] else None,
        report=report / "report.html",
        mlflow_uri=store.redact(tracker.uri),
        mlflow_run_id=tracker.parent,
        mlflow=_page(tracker),
    )


def registered(done: Done, uri: str) -> dict[str, Any]:
    """`registered.json` of the step `register`. One from the cache said whose the alias was then, so MLflow at ``uri``
    is asked whose it is now; where it does not answer, nothing is said of it."""
    content = read_json(Path(done.outputs["registered"].uri) / "registered.json")
    if not done.cached:
        return dict(content)
    try:
        now = standing(content["model"], content["version"], at=uri)
    except ServiceError as error:
        log.warning("it is not known who is champion now: %s", error)
        return lasting(content)
    return lasting(content) | {"champion": now.champion, "alias": now.said}


def _page(tracker: Tracker) -> str:
    return store.page_of(tracker.uri, tracker.experiment_id, tracker.parent)
