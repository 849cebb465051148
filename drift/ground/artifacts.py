"""Folders that steps hand to each other: written aside, renamed when complete, with their provenance inside."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from drift import __version__
from drift.ground.disk import full_disk_said
from drift.ground.errors import DataError, HeldError
from drift.ground.hashes import file_sha256
from drift.ground.locks import SUFFIX, Lock, hold
from drift.ground.strict import strict_json

SCHEMA = 1
"""Version of the contracts between steps; raised when a file or column changes its meaning."""

PROVENANCE = "provenance.json"
PARTIAL = ".partial"
"""After the name of what is being written: alone where a step can go on from it, else with a name of its own."""
_OWN = re.compile(rf"{re.escape(PARTIAL)}-[0-9a-f]{{8}}$")

START_MODEL = "model"
"""Where the folder of the step `start` has the model that training starts from; absent if it starts at φ_VL or another
checkpoint."""


@contextlib.contextmanager
def staged(out: Path, *, keep_partial: bool = False, replace: bool = False) -> Iterator[Path]:
    """A folder beside ``out`` to write into; renamed to ``out`` when the block ends well.

    One process at a time: it holds `.<name of out>.lock` beside. The folder has a name that no other process uses, and
    is removed after an exception; with ``keep_partial``, for steps that can go on from it, it is ``<out>.partial`` and
    stays. With ``replace``, ``out`` is there and keeps what it holds until then; else DataError if it holds something.
    Raises DataError if its parent is not writable, HeldError while another process writes it, DiskError where a disk
    gets full.
    """
    if not replace:
        _require_free(out)
    with alone(out) as lock, full_disk_said(out):
        if not replace:
            _require_free(out)  # another process may have ended just now
        folder = _aside(out, keep_partial=keep_partial)
        try:
            yield folder
            lock.require()
            if replace:
                _swap(folder, out)
            else:
                if out.exists():
                    out.rmdir()
                folder.rename(out)
        except BaseException:
            if not keep_partial:
                shutil.rmtree(folder, ignore_errors=True)
            raise


@contextlib.contextmanager
def alone(out: Path) -> Iterator[Lock]:
    """Own ``out`` while the block runs. Raises HeldError, which says who does, and DataError where it cannot be
    written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = hold(out.with_name(f".{out.name}{SUFFIX}"))
    except HeldError as error:
        said = f"{out}: {error.holder} writes it; wait for it, stop it, or choose another --out"
        raise HeldError(said, error.holder) from error
    except OSError as error:
        raise _not_writable(out, error) from error
    with lock:
        yield lock


def _swap(folder: Path, out: Path) -> None:
    """Put ``folder`` in the place of ``out``. Killed between the two renames, ``folder`` is whole."""
    before = own_name(out)
    out.rename(before)
    folder.rename(out)
    shutil.rmtree(before)


def _require_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: exists already; remove it or choose another --out")


def _aside(out: Path, *, keep_partial: bool) -> Path:
    """The folder to write into, which only the owner of ``out`` asks for; what dead owners have left goes."""
    kept = out.with_name(out.name + PARTIAL)
    folder = kept if keep_partial else own_name(out)
    try:
        for left in out.parent.iterdir():
            if _OWN.sub("", left.name) == out.name != left.name or (left == kept and not keep_partial):
                shutil.rmtree(left, ignore_errors=True)
        folder.mkdir(exist_ok=keep_partial)
        for left in folder.rglob(f"*{PARTIAL}-*"):
            if _OWN.search(left.name) and left.is_file():
                left.unlink()
    except OSError as error:
        raise _not_writable(out, error) from error
    return folder


def _not_writable(out: Path, error: OSError) -> DataError:
    return DataError(f"{out}: cannot be written ({error.strerror}); choose another --out")


def own_name(path: Path) -> Path:
    """A name beside ``path`` that nobody else writes to."""
    return path.with_name(f"{path.name}{PARTIAL}-{uuid.uuid4().hex[:8]}")


def write_text(path: Path, text: str) -> None:
    """``text`` as the file ``path``, written aside and renamed: whole, or what it was before.

    A link stays one, and a device takes it as it comes.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    aside = own_name(path)
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """``content`` as indented JSON, written as `write_text` does; NaN and infinities are null."""
    write_text(path, strict_json(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON file ``path``. Raises DataError if it is missing or broken, or a number in it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: missing or not JSON ({error})") from error


def _no_number(constant: str) -> NoReturn:
    """What Python alone would read."""
    raise ValueError(f"{constant} is no number")


def write_provenance(
    folder: Path, step: str, *, config: Mapping[str, Any], inputs: Mapping[str, str | Path], **more: Any
) -> None:
    """Write ``provenance.json``: what made this folder, from which contents, with which code.

    ``inputs`` maps a name to a local path, whose contents are hashed, or to an identifier, kept as it is.
    """
    hashed = [
        {"name": name, "uri": str(uri), "sha256": content_sha256(Path(uri)) if Path(uri).exists() else None}
        for name, uri in inputs.items()
    ]
    write_json(
        folder / PROVENANCE,
        {
            "schema": SCHEMA,
            "step": step,
            "drift_version": __version__,
            "code_version": os.environ.get("DRIFT_CODE_VERSION"),
            "pipeline_run": os.environ.get("DRIFT_RUN_ID"),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": config,
            "inputs": hashed,
            **more,
        },
    )


def read_provenance(folder: Path) -> dict[str, Any]:
    """The provenance of a step's output. Raises DataError if there is none or its schema is another."""
    provenance: dict[str, Any] = read_json(folder / PROVENANCE)
    if provenance.get("schema") != SCHEMA:
        raise DataError(f"{folder}: written with schema {provenance.get('schema')}, this version reads {SCHEMA}")
    return provenance


def content_sha256(path: Path) -> str:
    """SHA-256 over the contents of a file, or over (name, contents) of all files below a folder.

    Provenance and hidden files do not count, so that the same work done twice has the same hash. A file that has not
    changed is not read again (`drift.ground.hashes`).
    """
    if path.is_file():
        return file_sha256(path)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path)
        if file.is_file() and file.name != PROVENANCE and not any(part.startswith(".") for part in relative.parts):
            digest.update(f"{relative.as_posix()}\0{content_sha256(file)}\n".encode())
    return digest.hexdigest()


@contextlib.contextmanager
def hashing(paths: Iterable[Path]) -> Iterator[None]:
    """Hash `paths` in a thread of its own while the block runs; `write_provenance` then finds the hashes ready."""

    def work() -> None:
        with contextlib.suppress(OSError):  # what cannot be read is said when the hash is asked for
            for path in paths:
                content_sha256(path)

    thread = threading.Thread(target=work, name="hashing", daemon=True)
    thread.start()
    yield
    thread.join()
