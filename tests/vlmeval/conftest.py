"""VLMEvalKit's environment, a judge, the eight tables, and a tiny untrained model that answers them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from drift.config.evaluate import EvaluateConfig
from drift.planning.miniature import models
from drift.planning.tables import write_tables
from tests.openai_server import OpenAIServer
from tests.vlmeval.judges import sensible

Settings = Callable[..., EvaluateConfig]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)  # one whose answers are no unended thinking
    path = tmp_path_factory.mktemp("model") / "vlm"
    models.save_vlm(models.new_vlm(models.new_text_model().state_dict()), path)
    return path


@pytest.fixture
def judge() -> Iterator[OpenAIServer]:
    with OpenAIServer(sensible) as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The section `evaluate` over all tables, or those of some forms, with the judge at a URL."""
    tables = write_tables(tmp_path / "tables")

    def build(url: str | None, *forms: str, judge: dict[str, object] | None = None, **more: object) -> EvaluateConfig:
        chosen = {name: table for name, table in tables.items() if not forms or table["format"] in forms}
        section = {"base_url": url, "model": "a judge/of 7B", "concurrency": 16, **(judge or {})} if url else None
        given = {"max_new_tokens": 6, "batch_size": 8, "threads": 1, "judge": section, **more}
        return EvaluateConfig(data=str(tmp_path / "tables"), benchmarks=chosen, **given)

    return build
