"""An evaluation's answers by vLLM beside those by transformers: answers/s, and how many are the same.

Needs a GPU and vLLM (docs/vllm.md); without either it says so and ends. Starting and loading are told apart by a run
over one question.

    python -m benchmarks.vllm_engine --model MODEL --data data/LMUData --benchmark MMStar --limit 256
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from drift.config.catalog import KNOWN
from drift.config.evaluate import EvaluateConfig
from drift.config.section import validate
from drift.config.servers import VllmConfig
from drift.evaluate.evaluation import evaluate
from drift.evaluate.samples import Sample, read_samples
from drift.ground.errors import ConfigError
from drift.inference.served import find_vllm

ASSETS = Path(__file__).parents[1] / "drift" / "planning" / "miniature" / "assets"
ENGINES = ("transformers", "vllm")


def main() -> None:
    """Both engines in turn; JSON on standard output."""
    given = parsed()
    if reason := missing():
        print(f"nothing is measured: {reason}", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        runs = {engine: timed(engine, given, Path(folder)) for engine in ENGINES}
    samples = [one.pop("samples") for one in runs.values()]
    print(json.dumps({"card": torch.cuda.get_device_name(), **runs, "same": same(*samples)}, indent=2))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=str(ASSETS / "vlm"))
    parser.add_argument("--data", default=str(ASSETS / "benchmarks"))
    parser.add_argument("--benchmark", default="MiniMath3")
    parser.add_argument("--limit", type=int, default=256)
    parser.add_argument("--max-new-tokens", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=16, help="Of transformers.")
    return parser.parse_args()


def missing() -> str | None:
    """What this machine lacks."""
    if not torch.cuda.is_available():
        return "no GPU is visible to torch"
    try:
        find_vllm(VllmConfig(), "evaluate.vllm")
    except ConfigError as error:
        return str(error)
    return None


def timed(engine: str, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds to one answer, start and load with it, once kernels are compiled; and the rate of the answers beyond."""
    asked(engine, given, folder / f"{engine}-compiles", 1)
    first, _ = asked(engine, given, folder / f"{engine}-first", 1)
    seconds, samples = asked(engine, given, folder / engine, given.limit)
    rate = (len(samples) - 1) / (seconds - first) if seconds > first else None
    return {"first_seconds": first, "seconds": seconds, "answers_per_second": rate, "samples": samples}


def asked(engine: str, given: argparse.Namespace, out: Path, limit: int) -> tuple[float, list[Sample]]:
    benchmark = {} if given.benchmark in KNOWN else {"role": "reasoning"}
    settings: dict[str, Any] = {"engine": engine, "data": given.data, "limit": limit}
    settings |= {"benchmarks": {given.benchmark: benchmark}}
    settings |= {"max_new_tokens": given.max_new_tokens, "batch_size": given.batch_size, "dtype": "bfloat16"}
    config = validate(EvaluateConfig, settings, where="evaluate")
    began = time.monotonic()
    evaluate(config, model=given.model, label=engine, out=out)
    return time.monotonic() - began, read_samples(out)


def same(ours: list[Sample], theirs: list[Sample]) -> dict[str, float]:
    """Shares of the questions with the same text, and with the same verdict."""
    pairs = list(zip(ours, theirs, strict=True))
    texts = sum(one.raw == other.raw for one, other in pairs)
    verdicts = sum(one.correct == other.correct for one, other in pairs)
    return {"text": texts / len(pairs), "verdict": verdicts / len(pairs)}


if __name__ == "__main__":
    main()
