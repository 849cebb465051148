"""Local inference of an evaluation: drift's batches beside VLMEvalKit's one question after the other.

The same tiny untrained model on the CPU with one thread, the same questions and images in MMStar's form, the same
limit of tokens, greedy, in turn. Timed from the questions in memory to the replies: imports, the loading of the model
and one question before are left out on both sides.

    make .venv-vlmeval/ready
    python -m benchmarks.eval_throughput
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.dated import ROOT, commit, write_dated
from drift.config.evaluate import EvaluateConfig
from drift.config.servers import JudgeConfig
from drift.evaluate.answering import open_model
from drift.evaluate.benchmarks import Benchmark, read_benchmark
from drift.evaluate.judged import find_python
from drift.evaluate.questions import batches, questions
from drift.inference.local import LocalModel
from drift.planning.miniature import models
from drift.planning.tables import TABLES, image, write_table

PROGRAM = ROOT / "benchmarks" / "vlmevalkit_inference.py"
WORDS = ("value of a ?", "compute a + b", "read all", "compute a * b - c + d")


def main() -> None:
    """Both in turn, `--repeat` times; the ratio is of the medians."""
    arguments = parsed()
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model")
        write_table(Path(folder) / "MMStar.tsv", rows(arguments.questions))
        config = settings(folder, arguments)
        table = read_benchmark("Questions", config)
        greedy = open_model(model, config)
        runs = [
            (ours(greedy, table, config.batch_size), theirs(folder, model, arguments)) for _ in range(arguments.repeat)
        ]
    write(summary(runs, arguments), arguments)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args()


def write_model(path: Path) -> Path:
    torch.manual_seed(1)
    models.save_vlm(models.new_vlm(models.new_text_model().state_dict()), path)
    return path


def rows(count: int) -> list[dict[str, str]]:
    """Of several lengths, each with a picture of its own."""
    template = TABLES["MMStar"][0]
    asked = [" ".join([WORDS[place % 4]] * (1 + place % 3)) for place in range(count)]
    return [
        {**template, "index": str(place), "question": question, "image": image(str(place))}
        for place, question in enumerate(asked)
    ]


def settings(folder: str, arguments: argparse.Namespace) -> EvaluateConfig:
    table = {"format": "MMStar", "role": "perception", "file": "MMStar.tsv"}
    speed = {"max_new_tokens": arguments.max_new_tokens, "batch_size": arguments.batch_size, "threads": 1}
    return EvaluateConfig(data=folder, benchmarks={"Questions": table}, dtype="float32", **speed)


def ours(greedy: LocalModel, table: Benchmark, batch_size: int) -> dict[str, Any]:
    asked = questions(table)
    greedy.replies(asked[:1])  # warm
    started = time.perf_counter()
    replies = {
        question.index: reply.text
        for batch in batches(asked, batch_size)
        for question, reply in zip(batch, greedy.replies(batch), strict=True)
    }
    return {"seconds": time.perf_counter() - started, "replies": [replies[question.index] for question in asked]}


def theirs(folder: str, model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    python = find_python(JudgeConfig(base_url="http://none", model="none"))
    command = [python, "-I", str(PROGRAM), folder, str(model), str(arguments.max_new_tokens)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    result: dict[str, Any] = json.loads(Path(folder, "vlmevalkit.json").read_text())
    return result


def summary(runs: list[tuple[dict[str, Any], dict[str, Any]]], arguments: argparse.Namespace) -> dict[str, Any]:
    seconds = {name: [run[place]["seconds"] for run in runs] for place, name in enumerate(("drift", "vlmevalkit"))}
    same = sum(one == other for one, other in zip(runs[0][0]["replies"], runs[0][1]["replies"], strict=True))
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores (one used), {platform.machine()}, load {os.getloadavg()[0]:.1f}",
        "commit": commit(),
        "questions": arguments.questions,
        "max_new_tokens": arguments.max_new_tokens,
        "batch_size": arguments.batch_size,
        "seconds": seconds,
        "same_replies": same,
        "ratio": statistics.median(seconds["vlmevalkit"]) / statistics.median(seconds["drift"]),
    }


def write(result: dict[str, Any], arguments: argparse.Namespace) -> None:
    """A JSON file with everything and a Markdown table beside it, dated."""
    lines = ["| | median s | answers/s |", "|---|---|---|"]
    for name, seconds in result["seconds"].items():
        median = statistics.median(seconds)
        lines.append(f"| {name} | {median:.2f} | {result['questions'] / median:.1f} |")
    heading = (
        f"`python -m benchmarks.eval_throughput`, commit `{result['commit']}`, {result['machine']}. "
        f"{result['questions']} questions, at most {result['max_new_tokens']} tokens each, batches of "
        f"{result['batch_size']}; imports and the loading of the model are not timed. Same replies: "
        f"{result['same_replies']}. **{result['ratio']:.1f} times as fast.**\n\n"
    )
    write_dated("eval_throughput", result, arguments.out, heading + "\n".join(lines) + "\n")
    print(heading + "\n".join(lines))


if __name__ == "__main__":
    main()
