"""The same problems in every format that is read, each in the form in which its makers write it."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from tests.pool_rows import png

COUNT = 3


def question(number: int) -> str:
    return f"Compute {number}+1."


def gold(number: int) -> str:
    return str(number + 1)


def chain(number: int) -> str:
    return f"<think>\nadd one to {number}\n</think>\n\n\\boxed{{{gold(number)}}}"


def image(number: int) -> bytes:
    return png(shade=10 + number)


def images(folder: Path) -> list[str]:
    """The images as files in ``folder``/images; their paths from there."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(COUNT):
        (folder / "images" / f"{number}.png").write_bytes(image(number))
    return [f"images/{number}.png" for number in range(COUNT)]


def rows(make: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
    return [make(number) for number in range(COUNT)]


def base64_of(number: int) -> str:
    return base64.b64encode(image(number)).decode()


def columns(number: int) -> dict[str, Any]:
    return {"problem": f"<image>{question(number)}", "answer": gold(number), "image": base64_of(number)}


def array(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(content, indent=2))
    return path


def lines(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def table(path: Path, content: list[dict[str, Any]], delimiter: str) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(content[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(content)
    return path


def packed(path: Path) -> Path:
    """The file as .gz in its place."""
    away = path.with_name(f"{path.name}.gz")
    away.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return away


def parquet(path: Path, content: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(content), path)
    return path


def distilled(folder: Path, up: str = "") -> Path:
    """LLaMA-Factory's sharegpt, as DRIFT-TL-Distill-4K has it: a JSON array and a folder of images."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = images(folder)
    return array(
        folder / "train.json",
        rows(
            lambda n: {
                "messages": [
                    {"role": "user", "content": f"<image>{question(n)}"},
                    {"role": "assistant", "content": chain(n)},
                ],
                "images": [f"{up}{paths[n]}"],
            }
        ),
    )


def llava(folder: Path) -> Path:
    paths = images(folder)
    return array(
        folder / "llava.json",
        rows(
            lambda n: {
                "id": str(n),
                "image": paths[n],
                "conversations": [
                    {"from": "human", "value": f"<image>\n{question(n)}"},
                    {"from": "gpt", "value": gold(n)},
                ],
            }
        ),
    )


def openai(folder: Path) -> Path:
    def row(n: int) -> dict[str, Any]:
        url = {"url": f"data:image/png;base64,{base64_of(n)}"}
        return {
            "messages": [
                {"role": "system", "content": "You are a tutor."},
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": url}, {"type": "text", "text": question(n)}],
                },
                {"role": "assistant", "content": chain(n)},
            ]
        }

    return lines(folder / "openai.jsonl", rows(row))


def trl(folder: Path) -> Path:
    def row(n: int) -> dict[str, Any]:
        user = [{"type": "image", "text": None}, {"type": "text", "text": question(n)}]
        return {
            "messages": [
                {"role": "user", "content": user},
                {"role": "assistant", "content": [{"type": "text", "text": chain(n)}]},
            ],
            "images": [{"bytes": image(n), "path": None}],
        }

    return parquet(folder / "trl.parquet", rows(row))


def prompt_completion(folder: Path) -> Path:
    def row(n: int) -> dict[str, Any]:
        return {
            "prompt": [{"role": "user", "content": question(n)}],
            "completion": [{"role": "assistant", "content": chain(n)}],
            "images": [{"bytes": image(n), "path": None}],
        }

    return parquet(folder / "prompt.parquet", rows(row))


def verl(folder: Path) -> Path:
    return parquet(
        folder / "verl.parquet",
        rows(
            lambda n: {
                "data_source": "geometry3k",
                "prompt": [{"role": "user", "content": f"<image>{question(n)}"}],
                "images": [{"bytes": image(n)}],
                "reward_model": {"style": "rule", "ground_truth": gold(n)},
            }
        ),
    )


def vlmevalkit(folder: Path) -> Path:
    return table(
        folder / "bench.tsv",
        rows(lambda n: {"index": n, "image": base64_of(n), "question": question(n), "answer": gold(n)}),
        "\t",
    )


def dataset(plural: bool = False) -> datasets.Dataset:
    feature = datasets.List(datasets.Image()) if plural else datasets.Image()
    name = "images" if plural else "image"
    text = datasets.Value("string")

    def row(n: int) -> dict[str, Any]:
        cell = {"bytes": image(n), "path": None}
        return {"problem": f"<image>{question(n)}", "answer": gold(n), name: [cell] if plural else cell}

    features = datasets.Features({"problem": text, "answer": text, name: feature})
    return datasets.Dataset.from_list(rows(row), features=features)


def saved(folder: Path) -> Path:
    dataset().save_to_disk(str(folder / "saved"))
    return folder / "saved"


def shards(folder: Path) -> Path:
    (folder / "shards").mkdir()
    for number in range(2):
        path = folder / "shards" / f"train-0000{number}-of-00002.parquet"
        dataset(plural=True).shard(2, number, contiguous=True).to_parquet(str(path))
    return folder / "shards"


def tar(folder: Path) -> Path:
    with tarfile.open(folder / "shard-000.tar", "w") as file:
        for n in range(COUNT):
            told = json.dumps({"problem": question(n), "answer": gold(n)}).encode()
            for suffix, content in (("png", image(n)), ("json", told)):
                member = tarfile.TarInfo(f"{n:04d}.{suffix}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    return folder / "shard-000.tar"


def split_lines(folder: Path) -> Path:
    """Two files, and the glob that names them."""
    content = rows(columns)
    lines(folder / "part-0.jsonl", content[:1])
    lines(folder / "part-1.jsonl", content[1:])
    return folder / "part-*.jsonl"


WRITTEN: dict[str, Callable[[Path], Path]] = {
    "parquet": lambda folder: parquet(folder / "pool.parquet", rows(lambda n: columns(n) | {"image": image(n)})),
    "JSON lines": lambda folder: lines(folder / "pool.jsonl", rows(columns)),
    "JSON array": lambda folder: array(folder / "pool.json", rows(columns)),
    "CSV": lambda folder: table(folder / "pool.csv", rows(columns), ","),
    "JSON lines, packed": lambda folder: packed(lines(folder / "pool.jsonl", rows(columns))),
    "JSON array, packed": lambda folder: packed(array(folder / "pool.json", rows(columns))),
    "CSV, packed": lambda folder: packed(table(folder / "pool.csv", rows(columns), ",")),
    "TSV, packed": lambda folder: packed(vlmevalkit(folder)),
    "DRIFT-TL-Distill-4K": lambda folder: distilled(folder / "DRIFT-TL-Distill-4K"),
    "its folder": lambda folder: distilled(folder / "DRIFT-TL-Distill-4K").parent,
    "its paths as from LLaMA-Factory": lambda folder: distilled(folder / "TL", up="../DRIFT-TL-Distill-4K/"),
    "LLaVA": llava,
    "OpenAI": openai,
    "TRL": trl,
    "TRL's prompt and completion": prompt_completion,
    "verl": verl,
    "VLMEvalKit": vlmevalkit,
    "a glob": split_lines,
    "a folder of shards": shards,
    "save_to_disk": saved,
    "webdataset": tar,
}
