"""From a wheel in a new environment, as a CI job has it: an example, compile, and submit to a server."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml

from pipelines.check import check_spec
from tests.kfp_server import KubeflowServer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment's `drift`: the wheel, and of this environment what it depends on but not the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for part in ("drift", "components", "pipelines", "configs"):
        shutil.copytree(ROOT / part, folder / "source" / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, folder / "source")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(folder / "source")], check=True)
    venv.create(folder / "venv", with_pip=False)
    (wheel,) = folder.glob("*.whl")
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(pip, check=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "venv" / "bin" / "drift"


def test_a_wheel_brings_the_examples(installed: Path, tmp_path: Path) -> None:
    _drift(installed, tmp_path, "init", "--from", "paper", "--out", "paper.yaml")
    _drift(installed, tmp_path, "config", "show", "-c", "paper.yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["paper.yaml", "zero2.json"]


def test_a_wheel_compiles_and_submits(installed: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    _drift(installed, tmp_path, "init", "--from", "miniature", "--out", "mine.yaml")
    _drift(installed, tmp_path, "compile", "-c", str(config), "--out", "chain.yaml")
    check_spec(*yaml.safe_load_all((tmp_path / "chain.yaml").read_text()))
    with KubeflowServer() as server:
        _drift(installed, tmp_path, "submit", "-c", str(config), "--host", server.url, "--no-wait")
        assert len(server.runs) == 1


def _drift(executable: Path, folder: Path, *arguments: str) -> None:
    ended = subprocess.run([executable, *arguments], cwd=folder, capture_output=True, text=True, check=False, env={})
    assert ended.returncode == 0, ended.stderr
