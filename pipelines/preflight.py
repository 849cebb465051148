"""Checks of a configuration before anything runs: all of them, so that one look shows all that is wrong.

Each is the very check that the step itself would make, hours later, or asks the service that the step would ask.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from drift.config.chain import Config, checkpoint_paths
from drift.config.data import IngestConfig
from drift.config.plan import arm_steps, curate_step, is_path
from drift.config.servers import JudgeConfig
from drift.config.zero import check_deepspeed
from drift.data.problems.sources import open_source
from drift.data.tables import TRAIN_FILE
from drift.evaluate.benchmarks import check_table
from drift.ground.errors import CheckpointError, ConfigError
from drift.ground.findings import Check, Finding, Noted, find, optional
from drift.planning.outside import check_answers, check_model, engines_of, models_of
from drift.planning.reach import forecast
from drift.planning.rehearsal import IN_IMAGES
from drift.planning.sizing import disk_of
from drift.tracking import store
from drift.weights.storage.adapters import open_model
from drift.weights.storage.checkpoints import Checkpoint
from drift.weights.storage.hub import on_hub
from pipelines.cluster.compile import compile_pipeline
from pipelines.cluster.namespace import DEFAULT, cluster_checks
from pipelines.cluster.needs import check_secret, claim_of, keys_of
from pipelines.cluster.server import Target, check_release
from pipelines.local.run import Runner
from pipelines.placement import NOTHING, Resources, read_resources


def preflight(
    config: Config,
    *,
    runner: Runner = "subprocess",
    resources: Path | None = None,
    namespace: str | None = None,
    target: Target | None = None,
) -> list[Finding]:
    """What every check found, in the order of the chain.

    ``resources`` is the profile of the cluster in whose ``namespace`` the real run will be; ``target`` its server, if
    the rehearsal is to run there too.
    """
    profile = _profile(resources) if resources else NOTHING if target else None
    checks = [*_config_checks(config, profile), *_service_checks(config, profile)]
    if not target:
        checks += _local_checks(config, runner)
    else:
        checks.append(("Kubeflow", partial(check_release, target)))
    if resources:
        checks.append(("resources", partial(_resources, config, resources)))
    if profile:
        checks += cluster_checks(profile, namespace or DEFAULT, target.service_account if target else None)
    return [find(name, look) for name, look in checks]


def _local_checks(config: Config, runner: Runner) -> Iterator[Check]:
    yield "runs", partial(_writable, "runs", Path(config.runs))
    yield "disk", partial(_disk, config)
    yield from ((key, partial(optional, look) if runner == "docker" else look) for key, look in engines_of(config))
    yield "MLflow", _mlflow
    if runner == "docker":
        yield "Docker", partial(_images, config)


def _config_checks(config: Config, profile: Resources | None) -> Iterator[Check]:
    for name, steps in keys_of(config):
        yield f"key {name}", partial(check_secret, profile, name, steps) if profile else partial(_key, name)
    yield from _model_checks(config, profile)
    yield from _data_checks(config, profile)
    if config.train.deepspeed:
        yield _here(config, profile, "train.deepspeed", config.train.deepspeed, partial(_deepspeed, config))
    for key, path in checkpoint_paths(config).items():
        yield key, partial(_on_claim, config, profile, key, path) if profile else partial(_writable, key, Path(path))
    if (held_out := config.train.held_out) and held_out.table:
        key = "train.held_out.table"
        yield _here(config, profile, key, held_out.table, partial(_rows_held_out, key, held_out.table))


def _model_checks(config: Config, profile: Resources | None) -> Iterator[Check]:
    yield "models", partial(_fit_together, config)
    for key, reference in models_of(config):
        look = partial(check_model, key, reference, allow_pickle=config.allow_pickle)
        yield _here(config, profile, key, reference, look)


def _data_checks(config: Config, profile: Resources | None) -> Iterator[Check]:
    ingest, replay = config.ingest, config.curate.replay
    for key, one in ingest.each():
        yield _here(config, profile, key, one.source, partial(_problems, one, key))
    if replay:
        key = "curate.replay.source"
        yield _here(config, profile, key, replay.source, partial(_problems, ingest.elsewhere(replay.source), key))
    curate = curate_step(config)
    if (length := curate.length) and length.processor:
        key = "curate.length.processor"
        yield _here(config, profile, key, length.processor, partial(check_model, key, length.processor))
    for path in curate.against:
        yield _here(config, profile, "curate.against", path, partial(_table, path))
    yield from _table_checks(config, profile)


def _service_checks(config: Config, profile: Resources | None) -> Iterator[Check]:
    """Servers that a cluster's pods ask may be out of reach from here."""
    if config.generate.teacher.kind == "endpoint":
        for url in config.generate.teacher.urls:
            yield "generate.teacher.base_url", partial(check_answers, url)
    if config.curate.judge:
        for url in config.curate.judge.urls:
            yield "curate.judge.base_url", partial(check_answers, url)
    if judge := config.evaluate.judge:
        yield "evaluate.judge", partial(optional, partial(_judge, judge)) if profile else partial(_judge, judge)


def _profile(resources: Path) -> Resources | None:
    """The cluster's; a wrong one is said where it is compiled."""
    with contextlib.suppress(ConfigError):
        return read_resources(resources)
    return None


def _here(config: Config, profile: Resources | None, key: str, reference: str, look: Callable[[], str | None]) -> Check:
    """The check; for a cluster, where what the key names is no id of the hub, whether the pods will see it."""
    return key, partial(_on_claim, config, profile, key, reference) if profile and is_path(reference) else look


def _on_claim(config: Config, profile: Resources, key: str, path: str) -> None:
    if Path(path).is_relative_to(IN_IMAGES):
        raise Noted(f"{path} lies in the images, not here")
    raise Noted(f"{path} lies on the claim '{claim_of(config, profile, key, path)}', not here")


def _writable(key: str, path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be written ({error.strerror}); set {key} to another folder") from error


def _key(name: str) -> None:
    if not os.environ.get(name):
        raise ConfigError(f"api_key_env: the environment variable '{name}' is not set; export it")


def _fit_together(config: Config) -> None:
    try:
        for reference in filter(None, config.models.without_start().model_dump().values()):
            open_model(reference, lambda one: Path(one).expanduser(), allow_pickle=config.allow_pickle)
    except CheckpointError:
        raise Noted("not all can be read here, so whether they fit together is not known") from None
    forecast(config, samples=1)


def _problems(ingest: IngestConfig, key: str) -> None:
    path = Path(ingest.source)
    if is_path(ingest.source):
        try:
            open_source(ingest, key)
        except OSError as error:
            raise ConfigError(f"{key}: {path} cannot be read ({error.strerror}); correct its rights") from error
    else:
        revision = f"@{ingest.revision}" if ingest.revision else ""
        on_hub(key, f"{ingest.source}{revision}", "dataset")


def _table(path: str) -> None:
    if not Path(path).is_file():
        raise ConfigError(f"curate.against: '{path}' does not exist; give TSV files in VLMEvalKit's format")


def _table_checks(config: Config, profile: Resources | None) -> Iterator[Check]:
    data = config.evaluate.data
    if profile:
        yield "evaluate.data", partial(_on_claim, config, profile, "evaluate.data", data)
    elif not Path(data).is_dir():
        yield "evaluate.data", partial(_no_folder, data)
    else:
        for name in config.evaluate.benchmarks:
            yield f"evaluate.benchmarks.{name}", partial(check_table, name, config.evaluate)


def _no_folder(data: str) -> None:
    raise ConfigError(f"evaluate.data: {data} is no folder; put the benchmarks' TSV files there, or name another")


def _deepspeed(config: Config) -> None:
    for step in arm_steps(config):
        if step.train:
            check_deepspeed(step.train)


def _rows_held_out(key: str, folder: str) -> None:
    if not (Path(folder) / TRAIN_FILE).is_file():
        raise ConfigError(f"{key}: {folder} holds no {TRAIN_FILE}; give the folder of a training set")


def _disk(config: Config) -> str:
    vlm = Path(config.models.vlm).expanduser()
    if not (vlm / "config.json").is_file():
        raise Noted(f"{config.models.vlm} is not here, so it is not known how much a run writes")
    disk = disk_of(config, Checkpoint(vlm))
    if disk.writes and disk.free < disk.writes:
        raise ConfigError(f"runs: only {disk}; free some, or set runs to another disk")
    return str(disk)


def _mlflow() -> str:
    if not (uri := os.environ.get(store.URI)):
        return "a store in `runs`"
    store.check_server(uri)
    return store.redact(uri)


def _judge(judge: JudgeConfig) -> None:
    from drift.evaluate import judged

    judged.check(judge)


def _images(config: Config) -> None:
    from pipelines.local import containers

    with containers.engine() as client:
        containers.image_ids(client)
        containers.check_images(client, config)


def _resources(config: Config, path: Path) -> None:
    """The profile is read and the pipeline compiled with it."""
    with tempfile.TemporaryDirectory() as folder:
        compile_pipeline(config, Path(folder) / "pipeline.yaml", read_resources(path))
