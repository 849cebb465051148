"""Checks of a configuration before anything runs: all of them, so that one look shows all that is wrong.

Each is the very check that the step itself would make, hours later, or asks the service that the step would ask.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import urllib3

from drift import tracking
from drift.checkpoints import Checkpoint, resolve
from drift.config import Config, IngestConfig, JudgeConfig, key_variables
from drift.data.sources import open_source
from drift.errors import CheckpointError, ConfigError
from drift.evaluate.benchmarks import check_table
from drift.findings import Finding, Noted, find
from drift.forecast import forecast
from drift.hub import on_hub
from drift.plan import arm_steps, looks_local
from drift.sizing import disk_of
from drift.zero import check_deepspeed
from pipelines.compile import compile_pipeline
from pipelines.local import Runner
from pipelines.namespace import cluster_checks, placements_of
from pipelines.placement import read_resources

ANSWER_SECONDS = 5.0

Check = tuple[str, Callable[[], str | None]]


def preflight(config: Config, *, runner: Runner = "subprocess", resources: Path | None = None) -> list[Finding]:
    """What every check found, in the order of the chain; `resources` is a cluster's profile, if the run is for one."""
    return [find(name, look) for name, look in _checks(config, runner, resources)]


def _checks(config: Config, runner: Runner, resources: Path | None) -> Iterator[Check]:
    mounts = _mounts(resources)
    yield "runs", partial(_writable, Path(config.runs))
    yield from ((f"key {name}", partial(_key, name)) for name in sorted(key_variables(config)))
    yield from _model_checks(config, mounts)
    yield from _data_checks(config, mounts)
    yield "train.deepspeed", _here(mounts, config.train.deepspeed or "", partial(_deepspeed, config))
    yield "disk", partial(_disk, config)
    yield from _service_checks(config, runner)
    if resources:
        yield "resources", partial(_resources, config, resources)
        yield from _cluster(resources)


def _model_checks(config: Config, mounts: Mapping[str, str]) -> Iterator[Check]:
    yield "models", partial(_fit_together, config)
    for key, reference in _models(config):
        yield key, _here(mounts, reference, partial(_model, key, reference))


def _data_checks(config: Config, mounts: Mapping[str, str]) -> Iterator[Check]:
    ingest, replay = config.ingest, config.curate.replay
    yield "ingest.source", _here(mounts, ingest.source, partial(_problems, ingest, "ingest.source"))
    if replay:
        read = ingest.model_copy(update={"source": replay.source, "revision": None})
        key = "curate.replay.source"
        yield key, _here(mounts, replay.source, partial(_problems, read, key))
    for name, look in _tables(config):
        yield name, _here(mounts, config.evaluate.data, look)


def _service_checks(config: Config, runner: Runner) -> Iterator[Check]:
    yield "MLflow", _mlflow
    if config.generate.teacher.kind == "endpoint":
        yield "generate.teacher.base_url", partial(_served, config.generate.teacher.base_url)
    if config.evaluate.judge:
        yield "evaluate.judge", partial(_judge, config.evaluate.judge)
    if runner == "docker":
        yield "Docker", partial(_images, config)


def _mounts(resources: Path | None) -> dict[str, str]:
    """The claim behind each path that the profile's steps mount."""
    with contextlib.suppress(ConfigError):  # a wrong profile is said where it is read
        placements = placements_of(read_resources(resources))
        return {volume.path: volume.claim for placement in placements for volume in placement.volumes}
    return {}


def _here(mounts: Mapping[str, str], reference: str, look: Callable[[], str | None]) -> Callable[[], str | None]:
    """The check, or a note where what it looks at lies on a claim of the cluster."""
    claims = [claim for path, claim in mounts.items() if Path(reference).is_relative_to(path)]
    return partial(_elsewhere, f"{reference} lies on the claim '{claims[0]}', not here") if claims else look


def _elsewhere(said: str) -> None:
    raise Noted(said)


def _writable(runs: Path) -> None:
    try:
        runs.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=runs).close()
    except OSError as error:
        raise ConfigError(f"runs: {runs} cannot be written ({error.strerror}); set runs to another folder") from error


def _key(name: str) -> None:
    if not os.environ.get(name):
        raise ConfigError(f"api_key_env: the environment variable '{name}' is not set; export it")


def _models(config: Config) -> list[tuple[str, str]]:
    """Every checkpoint that a step will load, with its key."""
    named = config.models.without_start() if config.models.start_at_champion else config.models
    models = [(f"models.{role}", name) for role, name in named.model_dump().items() if name]
    for name, delta in config.deltas.items():
        own = {reference for expert, minus, _ in delta.pairs for reference in (expert, minus)} - {None, "vlm", "base"}
        models += [(f"deltas.{name}", reference) for reference in sorted(map(str, own))]
    teacher = config.generate.teacher
    return [*models, *([("generate.teacher.model", teacher.model)] if teacher.kind == "local" else [])]


def _model(key: str, reference: str) -> None:
    path = Path(reference).expanduser()
    if path.exists():
        Checkpoint(resolve(reference))
    elif looks_local(reference):
        raise ConfigError(f"{key}: '{reference}' does not exist; give a path that does, or a hub id (owner/name)")
    else:
        on_hub(key, reference, "model")


def _served(base_url: str) -> None:
    """No problem where it does not: it may be started later, or be reached from the cluster alone."""
    try:
        urllib3.request("GET", f"{base_url.rstrip('/')}/models", timeout=ANSWER_SECONDS, retries=False)
    except urllib3.exceptions.HTTPError as error:
        raise Noted(f"{base_url} does not answer from here ({type(error).__name__})") from None


def _fit_together(config: Config) -> None:
    try:
        for reference in filter(None, config.models.without_start().model_dump().values()):
            Checkpoint(Path(reference).expanduser())
    except CheckpointError:
        raise Noted("not all can be read here, so whether they fit together is not known") from None
    forecast(config, samples=1)


def _problems(ingest: IngestConfig, key: str) -> None:
    path = Path(ingest.source)
    if path.exists() or looks_local(ingest.source):
        try:
            open_source(ingest, key)
        except OSError as error:
            raise ConfigError(f"{key}: {path} cannot be read ({error.strerror}); correct its rights") from error
    else:
        revision = f"@{ingest.revision}" if ingest.revision else ""
        on_hub(key, f"{ingest.source}{revision}", "dataset")


def _tables(config: Config) -> Iterator[Check]:
    folder = Path(config.evaluate.data)
    if not folder.is_dir():
        yield "evaluate.data", partial(_no_folder, folder)
        return
    for name in config.evaluate.benchmarks:
        yield f"evaluate.benchmarks.{name}", partial(check_table, name, config.evaluate)


def _no_folder(folder: Path) -> None:
    raise ConfigError(f"evaluate.data: {folder} is no folder; put the benchmarks' TSV files there, or name another")


def _deepspeed(config: Config) -> None:
    for step in arm_steps(config):
        if step.train:
            check_deepspeed(step.train)


def _disk(config: Config) -> str:
    vlm = Path(config.models.vlm).expanduser()
    if not (vlm / "config.json").is_file():
        raise Noted(f"{config.models.vlm} is not here, so it is not known how much a run writes")
    disk = disk_of(config, Checkpoint(vlm))
    if disk.writes and disk.free < disk.writes:
        raise ConfigError(f"runs: only {disk}; free some, or set runs to another disk")
    return str(disk)


def _mlflow() -> str:
    if not (uri := os.environ.get(tracking.URI)):
        return "a store in `runs`"
    tracking.check_server(uri)
    return tracking.redact(uri)


def _judge(judge: JudgeConfig) -> None:
    from drift.evaluate import judged

    judged.check(judge)


def _images(config: Config) -> None:
    from pipelines import containers

    with containers.engine() as client:
        containers.image_ids(client)
        containers.check_images(client, config)


def _resources(config: Config, path: Path) -> None:
    """The profile is read and the pipeline compiled with it."""
    with tempfile.TemporaryDirectory() as folder:
        compile_pipeline(config, Path(folder) / "pipeline.yaml", read_resources(path))


def _cluster(path: Path) -> Iterator[Check]:
    with contextlib.suppress(ConfigError):  # a wrong profile is said where it is read
        yield from cluster_checks(read_resources(path))
