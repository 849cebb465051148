"""The configurations that come with the package, and writing files that nobody has yet."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from drift.config.section import suggest
from drift.ground.artifacts import write_text
from drift.ground.errors import ConfigError
from drift.planning.rehearsal import ASSETS

SHIPPED = Path(__file__).parents[3] / "configs"
"""In a checkout and beside the installed package alike."""
EXAMPLES = {
    "miniature": "miniature.yaml",
    "paper": "paper_equation.yaml",
    "published": "paper_published_data.yaml",
    "code": "reference_code.yaml",
    "2b": "qwen2_vl_2b.yaml",
    "rivals": "rival_merges.yaml",
}
_EXTENDS = re.compile(r"^extends: (\S+)", re.MULTILINE)
_DEEPSPEED = re.compile(r"configs/deepspeed/(\w+\.json)")
_ASSETS = re.compile(r"drift/planning/miniature/assets(?=/)")


@dataclass(frozen=True)
class First:
    """Files to write, what was seen, and the commands that come next."""

    files: dict[Path, str]
    notes: list[str]
    commands: list[str]


def copy_of(name: str, out: Path) -> First:
    """An example as ``out``; beside it the files that it extends, and DeepSpeed's that they name. Writes nothing.

    Raises ConfigError for an unknown name.
    """
    if name not in EXAMPLES:
        raise ConfigError(f"--from: no example '{name}'{suggest(name, EXAMPLES)}")
    return First(_with_named(EXAMPLES[name], out), [], here(out))


def here(out: Path) -> list[str]:
    """What to type next where the chain runs on this machine."""
    return [f"drift {command} -c {shlex.quote(str(out))}" for command in ("plan", "rehearse", "run")]


def _with_named(file: str, out: Path) -> dict[Path, str]:
    text = shipped(file)
    parents = [_with_named(parent, out.with_name(parent)) for parent in _EXTENDS.findall(text)]
    beside = {out.with_name(name): shipped(f"deepspeed/{name}") for name in _DEEPSPEED.findall(text)}
    text = _DEEPSPEED.sub(lambda found: str(out.with_name(found[1])), text)
    files = {out: _ASSETS.sub(lambda _: str(ASSETS), text), **beside}
    return {path: content for more in (files, *parents) for path, content in more.items()}


def shipped(file: str) -> str:
    """The text of a file of `configs/`. Raises ConfigError where the package has come without them."""
    try:
        return (SHIPPED / file).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{SHIPPED / file}: not installed with the package; install its wheel, or a checkout"
        ) from error


def write_new(files: Mapping[Path, str], *, force: bool) -> None:
    """Write all files or none. Raises ConfigError for one that is there with other contents, unless ``force``."""
    for path, text in files.items():
        if path.exists() and not force and (not path.is_file() or path.read_bytes() != text.encode()):
            raise ConfigError(f"{path}: exists already; choose another --out, or --force overwrites it")
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error
