"""What a pod of a role finds where it is: the folders of its claims, models, and the servers that its steps ask.

`drift doctor --pod` runs it in a pod like the steps': here it is the steps' user, network and volumes that look.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from drift.config.chain import Config
from drift.config.data import matches
from drift.config.plan import is_path
from drift.ground.errors import ConfigError
from drift.ground.findings import Check, Finding, Noted, find
from drift.planning import doctor
from drift.planning.outside import check_answers, check_model, engines_of, models_of
from drift.planning.sizing import free_below
from drift.weights.storage.hub import on_hub


def examine(config: Config, role: str, folders: tuple[Path, ...], writable: tuple[Path, ...]) -> list[Finding]:
    """Every check of a machine, and those of a pod of the role with these folders, of which some are written."""
    checks = [*doctor.checks(config), *_checks(config, role, folders, writable)]
    return [find(name, look) for name, look in checks]


def _checks(config: Config, role: str, folders: tuple[Path, ...], writable: tuple[Path, ...]) -> Iterator[Check]:
    yield from ((f"folder {path}", partial(_listed, path)) for path in folders)
    yield from ((f"writing {path}", partial(_written, path)) for path in writable)
    for key, reference in models_of(config):
        if not is_path(reference) or _under(reference, folders):
            yield key, partial(check_model, key, reference, allow_pickle=config.allow_pickle)
    if role == "pipeline":
        yield from _problems(config, folders)
    if role == "evaluate":
        yield from _servers(config)


def _problems(config: Config, folders: tuple[Path, ...]) -> Iterator[Check]:
    for key, one in config.ingest.each():
        if not is_path(one.source):
            revision = f"@{one.revision}" if one.revision else ""
            yield key, partial(on_hub, key, f"{one.source}{revision}", "dataset")
        elif _under(one.source, folders):
            yield key, partial(_there, key, one.source)


def _servers(config: Config) -> Iterator[Check]:
    """Those that are asked, with the role's own key, and those that a step starts."""
    yield from engines_of(config)
    if config.generate.teacher.kind == "endpoint":
        yield "generate.teacher", partial(_teacher, config.generate.teacher.urls)
    if judge := config.evaluate.judge:
        from drift.evaluate import judged

        yield "evaluate.judge", partial(judged.check, judge)


def _teacher(urls: list[str]) -> None:
    """Here, where the step `generate` would ask, a server that does not answer is a problem."""
    for url in urls:
        try:
            check_answers(url)
        except Noted as reason:
            raise ConfigError(f"generate.teacher.base_url: {reason}; start it, or correct the address") from None


def _under(path: str, folders: tuple[Path, ...]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)


def _there(key: str, path: str) -> None:
    if not Path(path).exists() and not matches(path):
        raise ConfigError(f"{key}: {path} is not on the claim; put it there, or correct the path")


def _listed(folder: Path) -> str:
    try:
        return f"{sum(1 for _ in folder.iterdir())} entries"
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be read by user {os.getuid()} ({error.strerror}); correct the claim's rights"
        ) from error


def _written(folder: Path) -> str:
    """A file is made there and removed."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written by user {os.getuid()} ({error.strerror}); let its volume be made for that user"
        ) from error
    return f"{free_below(folder)[1] / 1e9:,.0f} GB free"
