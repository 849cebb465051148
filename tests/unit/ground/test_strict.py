"""JSON that every reader takes."""

import json
import math
from pathlib import Path

import pytest

from drift.ground.artifacts import write_json
from drift.ground.strict import strict_json

BROKEN = {"nan": math.nan, "deep": [1.5, (math.inf, {"x": -math.inf})], "text": "NaN", "none": None, "yes": True}
READ = {"nan": None, "deep": [1.5, [None, {"x": None}]], "text": "NaN", "none": None, "yes": True}


def test_numbers_that_are_none_are_null_wherever_they_stand() -> None:
    assert json.loads(strict_json(BROKEN), parse_constant=pytest.fail) == READ


def test_what_is_finite_is_written_as_python_writes_it() -> None:
    content = {"é": [0.1, 1e300, -0.0, 3], "b": {"c": ""}}
    for style in ({}, {"indent": 2, "ensure_ascii": False}, {"sort_keys": True}):
        assert strict_json(content, **style) == json.dumps(content, **style)


def test_what_is_no_json_is_still_refused() -> None:
    with pytest.raises(TypeError):
        strict_json({"set": {1}, "nan": math.nan})


def test_a_file_of_a_step_is_strict_json(tmp_path: Path) -> None:
    write_json(tmp_path / "report.json", BROKEN)
    assert json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail) == READ
