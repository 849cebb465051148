"""From a wheel in a new environment, as a CI job has it: every command, an example, compile, and submit to a server."""

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import drift.cli.app  # noqa: F401  # every command
from drift.cli.options import app
from pipelines.check import check_spec
from tests.kfp_server import KubeflowServer

ROOT = Path(__file__).parents[2]
KUBEFLOW = "drift: this command needs Kubeflow's packages; pip install 'drift-mllm[cluster]'"
NO_STORE = "drift: nowhere: no MLflow store there"
GATE = "gate -c mine.yaml --baseline before --candidate drift=after -o gate beats=[]"
"""Of two questions a table nothing can be said: exit code 3."""

WITH_KUBEFLOW = (
    "run", "retrain", "rehearse", "compile -o chain.yaml", "submit --host http://127.0.0.1:9", "watch RUN", "logs RUN",
    "cancel RUN", "retry RUN", "clean --keep 1", "runs list", "runs show RUN", "runs compare RUN RUN", "runs open RUN",
    "schedule create --cron HOURLY", "schedule list", "schedule update ID", "schedule versions ID", "schedule pause ID",
    "schedule resume ID", "schedule delete ID",
)  # fmt: skip
"""What cannot be done without the extra `cluster`."""

USUAL = {
    "init --from miniature -o mine.yaml": "written to mine.yaml",
    "config show -c mine.yaml": '"name": "miniature"',
    "config schema": "curate",
    "doctor -c mine.yaml": "torchvision",
    "plan -c mine.yaml": "free below runs",
    "ingest -c mine.yaml -o problems limit=30": "written to",
    "generate -c mine.yaml --problems problems -o generations samples=1": "written to",
    "curate -c mine.yaml --problems problems --generations generations -o train min_kept=5": "written to",
    "data show train": "train.html",
    "data export train --to trl -o exported": "written to",
    "verify pairs.jsonl": '"status": "correct"',
    "delta --expert {world}/expert --vlm {world}/vlm -o delta": "written to",
    "deltas show delta": "attn",
    "merge --method ties --vlm {world}/vlm --expert {world}/expert --base {world}/base -o merged": "written to",
    "train -c mine.yaml --model {world}/vlm --data train --delta delta -o trained epochs=1": "written to",
    "evaluate -c mine.yaml --model {world}/vlm -o before --limit 2 max_new_tokens=8": "written to",
    "evaluate -c mine.yaml --model trained -o after --limit 2 max_new_tokens=8": "written to",
    "compare before after": "compared: vlm against trained",
    "report --baseline before --arm drift=after --gate gate -o report": "report.html",
    "ask --model {world}/vlm --max-new-tokens 2 What?": "",
    "serve --model {world}/vlm --print": "vllm serve",
}
"""The usual way of each other command, in an order in which each finds what it reads, and what it prints."""

REFUSED = {
    "track RUN": "no journal of a run",
    "register --model trained --gate gate --name mine": "the gate refused it",
    "ablate plan table.yaml": "table.yaml",
    "ablate run table.yaml": "table.yaml",
    "ablate submit table.yaml": "table.yaml",
    "ablate table table.yaml": "table.yaml",
    "models list --runs nowhere": NO_STORE,
    "models show --runs nowhere NAME 1": NO_STORE,
    "models promote --runs nowhere NAME 1": NO_STORE,
    "models rollback --runs nowhere NAME --reason why": NO_STORE,
    "models reject --runs nowhere NAME 1 --reason why": NO_STORE,
    "models download --runs nowhere NAME 1 -o there": NO_STORE,
    "models card --runs nowhere NAME 1": NO_STORE,
    "miniature build -o problems": "problems",
    "ui --no-browser --runs nowhere": "no MLflow store there yet",
}
"""What finds nothing to work on, and what it names."""


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
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--ignore-installed", str(wheel)], check=True)
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


def commands(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Each command by its words."""
    for name, one in group.commands.items():
        yield from commands(one, *path, name) if hasattr(one, "commands") else [(*path, name)]


COMMANDS = list(commands(typer.main.get_command(app)))


def ended(installed: Path, folder: Path, lines: Iterable[list[str]]) -> list[dict[str, Any]]:
    """Code, out and err of each command, from the wheel and without its extras, in one process."""
    python = [str(installed.with_name("python")), "-P", str(ROOT / "tests" / "installed.py")]
    given = json.dumps([*lines])
    return json.loads(
        subprocess.run(python, cwd=folder, input=given, capture_output=True, text=True, check=True, env={}).stdout
    )


def test_every_command_is_tried_here():
    tried = [line.split() for line in (*WITH_KUBEFLOW, *USUAL, *REFUSED, GATE)]
    assert {path for path in COMMANDS for words in tried if tuple(words[: len(path)]) == path} == set(COMMANDS)


def test_every_command_of_a_wheel_has_its_help_and_says_what_it_lacks(installed: Path, tmp_path: Path) -> None:
    helped = ended(installed, tmp_path, [[*path, "--help"] for path in COMMANDS])
    assert {one["code"] for one in helped} == {0} and all("Usage: " in one["out"] for one in helped)
    bare = dict(zip(COMMANDS, ended(installed, tmp_path, [[*path] for path in COMMANDS]), strict=True))
    assert {path for path, one in bare.items() if one["code"] == 0} == {("config", "schema")}
    assert {path: one for path, one in bare.items() if one["code"] not in (0, 2) or "Traceback" in one["err"]} == {}
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_without_extras_does_every_step_and_names_the_extra_that_the_rest_needs(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"gold": "4", "response": "so 4"}\n')
    (world,) = installed.parent.parent.glob("lib/python*/site-packages/drift/planning/miniature/assets")
    kubeflow = [f"{line} -c mine.yaml" if configured(line) else line for line in WITH_KUBEFLOW]
    lines = [*USUAL, *REFUSED]
    lines.sort(key=lambda line: "nowhere" not in line)  # before a step has made a store for this process
    lines.insert(lines.index("compare before after"), GATE)
    found = ended(installed, tmp_path, [line.format(world=world).split() for line in (*lines, *kubeflow)])
    results = dict(zip((*lines, *kubeflow), found, strict=True))
    assert results.pop(GATE)["code"] == 3
    assert {line: one for line in USUAL if (one := results[line])["code"] or USUAL[line] not in one["out"]} == {}
    for line, named in REFUSED.items():
        one = results[line]
        assert one["code"] == 2 and named in one["out"] + one["err"] and "Traceback" not in one["err"], (line, one)
    assert {results[line]["err"].strip() for line in kubeflow} == {KUBEFLOW}


def configured(line: str) -> bool:
    return line.split()[0] in ("run", "retrain", "rehearse", "compile", "submit") or line.startswith(
        ("schedule create", "schedule list", "schedule update")
    )


def _drift(executable: Path, folder: Path, *arguments: str) -> None:
    ended = subprocess.run([executable, *arguments], cwd=folder, capture_output=True, text=True, check=False, env={})
    assert ended.returncode == 0, ended.stderr
