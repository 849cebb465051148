"""What a report of the published size is made from: eight benchmarks, nine arms and the unmodified VLM, 200 questions
of each benchmark with pictures, categories and long replies."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from drift.config.catalog import PLAIN
from drift.config.evaluate import BenchmarkConfig
from drift.config.gate import GateConfig
from drift.evaluate.samples import Example, Sample, write_samples
from drift.evaluate.scores import Scores, role_mean, score_benchmarks, write_scores
from drift.gate.decision import decide
from drift.ground.artifacts import write_json, write_provenance

BENCHMARKS = {
    "MathVista_MINI": "reasoning",
    "MathVision_MINI": "reasoning",
    "MathVerse_Vision_Only": "reasoning",
    "LogicVista_All": "reasoning",
    "WeMath_Problems": "reasoning",
    "MMStar_All": "perception",
    "RealWorldQA_All": "perception",
    "HallusionBench_All": "perception",
}
ARMS = {
    "drift": 9.0, "sft": 1.0, "task_arithmetic": 3.0, "layer_swap": -4.0, "ties": 0.0, "dare_ties": -1.0,
    "dare_linear": -2.0, "merge_then_sft": 5.0, "drift_base_delta": 7.0,
}  # fmt: skip
"""Points of reasoning that each is truly better by."""
CATEGORIES = ("geometry", "charts", "counting")


def published(folder: Path, questions: int = 200, words: int = 180) -> dict[str, Any]:
    """The arguments of `make_report`; replies have about ``words`` words."""
    baseline = _scores(folder / "vlm", 0.0, questions, words)
    arms = {name: _scores(folder / name, gain, questions, words) for name, gain in ARMS.items()}
    config = GateConfig(candidate="drift", max_perception_loss=6.0, resamples=200)
    decide(config, baseline=baseline, arms=arms, out=folder / "gate")
    return {
        "baseline": baseline,
        "arms": {name: (scores, _record(folder / "records" / name, name)) for name, scores in arms.items()},
        "gate": folder / "gate",
        "training_set": _training_set(folder / "training"),
        "deltas": _deltas(folder / "deltas"),
    }


def _scores(folder: Path, gain: float, questions: int, words: int) -> Path:
    folder.mkdir(parents=True)
    rng = random.Random(folder.name)
    samples = [
        _sample(rng, name, role, place, gain if role == "reasoning" else 0.0, words)
        for name, role in BENCHMARKS.items()
        for place in range(questions)
    ]
    configs = {name: BenchmarkConfig(role=role, format=PLAIN) for name, role in BENCHMARKS.items()}
    table = score_benchmarks(samples, configs, 0.95)
    write_samples(folder, samples, _examples(questions) if folder.name == "drift" else [])
    write_scores(
        folder,
        Scores(
            label=folder.name,
            protocol={"name": "rule"},
            protocol_fingerprint="12" * 32,
            data_fingerprint="34" * 32,
            model_sha256=hashlib.sha256(folder.name.encode()).hexdigest(),
            confidence=0.95,
            benchmarks=table,
            reasoning=role_mean(table, "reasoning"),
            perception=role_mean(table, "perception"),
        ),
    )
    write_provenance(folder, "evaluate", config={}, inputs={})
    return folder


def _sample(rng: random.Random, name: str, role: str, place: int, gain: float, words: int) -> Sample:
    ease = random.Random(f"{name}{place}").random()
    right = ease < 0.5 + gain / 100 if rng.random() < 0.85 else rng.random() < 0.5
    thinking = " ".join(rng.choice(WORDS) + rng.choice(ENDS) for _ in range(rng.randint(words // 2, 2 * words)))
    cut = rng.random() < 0.02
    return Sample(
        benchmark=name,
        role=role,
        index=str(place),
        group=str(place),
        correct=right and not cut,
        answer=None if cut else "A" if right else rng.choice("BCD"),
        gold="A",
        raw=f"<think>{thinking}"
        if cut
        else f"<think>{thinking}</think>The answer is \\boxed{{{'A' if right else 'B'}}}.",
        thinking=thinking,
        finish_reason="length" if cut else "stop",
        status="unparsed" if cut else "correct" if right else "incorrect",
        category=CATEGORIES[place % 3] if role == "reasoning" else "",
        part="",
        question=f"In figure {place} two lines meet.\nHow large is the angle?\nA. {place % 90}°\nB. 40°\nC. 50°",
        error=None,
        read="none" if cut else "boxed",
    )


WORDS = ("angle", "line", "therefore", "the", "sum", "of", "square", "we", "see", "that", "x", "equals", "point", "in",
         "triangle", "base", "height", "so", "follows", "but", "value", "count", "bars", "left", "right")  # fmt: skip
ENDS = ("", "", "", "", ",", ".", " 12", " 7", " = 3")


def _examples(questions: int) -> list[Example]:
    rng = np.random.default_rng(0)
    return [Example(name, str(place), _picture(rng)) for name in BENCHMARKS for place in range(questions)]


def _picture(rng: np.random.Generator) -> bytes:
    """As hard to compress as a photograph is."""
    coarse = rng.integers(0, 255, (18, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((256, 192), Image.Resampling.BILINEAR).save(buffer, "WEBP", quality=70)
    return buffer.getvalue()


def _record(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True)
    trained = "drift" in name or "sft" in name
    metrics = {"train/seconds": 5400.0} if trained else {}
    projection = {"paper": 0.4 if "drift" in name else 0.02, "base": 0.3}
    write_json(folder / "arm.json", {"arm": name, "projection": projection, "metrics": metrics})
    rows = [_step(name, step) for step in range(1, 41)] if trained else []
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _step(name: str, step: int) -> Mapping[str, float]:
    moved = {"projection": step / 100, "cos_mean": 0.01 * step / 40} if "drift" in name else {}
    return {"step": step, "loss": 0.4 + len(name) / 40 + 1 / step, **moved}


def _training_set(folder: Path) -> Path:
    folder.mkdir()
    stages = [{"stage": "format", "in": 24000, "out": 21300, "reasons": {"no box": 2100, "cut": 600}}]
    write_json(
        folder / "funnel.json",
        [*stages, {"stage": "correct", "in": 21300, "out": 8120, "reasons": {"incorrect": 13180}}],
    )
    return folder


def _deltas(folder: Path) -> Path:
    modules = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
    for name, size in (("paper", 1.0), ("base", 0.5)):
        (folder / name).mkdir(parents=True)
        tensors = {
            f"layers.{layer}.{module}.weight": {"l2": size * (1 + layer / 28), "vlm_l2": 20.0}
            for layer in range(28)
            for module in modules
        }
        write_json(folder / name / "delta_stats.json", {"direction": f"expert minus {name}", "tensors": tensors})
    return folder
