"""What a step prints is in a file when the block is over."""

import subprocess
import sys
from pathlib import Path

PRINTS = """
import subprocess, sys
from pathlib import Path
from drift.tracking.telling.printed import printed
print("before", flush=True)
with printed(Path(sys.argv[1])):
    print("from here")
    print("an error", file=sys.stderr)
    subprocess.run(["echo", "a child"], check=True)
    if sys.argv[2] == "raise":
        raise ValueError("broken")
print("after")
"""


def run(log: Path, how: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PRINTS, str(log), how]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_a_step_and_its_children_print_is_kept_and_still_printed(tmp_path: Path):
    done = run(tmp_path / "log.txt", "end")
    kept = (tmp_path / "log.txt").read_text()
    assert sorted(kept.splitlines()) == ["a child", "an error", "from here"]
    assert done.returncode == 0 and done.stdout.startswith("before\n") and done.stdout.endswith("after\n")
    assert set(kept.splitlines()) < set(done.stdout.splitlines())


def test_the_log_of_a_failed_step_ends_with_its_traceback(tmp_path: Path):
    done = run(tmp_path / "log.txt", "raise")
    kept = (tmp_path / "log.txt").read_text()
    assert done.returncode == 1
    assert "from here" in kept and kept.endswith("ValueError: broken\n")
