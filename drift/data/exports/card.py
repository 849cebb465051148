"""The card of a curated folder: `README.md` as Hugging Face reads it, and its pictures in `card/`.

It is made of the folder's own files and of how the folders before it were made. It holds neither times nor versions nor
places (those are in provenance.json), so that the same rows give the same bytes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCardData

from drift.data import tables
from drift.data.exports import plots
from drift.data.exports.chats import IMAGE
from drift.data.exports.look import first_images, known_rows
from drift.data.exports.pictures import thumbnail
from drift.data.tables import Row
from drift.ground.artifacts import PROVENANCE, read_json, write_text

CARD = "README.md"
PICTURES = "card"
SAMPLES = 3
SHOWN_CHARACTERS = 1200
EXAMPLE_CHARACTERS = 160
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
STEPS = {"ingest": "", "generate": " --problems problems", "curate": " --problems problems --generations chains"}
"""The steps that lead to a training set, in their order, with what each is given."""
HOW = frozenset(
    [
        *("base_url", "api_key_env", "command", "checkpoints", "shards", "threads", "concurrency", "max_retries"),
        *("timeout_seconds", "start_timeout_seconds", "requests_per_minute", "tokens_per_minute", "price_per_million"),
        *("max_price", "tensor_parallel", "data_parallel", "gpu_memory_utilization", "max_num_seqs"),
    ]
)
"""Keys that say where and how fast it was made, and nothing about what."""


def write_card(folder: Path, *made_of: Path) -> None:
    """Write the card of the training set in ``folder``; ``made_of``: the problems and generations, for their settings.

    Raises DataError for a file of the folder that cannot be read.
    """
    settings = _settings(folder, *made_of)
    facts = list(known_rows(folder / tables.TRAIN_FILE, ("kind", "source", "pass_rate", "n_tokens", "teacher")))
    (folder / PICTURES).mkdir()
    parts = [
        _front(settings, len(facts)),
        "\n".join(_what(facts)),
        "\n".join(_made(settings)),
        "\n".join(_licence(settings)),
        "\n".join(_funnel(folder)),
        "\n".join(_histograms(folder, facts)),
        "\n".join(_samples(folder)),
        "\n".join(_rejects(folder)),
    ]
    write_text(folder / CARD, "\n\n".join(filter(None, parts)) + "\n")


def _settings(*folders: Path) -> dict[str, Any]:
    """The section of each step that led here, in the steps' order."""
    found = [read_json(folder / PROVENANCE) for folder in folders if (folder / PROVENANCE).is_file()]
    sections = {one["step"]: _public(one.get("config") or {}) for one in found}
    return {step: sections[step] for step in STEPS if step in sections}


def _public(value: Any) -> Any:
    """A setting without addresses, and with a file's name in place of its path on this machine."""
    if isinstance(value, Mapping):
        kept = {key: _public(inner) for key, inner in value.items() if key not in HOW}
        return {key: inner for key, inner in kept.items() if not _is_address(inner)}
    if isinstance(value, list):
        return [_public(inner) for inner in value if not _is_address(inner)]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and re.match(r"https?://", value) is not None


def _front(settings: Mapping[str, Any], rows: int) -> str:
    """The header by which the folder, pushed to a hub as it is, is found and loaded."""
    data = DatasetCardData(
        license=_said_licence(settings),
        task_categories=["image-text-to-text"],
        tags=["drift", "reasoning", "chain-of-thought", "multimodal"],
        size_categories=[next((name for limit, name in SIZES if rows < limit), "n>1M")],
        configs=[
            {"config_name": "default", "data_files": [{"split": "train", "path": tables.TRAIN_FILE}]},
            {"config_name": "rejects", "data_files": [{"split": "train", "path": tables.REJECTS_FILE}]},
        ],
    )
    return f"---\n{data.to_yaml()}\n---"


def _said_licence(settings: Mapping[str, Any]) -> str | None:
    return settings.get("curate", {}).get("license")


def _what(facts: list[Row]) -> Iterator[str]:
    direct = sum(row["kind"] == "direct" for row in facts)
    teachers = _named(facts, "teacher")
    yield f"# Chains of thought over {_named(facts, 'source') or 'images'}\n"
    yield f"{len(facts):,} rows for supervised fine-tuning of a vision-language model: {len(facts) - direct:,} chains"
    yield f"of thought in the form `<think>…</think> \\boxed{{…}}`{f', written by {teachers}' if teachers else ''}" + (
        f", and {direct:,} questions about perception with direct answers." if direct else "."
    )
    yield "Made with DRIFT ([arXiv 2510.15050](https://arxiv.org/abs/2510.15050)).\n"
    yield "| column | |\n|---|---|"
    yield "| `messages` | user and assistant; images stand before the user's text, or where `<image>` does |"
    yield "| `images` | as they came |"
    yield "| `answer` | the gold answer |"
    yield "| `pass_rate` | share of the teacher's samples that were right |"
    yield "| `n_tokens` | of the chain, by the teacher's tokenizer |"


def _named(facts: list[Row], column: str) -> str:
    names = Counter(Path(row[column]).name for row in facts if row[column])
    shown = ", ".join(f"`{name}`" for name, _ in names.most_common(SAMPLES))
    return shown + (f" and {len(names) - SAMPLES} more" if len(names) > SAMPLES else "")


def _made(settings: Mapping[str, Any]) -> Iterator[str]:
    """The settings as a file, and the commands that it is for."""
    if not settings:
        return
    outs = {"ingest": "problems", "generate": "chains", "curate": "training-set"}
    yield "## How it was made\n"
    yield from _fenced("".join(f"drift {step} -c settings.yaml{STEPS[step]} --out {outs[step]}\n" for step in settings))
    yield "with these settings, which leave out where a teacher was served and where files lay:\n"
    yield from _fenced(yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, width=110), "yaml")
    yield "The version of the code, and the hashes of what went in, are in `provenance.json`."


def _licence(settings: Mapping[str, Any]) -> Iterator[str]:
    yield "## Licence\n"
    if said := _said_licence(settings):
        yield f"`{said}`, as its makers say. Questions and images keep the licence of their source as well."
    else:
        yield "Not stated. Questions and images keep the licence of their source, and chains what the teacher's asks."


def _funnel(folder: Path) -> Iterator[str]:
    if not (folder / tables.FUNNEL_FILE).is_file():
        return
    yield "## Funnel\n\n| stage | in | out | left out, by reason |\n|---|---:|---:|---|"
    for stage in read_json(folder / tables.FUNNEL_FILE):
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in stage.get("reasons", {}).items())
        yield f"| {stage['stage']} | {stage['in']:,} | {stage['out']:,} | {reasons or '–'} |"


def _histograms(folder: Path, facts: list[Row]) -> Iterator[str]:
    shown = []
    for column, picture in plots.of_chains(facts):
        write_text(folder / PICTURES / f"{column}.svg", picture)
        shown.append(f"![{plots.LABELS[column]}]({PICTURES}/{column}.svg)")
    if shown:
        yield "## Difficulty and length\n"
        yield " ".join(shown)


def _samples(folder: Path) -> Iterator[str]:
    """The first chains: the rows lie in a seeded order."""
    chains = (
        row for row in known_rows(folder / tables.TRAIN_FILE, ("kind", "messages", "images")) if row["kind"] != "direct"
    )
    for number, row in enumerate(islice(chains, SAMPLES)):
        yield "" if number else "## Samples\n"
        for place, image in enumerate(first_images(row, folder)):
            name = f"{PICTURES}/sample-{number}-{place}.jpg"
            (folder / name).write_bytes(thumbnail(image))
            yield f"![image of sample {number + 1}]({name})\n"
        for turn in row["messages"] or []:
            yield f"{turn['role']}:\n"
            yield from _fenced(_cut(str(turn["content"]).replace(IMAGE, "[image]"), SHOWN_CHARACTERS))


def _rejects(folder: Path) -> Iterator[str]:
    if not (folder / tables.REJECTS_FILE).is_file():
        return
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for row in known_rows(folder / tables.REJECTS_FILE, ("stage", "reason", "text")):
        key = (str(row["stage"]), str(row["reason"]))
        counts[key] += 1
        examples.setdefault(key, row["text"] or "")
    if counts:
        yield f"## What was left out\n\nAll {counts.total():,} of it is in `{tables.REJECTS_FILE}`, with its text.\n"
        yield "| stage | reason | count | an example ends in |\n|---|---|---:|---|"
        for (stage, reason), count in counts.items():
            yield f"| {stage} | {reason} | {count:,} | {_cell(examples[stage, reason])} |"


def _fenced(text: str, language: str = "") -> Iterator[str]:
    """A block of code, whose fence is longer than any in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    yield f"{fence}{language}\n{text.strip()}\n{fence}\n"


def _cut(text: str, characters: int) -> str:
    return (
        text
        if len(text) <= characters
        else f"{text[:characters].rstrip()} … ({len(text) - characters:,} characters more)"
    )


def _cell(text: str) -> str:
    """The end of a text for a cell of a table, with nothing in it that Markdown or HTML would act on."""
    end = " ".join(text.split())[-EXAMPLE_CHARACTERS:]
    return re.sub(r"[^\w\s.,:;=+/()-]", lambda match: f"&#{ord(match[0])};", end).replace("_", "&#95;") or "–"
