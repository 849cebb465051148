"""The paper's numbers (DRIFT, arXiv 2510.15050 v2, Tables 2, 3 and 6), to stand beside ours.

They compare with ours only if ours are made with the same (`MADE_WITH`), on the whole published table, column by
column. Two versions of the paper differ by up to 1.6 points on the same method, so closer than 2 points is called
reproduced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drift.config.catalog import SUITES, columns_of

TOLERANCE = 2.0
"""Points of percent."""

AMBIGUOUS = frozenset({"HallusionBench"})
"""Columns of which the paper does not say what they are."""

MADE_WITH: dict[str, Any] = {
    "name": "judge",
    "judge": "gpt-4o-mini",
    "limit": None,
    "decoding": "greedy",
    "neutral": True,
    "prompts": "{question}",
    "instruction": None,
    "max_new_tokens": 2048,
    "image_min_pixels": 1280 * 28 * 28,
    "image_max_pixels": 16384 * 28 * 28,
}
"""Keys of a protocol, and what the rows were made with. The paper names VLMEvalKit and no setting: these are what
VLMEvalKit 0.0.20 does with Qwen2.5-VL-7B-Instruct if it is told nothing else. It draws at temperature 0.01 from the one
likeliest token, which is greedy; its judge is the same for all tables."""

COLUMNS = [column for names in SUITES.values() for name in names for column in columns_of(name, name)]


@dataclass(frozen=True)
class Row:
    """One model of the paper's tables: its checkpoint on the hub, where there is one, and its percents."""

    model: str | None
    percent: dict[str, float]


def _row(model: str | None, *percents: float | None) -> Row:
    """In the tables' order: MathVista, MathVision, MathVerse, WeMath strict and loose, LogicVista, perception."""
    return Row(model, {name: value for name, value in zip(COLUMNS, percents, strict=False) if value is not None})


ROWS: dict[str, Row] = {
    "qwen2_5_vl_7b": _row("Qwen/Qwen2.5-VL-7B-Instruct", 67.9, 25.0, 41.4, 34.3, 52.8, 46.7, 44.39, 68.62, 64.70),
    "sft": _row(None, 68.7, 25.1, 42.0, 33.3, 55.8, 45.6, 48.79, 66.79, 62.80),
    "drift_vl_7b": _row("ChaoHuangCS/DRIFT-VL-7B", 69.9, 26.6, 43.9, 38.5, 60.2, 47.2, 48.79, 69.15, 65.60),
    "task_arithmetic": _row(None, 65.8, 22.7, 33.2, 30.1, 51.2, 42.0),
    "layer_swap": _row(None, 63.6, 22.9, 37.9, 32.1, 50.1, 35.1),
    "ties": _row(None, 63.6, 23.1, 39.5, 33.4, 51.7, 42.1),
    "dare_ties": _row(None, 66.3, 23.6, 38.3, 33.7, 52.6, 42.0),
    "dare_linear": _row(None, 66.0, 22.3, 35.5, 30.8, 51.2, 42.5),
    "r1_onevision": _row("Fancy-MLLM/R1-Onevision-7B", 64.1, 29.9, 40.0, None, None, 61.8),
    "openvlthinker": _row("ydeng9/OpenVLThinker-7B", 65.3, 23.0, 38.1, 35.2, None, 44.5),
    "r1_vl": _row("jingyiZ00/R1-VL-7B", 63.5, 24.7, 40.0),
    "x_reasoner": _row("microsoft/X-Reasoner-7B", 69.0, 29.6),
}
