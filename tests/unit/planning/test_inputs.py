"""What lies outside is hashed by its contents; the hub's revisions, and a run that knows its inputs, need no hash."""

from pathlib import Path

import pytest

from drift.config.data import IngestConfig, ReplayConfig
from drift.config.models import DeltaConfig, ModelsConfig
from drift.config.plan import DeltasStep, InputsStep
from drift.ground.errors import ConfigError
from drift.planning.inputs import InputsReport, look


@pytest.fixture
def there(tmp_path: Path) -> Path:
    for name in ("vlm", "expert", "base", "own", "mine", "code"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    for name in ("pool.jsonl", "replay.jsonl", "Bench.tsv"):
        (tmp_path / name).write_text("{}\n")
    return tmp_path


def outside(at: Path, *, hashed: bool = False, start: str | None = None, source: str | None = None) -> InputsStep:
    own = DeltaConfig(minus=str(at / "own"))
    return InputsStep(
        ingest=IngestConfig(source=source or str(at / "pool.jsonl")),
        replay=ReplayConfig(source=str(at / "replay.jsonl")),
        against=(str(at / "Bench.tsv"),),
        deltas=DeltasStep(
            models=ModelsConfig(vlm=str(at / "vlm"), expert=str(at / "expert"), base=str(at / "base")),
            deltas={"paper": DeltaConfig(), "own": own},
        ),
        start=start,
        experts=(str(at / "code"),),
        hashed=hashed,
    )


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("pool.jsonl", "pool"),
        ("replay.jsonl", "replay"),
        ("Bench.tsv", "replay"),
        ("vlm/config.json", "models"),
        ("expert/config.json", "models"),
        ("base/config.json", "models"),
        ("own/config.json", "models"),
        ("mine/config.json", "models"),
        ("code/config.json", "models"),
    ],
)
def test_new_contents_under_an_old_path_change_the_hash_of_what_they_are(there: Path, path: str, changed: str) -> None:
    step = outside(there, start=str(there / "mine"))
    before = look(step)
    assert before == look(step)
    (there / path).write_text('{"other": 1}\n')
    after = look(step)
    assert [name for name in vars(before) if getattr(before, name) != getattr(after, name)] == [changed]


def test_a_dataset_of_the_hub_has_no_hash(there: Path) -> None:
    report = look(outside(there, source="owner/name"))
    assert report.pool == "" and report.models
    assert report.metrics() == {"inputs/hashed": 2.0}


def test_where_the_parameters_say_it_nothing_is_hashed_again(tmp_path: Path) -> None:
    assert look(outside(tmp_path / "nowhere", hashed=True)) == InputsReport()


def test_what_is_missing_where_the_step_runs_is_named(there: Path) -> None:
    with pytest.raises(ConfigError, match=r"^models\.start: '.*/gone' does not exist"):
        look(outside(there, start=str(there / "gone")))
