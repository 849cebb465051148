"""What training and evaluation cost on a GPU at Qwen2.5-VL-7B's shapes, in a few minutes and without a download.

    bash benchmarks/gpu.sh --out FOLDER                       # one H100 or H200, at most 8 minutes
    bash benchmarks/gpu.sh --device cpu --small --out FOLDER  # only shows that it runs

Parts (`benchmarks.gpu_parts`) run in processes with a limit, so that memory is free again and nothing hangs. The dated
result is written anew at every row; what did not run is in it by name, with the reason.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from benchmarks.dated import ROOT, commit, write_dated

SECONDS = {("card", "steps"): 195, ("attention", "packing"): 120, ("evaluation",): 105, ("invariance",): 50}
"""The limit of each process, the most important first, and the parts that it measures; 10 s of 8 minutes are left."""
PARTS = [part for parts in SECONDS for part in parts]
TOGETHER = {tuple(PARTS): 600}
"""Small, there is no memory to be freed in between."""
PEAKS = {"H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200": 989, "A100": 312}
"""TFLOP/s of dense bf16 by what a card's name holds, NVIDIA's data sheets; plain H100 is the SXM part."""
NEEDED = ("torch", "transformers", "safetensors", "accelerate", "pyarrow", "pillow", "pydantic", "lazy_loader")
COLUMNS = {
    "step_seconds": ("step, s", ".3f"),
    "tokens": ("tokens", ",.0f"),
    "tokens_per_second": ("tokens/s", ",.0f"),
    "tflops": ("TFLOP/s", ".1f"),
    "of_peak": ("of the card's peak", ".1%"),
    "of_product": ("of its matrix product", ".1%"),
    "of_plain": ("of a plain step's time", ".3f"),
    "peak_gigabytes": ("peak memory, GB", ".1f"),
    "delta_gigabytes": ("Δ kept, GB", ".2f"),
    "layers": ("layers", "d"),
    "places": ("with padding", ",.0f"),
    "gigabytes_per_second": ("GB/s", ",.0f"),
    "batch_seconds": ("batch, s", ".2f"),
    "answers_per_second": ("answers/s", ".2f"),
    "of_float32": ("apart from float32", ".1e"),
    "of_one_piece": ("apart from bf16 in one piece", ".1e"),
    "projection": ("projection", ".5f"),
}
"""What the table shows of a row, in this order: head and format."""


def main() -> int:
    """Run the parts one after the other; 0 if each has run to its end, 1 if one was cut off, 2 if a package lacks."""
    options = _options()
    if missing := lacking(needed()):
        print(f"missing: {', '.join(f'{name} (here: {here})' for name, here in missing.items())}", file=sys.stderr)
    if None in missing.values():
        return 2
    result = Result(options, missing)
    for parts, seconds in (TOGETHER if options.small else SECONDS).items():
        if asked := [part for part in parts if part in options.parts]:
            result.run(asked, seconds)
    print(result.text(), file=sys.stderr)
    print(f"written: {result.write()}")
    return int(any(part["ended"] != "whole" for part in result.parts.values()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny shapes, which say nothing about speed")
    parser.add_argument("--layers", type=int, help="of the model whose steps are timed; default: as many as fit")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the dated result")
    return parser.parse_args()


def needed() -> list[str]:
    """What pyproject.toml asks for of the packages that the parts import."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    return [requirement for requirement in asked if Requirement(requirement).name in NEEDED]


def lacking(asked: list[str]) -> dict[str, str | None]:
    """The requirements that this machine does not fulfil, and the version that is here; None where there is none."""
    here = {requirement: _version(Requirement(requirement).name) for requirement in asked}
    return {
        requirement: version
        for requirement, version in here.items()
        if version is None or not Requirement(requirement).specifier.contains(version, prereleases=True)
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


class Result:
    """The rows of all parts as they come, and the dated files."""

    def __init__(self, options: argparse.Namespace, lacking: dict[str, str | None]) -> None:
        self.options = options
        self.ends = time.monotonic() + 60 * options.minutes
        self.head = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "command": " ".join(["bash benchmarks/gpu.sh", *sys.argv[1:]]),
            "python": sys.version.split()[0],
            "packages": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "safetensors")},
            "lacking": lacking,
        }
        self.parts: dict[str, dict[str, Any]] = {}

    def run(self, parts: list[str], seconds: float) -> None:
        """Parts in one process, for as long as they may take; their rows are written as they come."""
        limit = min(seconds, self.ends - time.monotonic())
        self.parts |= {part: {"ended": "running", "cases": [], "rows": []} for part in parts}
        ended = self._run(parts, limit) if limit > 0 else "not started: the time was up"
        for part in map(self.parts.__getitem__, parts):
            done = {row["case"] for row in part["rows"]}
            missing = [case for case in part["cases"] if case not in done]
            part["rows"] += [{"case": case, "not_run": ended} for case in missing]
            part["ended"] = "whole" if part["cases"] and not missing else ended
        self.write()

    def _run(self, parts: list[str], limit: float) -> str:
        """How it ended."""
        options = self.options
        command = [sys.executable, "-m", "benchmarks.gpu_parts", *parts, "--device", options.device]
        command += ["--small"] if options.small else []
        command += ["--layers", str(options.layers)] if options.layers else []
        late = threading.Event()
        with tempfile.TemporaryDirectory() as folder, _started(command, folder) as process:
            timer = threading.Timer(limit, lambda: (late.set(), process.kill()))
            timer.start()
            try:
                for line in process.stdout or ():
                    self._take(json.loads(line))
            finally:
                timer.cancel()
                process.kill()
        return f"cut off after {limit:.0f} s" if late.is_set() else f"ended with exit code {process.returncode}"

    def _take(self, row: dict[str, Any]) -> None:
        """A line of a process; its first has the names of all cases, and the card."""
        if "cases" in row:
            self.head |= row["machine"]
            for part, cases in row["cases"].items():
                self.parts[part]["cases"] = cases
        else:
            print(json.dumps(row), file=sys.stderr)
            self.parts[row.pop("part")]["rows"].append(row)
        self.write()

    def write(self) -> Path:
        """All that there is until now."""
        parts = {name: {"ended": part["ended"], "rows": self._rows(name)} for name, part in self.parts.items()}
        small = "_small" if self.options.small else ""
        return write_dated(f"gpu{small}", {**self.head, "parts": parts}, self.options.out, self.text())

    def _rows(self, part: str) -> list[dict[str, Any]]:
        """With their shares of what other rows say."""
        wholes = {"of_peak": self._peak(), "of_product": self._found("card", "matrix product", "tflops")}
        plain = {"of_plain": self._found("steps", "plain", "step_seconds") if part == "steps" else None}
        rows = self.parts[part]["rows"]
        return [{**row, **_share(row, "tflops", wholes), **_share(row, "step_seconds", plain)} for row in rows]

    def _peak(self) -> int | None:
        return next((peak for name, peak in PEAKS.items() if name in self.head.get("card", "")), None)

    def _found(self, part: str, case: str, column: str) -> float | None:
        rows = self.parts.get(part, {"rows": []})["rows"]
        return next((row.get(column) for row in rows if row["case"] == case), None)

    def text(self) -> str:
        """The result to read."""
        head, peak = self.head, self._peak()
        packages = ", ".join(f"{name} {version}" for name, version in head["packages"].items())
        of_what = f"{peak} TFLOP/s (dense bf16, data sheet)" if peak else "no known peak"
        lines = [
            f"`{head['command']}`, commit `{head['commit']}`, {head['date']}, {head.get('card', 'no card seen')},"
            f" {packages}. Shares are of {of_what} and of the matrix product measured here; operations are those of the"
            " model, without what is recomputed.",
        ]
        for name, part in self.parts.items():
            lines += ["", f"## {name}: {part['ended']}", "", *_table(self._rows(name))]
        return "\n".join(lines) + "\n"


def _started(command: list[str], folder: str) -> subprocess.Popen[str]:
    """With a folder for what it writes, which may be left there when it is killed."""
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": folder})


def _share(row: dict[str, Any], column: str, wholes: dict[str, float | None]) -> dict[str, float]:
    return {name: row[column] / whole for name, whole in wholes.items() if whole and column in row}


def _table(rows: list[dict[str, Any]]) -> list[str]:
    ran = [row for row in rows if "not_run" not in row]
    shown = [name for name in COLUMNS if any(row.get(name) is not None for row in ran)]
    lines = [f"- {row['case']}: not run, {row['not_run']}" for row in rows if "not_run" in row]
    if not ran:
        return lines
    table = [f"| | {' | '.join(COLUMNS[name][0] for name in shown)} |", "|---" * (1 + len(shown)) + "|"]
    for row in ran:
        cells = [f"{row[name]:{COLUMNS[name][1]}}" if row.get(name) is not None else "" for name in shown]
        table.append(f"| {' | '.join([row['case'], *cells])} |")
    return [*table, *(["", *lines] if lines else [])]


if __name__ == "__main__":
    sys.exit(main())
