"""The whole chain from a published set of chains, in the form of DRIFT-TL-Distill-4K: registered, and no teacher."""

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from drift.ground.artifacts import read_provenance
from drift.planning.miniature import render, world
from drift.planning.miniature.world import Split
from tests.end_to_end import chain

CHAINS = 200


def write_set(folder: Path) -> Path:
    """The miniature's gold chains as LLaMA-Factory reads them: an array of messages, and a folder of images."""
    generator = random.Random(3)
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(CHAINS):
        scene = world.sample_scene(generator, Split.TRAIN)
        expression = world.sample_problem_in(scene, generator, generator.choice((2, 3)), Split.TRAIN)
        asked = world.compute(scene, expression, chain=True)
        image = folder / "images" / f"{number}.png"
        image.write_bytes(render.scene_png(scene, Split.TRAIN, generator))
        turns = [("user", f"<image>{asked.question}"), ("assistant", asked.answer)]
        messages = [{"role": role, "content": content} for role, content in turns]
        rows.append({"messages": messages, "images": [f"../{folder.name}/images/{number}.png"]})
    (folder / "train.json").write_text(json.dumps(rows, indent=2))
    return folder / "train.json"


@pytest.mark.slow
def test_a_run_from_a_ready_set_ends_registered_and_no_teacher_was_asked(tmp_path):
    source = write_set(tmp_path / "DRIFT-TL-Distill-4K")
    config = chain.write_config(tmp_path)
    raw = yaml.safe_load(config.read_text())
    raw |= {"ingest": {}, "generate": None, "curate": raw["curate"] | {"ready": str(source)}}
    raw["gate"]["confidence"] = 0.999  # after so short a training one perception benchmark falls with p = 0.015
    config.write_text(yaml.safe_dump(raw))

    result = chain.run(config)
    assert chain.worked(result) == set(chain.IN_ORDER)
    assert result["passed"] and result["registered"]["version"] == 1
    rows = pq.read_table(chain.newest(config, "train.parquet")).to_pylist()
    chains = [row for row in rows if row["kind"] == "cot"]
    assert len(chains) == 96 and {row["teacher"] for row in chains} == {f"ready: {source}"}
    drawn = read_provenance(chain.newest(config, "part-00000-00000.jsonl").parent)
    assert drawn["config"]["teacher"] == {"kind": "ready", "model": f"ready: {source}"}
