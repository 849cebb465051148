"""The tutorial on own data does what it says, step by step, up to the run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^```(?:python|bash)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """An environment whose `python` is this one, and whose `drift` is this checkout's."""
    (tmp_path / "bin").mkdir()
    for name, arguments in (("python", ""), ("drift", "-m drift")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def test_the_steps_of_the_page_run_in_a_new_folder_and_say_what_it_says(
    shell: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(STEPS[0], {})
    ended = subprocess.run(["bash", "-ec", "\n".join(STEPS[1:])], env=shell, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    said = " ".join(ended.stdout.split())
    assert "of the first 30 rows 29 are problems, 1 rejected (missing_image)" in said
    assert "α cannot matter at this learning rate" in said
    assert "lost.png" in Path("look.html").read_text(encoding="utf-8")
