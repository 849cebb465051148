"""A configuration of a run that fails in its first step, for tests of what goes around the steps; a quicker kfp."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import kfp.dsl.pipeline_task
import pytest

from pipelines.local.work import ForkServer
from tests.mlflow_store import fresh_store


@pytest.fixture(scope="session", autouse=True)
def callers_are_named_without_their_source() -> Iterator[None]:
    """At every setting of a task kfp asks `inspect.stack()` for one name, and it reads the source of every frame.

    Below pytest, with torch imported, that made compiling with a resources profile take seven seconds instead of one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kfp.dsl.pipeline_task, "inspect", SimpleNamespace(stack=names_on_the_stack))
        yield


def names_on_the_stack() -> list[tuple[None, None, None, str]]:
    """The functions at work, from the one that asks; the name is the fourth of a frame's fields."""
    frame: FrameType | None = sys._getframe(1)
    named = []
    while frame is not None:
        named.append((None, None, None, frame.f_code.co_name))
        frame = frame.f_back
    return named


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    """What step processes are forked from; one for all, since it imports everything that any step needs."""
    with contextlib.closing(ForkServer()) as server:
        yield server


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A configuration whose pool of problems is broken, so that the first step fails."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("vlm", "expert", "base", "teacher"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    for name in ("Reason.tsv", "Perceive.tsv"):
        (tmp_path / name).write_text(name)
    (tmp_path / "pool.jsonl").write_text("no json\n")
    (tmp_path / "runs").mkdir()
    fresh_store(tmp_path / "runs")
    at = str(tmp_path)
    benchmarks = {"Reason": {"role": "reasoning"}, "Perceive": {"role": "perception"}}
    return {
        "name": "test",
        "runs": f"{at}/runs",
        "models": {"vlm": f"{at}/vlm", "expert": f"{at}/expert", "base": f"{at}/base"},
        "ingest": {"source": f"{at}/pool.jsonl"},
        "generate": {"teacher": {"kind": "local", "model": f"{at}/teacher"}},
        "arms": {"sft": {"train": {}}, "drift": {"train": {}, "delta": "paper"}},
        "evaluate": {"data": at, "benchmarks": benchmarks},
        "gate": {"candidate": "drift"},
        "register": {"model": "test"},
    }
