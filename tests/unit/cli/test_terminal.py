"""What the reading commands print on a narrow terminal: every number of a wide one, whole; what came of it last."""

from __future__ import annotations

from pathlib import Path

import pytest

from drift.cli import show
from drift.cli.app import main
from drift.cli.show import show_records, show_table, show_verdict
from drift.config.models import DeltaConfig
from drift.tracking.models.versions import Version
from drift.weights.delta.delta import compute_delta
from tests.run_folders import past_run
from tests.score_folders import write_score_folder
from tests.world import EXPERT, VLM, training_set

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

ROOT = Path(__file__).parents[3]
ABLATION = ROOT / "configs" / "ablations" / "miniature" / "main.yaml"
NARROW, WIDE = 80, 400


class Terminal:
    """`drift ARGUMENTS` on a terminal of so many columns: what it prints, line by line."""

    def __init__(self, captured: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.captured, self.monkeypatch = captured, monkeypatch

    def __call__(self, *arguments: str, width: int = NARROW) -> list[str]:
        self.monkeypatch.setattr(show.out, "width", width)
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        said = self.captured.readouterr()
        assert ended.value.code in (None, 0, 3), said.err
        return said.out.splitlines()

    def compared(self, *arguments: str) -> list[str]:
        """The narrow lines, in which nothing is cut of what the wide ones say."""
        wide, narrow = self(*arguments, width=WIDE), self(*arguments)
        wide = [line for line in wide if " GB free below " not in line]  # which may change meanwhile
        require_whole(wide, narrow)
        return narrow


def require_whole(wide: list[str], narrow: list[str]) -> None:
    """Every word with a digit is there whole, nothing ends in an ellipsis, and no table is wider than the terminal."""
    numbers, shown = ({word for line in lines for word in line.split()} for lines in (wide, narrow))
    assert {word for word in numbers if any(map(str.isdigit, word))} <= shown
    assert not [line for line in narrow if "…" in line]
    assert max((len(line) for line in narrow if "─" in line), default=0) <= NARROW


@pytest.fixture
def drift(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.chdir(ROOT)
    return Terminal(capsys, monkeypatch)


@pytest.fixture
def scores(tmp_path: Path) -> dict[str, str]:
    right = {"vlm": "1000" * 12, "drift": "1101" * 12}
    return {
        name: str(write_score_folder(tmp_path / name, {"Sums": marks, "Colours": "1110" * 12}))
        for name, marks in right.items()
    }


def test_past_runs(drift: Terminal, tmp_path: Path) -> None:
    name = "apply_step_vs_backward-miniature"
    runs = [past_run(tmp_path, name=name, started=f"2026-11-0{day}T1{day}:00:00+00:00") for day in (1, 2)]
    first, second = (run.path.name for run in runs)
    assert first in " ".join(drift.compared("runs", "list", "--runs", str(tmp_path)))
    assert drift.compared("runs", "show", first, "--runs", str(tmp_path))[-1] == "status            finished"
    compared = drift.compared("runs", "compare", first, second, "--runs", str(tmp_path))
    assert compared[-1] == f"second            {second}: drift passed"
    assert "freed" in drift.compared("clean", "--keep", "1", "--dry-run", "--runs", str(tmp_path))[-1]


def test_two_models_end_with_how_far_they_are_apart(drift: Terminal, scores: dict[str, str]) -> None:
    reasoning, perception = drift.compared("compare", scores["drift"], scores["vlm"])[-2:]
    assert reasoning.startswith("reasoning: drift is +50.0 points (") and "from vlm, p = " in reasoning
    assert perception.startswith("perception: drift is +0.0 points (")


def test_a_gate_says_every_reason_the_verdict_and_where_it_is(
    drift: Terminal, scores: dict[str, str], tmp_path: Path
) -> None:
    given = ("--candidate", scores["drift"], "--baseline", scores["vlm"], "--runs", str(tmp_path / "runs"))
    *reasons, verdict, place = drift("gate", *given, "resamples=200", "--out", str(tmp_path / "gate"))
    assert all(line.startswith(("  ✓ ", "  ✗ ")) for line in reasons) and len(reasons) >= 8
    assert any(line.startswith("  ✗ ") for line in reasons) and verdict == "gate: drift was refused"
    assert place == f"written to {tmp_path / 'gate' / 'gate.md'}" and Path(place.split()[-1]).is_file()


def test_a_plan_ends_with_what_it_costs(drift: Terminal) -> None:
    assert drift.compared("plan")[-1].startswith("together: ≤ 3.")
    assert drift.compared("ablate", "plan", str(ABLATION))[-1].split()[:5] == ["all", "27", "12", "9", "22"]


def test_the_table_of_an_ablation_ends_with_the_roles(drift: Terminal, tmp_path: Path) -> None:
    last = drift.compared("ablate", "table", str(ABLATION), f"runs={tmp_path}")
    assert last[-1].split() == ["dare_linear", "—", "—", "—"]
    assert [line.split() for line in last if line.startswith("method")][-1][1] == "perception"


def test_a_prior_and_a_training_set(drift: Terminal, tmp_path: Path) -> None:
    delta = tmp_path / "delta"
    compute_delta(DeltaConfig(), expert=str(EXPERT), vlm=str(VLM), base=None, out=delta)
    assert any(line.endswith(str(delta)) for line in drift.compared("deltas", "show", str(delta)))
    page = tmp_path / "rows.html"
    said = drift("data", "show", str(training_set(tmp_path / "training", 20)), "--out", str(page))
    assert said[-1].endswith(f"written to {page}") and page.is_file()


def test_versions_of_a_model(drift: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    against = "was rolled back by ada, 2026-11-27 22:05 (invents sources of the kind that nobody has ever seen)"
    mean = "88.7 (85.6 to 91.0)"
    version = Version(12, ["best", "candidate", "champion"], "merge_then_sft", mean, mean, "passed", against, "12 d")
    lines = {}
    for width in (WIDE, NARROW):
        drift.monkeypatch.setattr(show.out, "width", width)
        show_records([version], as_json=False)
        lines[width] = capsys.readouterr().out.splitlines()
    require_whole(lines[WIDE], lines[NARROW])
    assert sum("─" in line for line in lines[WIDE]) == 1 < sum("─" in line for line in lines[NARROW])
    assert all(mean in " ".join(lines[width]) for width in lines)


def test_a_table_of_many_columns_is_several_tables(drift: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    heads = ["model", *(f"Benchmark_{number}" for number in range(10))]
    drift.monkeypatch.setattr(show.out, "width", NARROW)
    show_table(heads, [[name, *(f"{number}.5" for number in range(10))] for name in ("vlm", "drift")], right=heads[1:])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "─" not in line] == ["model", "vlm", "drift"] * 2
    assert [word for line in lines if line.startswith("drift") for word in line.split()[1:]] == [
        f"{number}.5" for number in range(10)
    ]
    assert max(map(len, lines)) <= NARROW


def test_a_terminal_breaks_no_number_of_a_reason(drift: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    drift.monkeypatch.setattr(show.out, "width", NARROW)
    detail = (
        "Reasoning rose by 69.6 points; with 95% confidence over 60 looks by at least +62.3, above the 5.0 asked for."
    )
    show_verdict("drift", True, [{"passed": True, "detail": detail}])
    assert f"  ✓ {detail}" in capsys.readouterr().out.splitlines(), "one line, elsewhere"
    drift.monkeypatch.setattr(show.out, "_force_terminal", True)
    show_verdict("drift", True, [{"passed": True, "detail": detail}])
    *reason, verdict = capsys.readouterr().out.splitlines()
    assert len(reason) == 2 and max(map(len, reason)) <= NARROW and verdict == "gate: drift passed"
    assert " ".join(" ".join(reason).split()) == f"✓ {detail}"
