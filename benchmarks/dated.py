"""Where the result of a benchmark comes from, and the dated pair of files it is written to."""

from __future__ import annotations

import datetime
import json
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def commit() -> str | None:
    """Of this checkout, short, with `+changes` where files differ from it; None where git knows nothing."""
    try:
        head, changed = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changed else "")


def write_dated(name: str, content: dict[str, Any], out: Path, text: str | None = None) -> Path:
    """`NAME-DATE.json` in the folder ``out``, and ``text`` as `NAME-DATE.md` beside it; the path of the first."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}-{datetime.date.today().isoformat()}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if text is not None:
        path.with_suffix(".md").write_text(text, encoding="utf-8")
    return path


def _git(*command: str) -> str:
    done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
