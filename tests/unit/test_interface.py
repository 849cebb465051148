"""What others build on: the names that each wing hands out, and the commands with their flags."""

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from drift import __version__
from drift.cli.app import app

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "interface.txt"
FACES = sorted(path.parent.name for path in (ROOT / "drift").glob("*/__init__.pyi"))


def names_of(face: str) -> list[str]:
    """What the stub of a wing exports: `from .module import name as name`."""
    stub = ast.parse((ROOT / "drift" / face / "__init__.pyi").read_text(encoding="utf-8"))
    imported = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    assert len(imported) == len(stub.body), "a stub only imports"
    return sorted(name.asname or name.name for node in imported for name in node.names)


def commands(command: Any, path: str) -> Iterator[str]:
    """A line per command, then one per parameter of it: its flags, or an argument's name."""
    yield path
    yield from sorted(f"  {' '.join([*one.opts, *one.secondary_opts])}" for one in command.params)
    for name, below in sorted(getattr(command, "commands", {}).items()):
        yield from commands(below, f"{path} {name}")


def interface() -> str:
    faces = [line for face in FACES for line in (f"drift.{face}", *(f"  {name}" for name in names_of(face)))]
    return "\n".join([*faces, *commands(typer.main.get_command(app), "drift"), ""])


def test_a_change_of_a_public_name_or_of_a_flag_is_a_decision():
    if os.environ.get("DRIFT_UPDATE_GOLDEN"):
        GOLDEN.write_text(interface(), encoding="utf-8")
    assert interface() == GOLDEN.read_text(encoding="utf-8"), "make golden, look at the diff, tell it in CHANGELOG.md"


def test_every_wing_has_a_face():
    wings = {path.parent.name for path in (ROOT / "drift").glob("*/__init__.py")}
    assert wings - {"cli"} == set(FACES), "the command line is for people, not for imports"


@pytest.mark.parametrize("face", FACES)
def test_every_name_of_a_face_imports_and_is_no_module(face: str):
    wing = importlib.import_module(f"drift.{face}")
    assert sorted(wing.__all__) == names_of(face)
    for name in names_of(face):
        assert not isinstance(getattr(wing, name), ModuleType), name
        assert not (ROOT / "drift" / face / f"{name}.py").exists(), f"importing it would hide drift.{face}.{name}"


@pytest.mark.parametrize("module", ["drift", "drift.cli"])
def test_the_package_and_its_command_line_run_as_the_command(module: str):
    ended = subprocess.run([sys.executable, "-m", module, "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"drift {__version__}\n", "")


def test_a_wrong_use_of_the_command_is_one_line_and_exit_code_2():
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KF_", "KFP_"))}
    command = [sys.executable, "-m", "drift", "submit"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith("drift: --host: no Kubeflow Pipelines server given")
