"""The tables of `configs/ablations/miniature`, each by one command: `python -m benchmarks.ablations [NAME ...]`.

Runs what is missing of each (`drift ablate run`), unless `--found` is given, and writes them into one dated file; a row
of its CSV is a number of a table.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.dated import ROOT, commit, write_dated

FILES = ROOT / "configs" / "ablations" / "miniature"
DRIFT = [sys.executable, "-c", "from drift.cli import main; main()", "ablate"]


def main() -> None:
    """Run, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="of files; default: all")
    parser.add_argument("--found", action="store_true", help="run nothing: take what is there")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    files = [FILES / f"{name}.yaml" for name in arguments.names] or sorted(FILES.glob("*.yaml"))
    where = f"commit `{commit()}`, {os.cpu_count()} cores, {platform.machine()}, no GPU"
    texts, lines = [f"# Ablations on the miniature world\n\n{where}. [What they show](../../docs/results.md).\n"], {}
    for file in files:
        if not arguments.found:
            subprocess.run([*DRIFT, "run", str(file)], cwd=ROOT, check=False)  # what failed stands below its table
        texts.append(f"{_table(file, 'md')}\n`drift ablate run {file.relative_to(ROOT)}`\n")
        lines[file.stem] = _table(file, "csv").splitlines()
    content: dict[str, Any] = {"command": "python -m benchmarks.ablations", "where": where, "tables": lines}
    print(write_dated("ablations", content, arguments.out, "\n".join(texts)))


def _table(file: Path, form: str) -> str:
    command = [*DRIFT, "table", str(file), "--format", form]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
