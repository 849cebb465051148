"""What `--json` prints is JSON, whatever the numbers are."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from drift.cli.show import show_judged, show_record, show_report


@dataclass(frozen=True)
class Broken:
    """A report of numbers that are none."""

    share: float = math.nan

    def metrics(self) -> dict[str, float]:
        return {"share": self.share, "limit": math.inf, "n": 3.0}


def test_a_report_of_nan_is_printed_as_null(capsys: pytest.CaptureFixture[str]) -> None:
    show_report(Broken(), Path("out"), True)
    printed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert printed == {"out": "out", "share": None, "limit": None, "n": 3.0}


def test_a_record_of_nan_is_printed_as_null(capsys: pytest.CaptureFixture[str]) -> None:
    show_record(Broken(), True)
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"share": None}


def test_counts_of_verdicts_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    show_judged("", {"accuracy": math.nan}, None, True)
    assert json.loads(capsys.readouterr().err, parse_constant=pytest.fail) == {"accuracy": None}
