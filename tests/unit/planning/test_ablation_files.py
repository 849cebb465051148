"""An ablation's file becomes cells and arms; every shipped one is planned, and every mistake is one line."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from drift.cli.app import app
from drift.config.gate import GateConfig
from drift.ground.errors import ConfigError
from drift.planning.ablation.budget import budget, sums
from drift.planning.ablation.expansion import NEVER, expand
from drift.planning.ablation.identity import result_identities
from drift.planning.costs import Assumptions

MINIATURE = Path("configs/miniature.yaml").resolve()
FILES = sorted(Path("configs/ablations").rglob("*.yaml"))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Checkpoints of the hub are not asked for."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def written(folder, **content):
    """A file of two scales and two strengths over the miniature, with ``content`` on top; None leaves a key out."""
    grid = {
        "name": "drift_{scale}_{alpha}",
        "axes": {"scale": ["grad_norm", "adaptive"], "alpha": [-1.0, -0.5]},
        "arm": {"train.prior.scale": "{scale}", "train.prior.alpha": "{alpha}", "delta": "base"},
    }
    raw = {
        "name": "scan",
        "base": str(MINIATURE),
        "arms": ["sft"],
        "grid": [grid],
        "table": {"title": "Scan", "against": "sft"},
    }
    kept = {key: value for key, value in {**raw, **content}.items() if value is not None}
    (folder / "scan.yaml").write_text(yaml.safe_dump(kept, sort_keys=False))
    return folder / "scan.yaml"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to("configs/ablations")))
def test_every_shipped_ablation_is_planned(path):
    planned = CliRunner().invoke(app, ["ablate", "plan", str(path), "--json"])
    assert planned.exit_code == 0, planned.exception
    content = json.loads(planned.stdout)
    assert content["total"]["evaluations"] > len(content["cells"])
    assert content["total"]["trainings"] + content["total"]["merges"] > 0


def test_a_grid_is_every_combination_beside_the_arms_that_stay(tmp_path):
    (cell,) = expand(written(tmp_path)).cells
    drifts = ["drift_grad_norm_-1.0", "drift_grad_norm_-0.5", "drift_adaptive_-1.0", "drift_adaptive_-0.5"]
    assert list(cell.config.arms) == ["sft", *drifts]
    prior = cell.config.arm_train("drift_grad_norm_-0.5").prior
    assert (prior.scale, prior.alpha) == ("grad_norm", -0.5)
    assert prior.schedule.kind == "projection", "what the axes do not say stays the base's"


def test_identical_arms_are_made_once_and_both_names_are_rows(tmp_path):
    (cell,) = expand(written(tmp_path, arms=["sft", "drift"])).cells
    assert cell.arms["drift_adaptive_-1.0"] == "drift"
    assert "drift_adaptive_-1.0" not in cell.config.arms
    assert cell.rows["drift_adaptive_-1.0"] == "drift"


def test_a_delta_that_no_arm_uses_is_not_made(tmp_path):
    assert list(expand(written(tmp_path)).cells[0].config.deltas) == ["base"]


def test_the_delta_that_a_merge_adds_is_made_and_known_by_its_content(tmp_path):
    added = {"merge": {"method": "delta", "delta": "paper", "weights": [1.0, 0.1]}}
    config = expand(written(tmp_path, changes={"arms": {"added": added}})).cells[0].config
    assert set(config.deltas) == {"base", "paper"}
    other = config.model_copy(update={"deltas": {**config.deltas, "paper": config.deltas["base"]}})
    assert result_identities(other)["added"] != result_identities(config)["added"]
    assert result_identities(other)["sft"] == result_identities(config)["sft"]


def test_a_cell_for_each_seed_and_label_with_rows_that_seeds_share(tmp_path):
    across = {"data": {"few": {"curate.keep": 100, "curate.min_kept": 50}, "many": {"arms.sft": None}}}
    ablation = expand(written(tmp_path, seeds=[3, 4], across=across, table={"title": "Data", "against": "vlm"}))
    assert [cell.name for cell in ablation.cells] == ["few-seed3", "few-seed4", "many-seed3", "many-seed4"]
    assert [cell.config.train.seed for cell in ablation.cells] == [3, 4, 3, 4]
    assert [cell.config.curate.keep for cell in ablation.cells] == [100, 100, 240, 240]
    assert "few/sft" in ablation.rows and "many/sft" not in ablation.rows
    assert len(ablation.rows) == (2 + 4) + (1 + 4), "vlm and the arms of either label"


def test_only_trainings_and_random_merges_draw_anew_where_the_file_says_so(tmp_path):
    merges = {name: {"merge": {"method": name, "weights": [1.0, 1.0]}} for name in ("dare_linear", "della", "ties")}
    changes = {"arms": merges}
    cells = expand(written(tmp_path, seeds=[5, 6], seeded="training", changes=changes)).cells
    assert [(cell.config.generate.seed, cell.config.train.seed) for cell in cells] == [(0, 5), (0, 6)]
    assert [[cell.config.arms[name].merge.seed for name in merges] for cell in cells] == [[5, 5, 0], [6, 6, 0]]


def test_no_cell_can_register_a_model_or_be_counted_at_the_bases(tmp_path):
    (cell,) = expand(written(tmp_path)).cells
    assert cell.config.gate.min_reasoning_gain == NEVER == 100
    assert cell.config.register_.model == "scan-ablation"
    assert expand(written(tmp_path)).gate.min_reasoning_gain == 5.0, "of the base, for the plots"
    assert isinstance(expand(written(tmp_path)).gate, GateConfig)


def test_what_cells_share_is_counted_once(tmp_path):
    costs = budget(expand(written(tmp_path, seeds=[0, 1], seeded="training")), Assumptions(tokens_per_second=100))
    assert [(one.trainings, one.evaluations) for one in costs] == [(5, 6), (5, 5)], "the baseline is scored once"
    first, second = (one.amounts["hours"] for one in costs)
    assert first.complete and second.known < first.known, "nor is the teacher asked again"
    assert sums(costs).amounts["hours"].known == pytest.approx(first.known + second.known)


def test_a_result_is_the_same_whatever_its_arm_and_run_are_called(tmp_path):
    config = expand(written(tmp_path)).cells[0].config
    renamed = config.model_copy(update={"arms": {"other": config.arms["sft"]}, "name": "elsewhere"})
    assert result_identities(renamed)["other"] == result_identities(config)["sft"]
    longer = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"limit": 3})})
    assert result_identities(longer)["sft"] != result_identities(config)["sft"]


GRID = {"name": "a", "axes": {"scale": ["adaptive"]}, "arm": {"train": {}, "delta": "base"}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"arms": ["sfd"]}, r"arms: the base has no arm 'sfd'; did you mean 'sft'\?"),
        ({"grids": []}, r"grids: unknown key; did you mean 'grid'\?"),
        ({"seeds": [1, 1]}, r"seeds: \[1, 1\] has one twice"),
        ({"base": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        ({"changes": {"arms": {"sfd": None}}}, r"changes: arms.sfd: null takes out .*did you mean 'sft'\?"),
        ({"changes": {"train": {"epoch": 3}}}, r"cell scan-seed0: train.epoch: unknown key; did you mean 'epochs'\?"),
        ({"table": {"title": "T", "against": "stf"}}, "cell seed0 has no arm 'stf'; did you mean 'sft'"),
        ({"table": {"title": "T", "columns": ["MiniMath9"]}}, "table.columns: no benchmark has 'MiniMath9'; did you"),
        ({"table": {"title": "T", "rows": ["x/sft"]}}, "table.rows: no cell has 'x/sft'; did you mean 'sft'"),
        ({"grid": [GRID | {"axes": {"scale": ["adaptive", "absolute"]}}]}, "'a' does not say which 'scale'"),
        ({"grid": [GRID | {"name": "a_{scael}"}]}, "'a_{scael}': 'scael' is no axis; known: scale"),
        ({"grid": [GRID, GRID | {"arm": {"train": {}}}]}, "there is another arm 'a'"),
        ({"grid": [GRID | {"arm": {"train.prior.scael": "x", "delta": "base"}}]}, "arms.a.train.prior.scael"),
        ({"grid": [GRID | {"name": "a/{scale}"}]}, "cell scan-seed0: arms.a/adaptive"),
    ],
    ids=str,
)  # fmt: skip
def test_a_mistake_in_a_file_is_one_line(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message) as raised:
        expand(written(tmp_path, **content))
    assert "\n" not in str(raised.value)


def test_published_rows_have_a_number_for_every_column(tmp_path):
    published = {"source": "a table", "columns": ["MiniRead"], "rows": {"sft": [1, 2]}}
    with pytest.raises(ConfigError, match=r"published.rows.sft: 2 numbers for 1 columns"):
        expand(written(tmp_path, table={"title": "T", "published": published}))


def test_overrides_reach_every_cell_and_can_take_an_arm_of_a_grid_out(tmp_path):
    cells = expand(written(tmp_path, seeds=[0, 1]), ["train.epochs=2", "~arms.drift_adaptive_-0.5"]).cells
    assert [cell.config.train.epochs for cell in cells] == [2, 2]
    assert "drift_adaptive_-0.5" not in cells[1].arms


def test_the_file_that_the_page_shows_is_what_the_page_says_of_it(tmp_path):
    page = Path("docs/ablations.md").read_text(encoding="utf-8")
    shown = page.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "shown.yaml").write_text(shown.replace("../miniature.yaml", str(MINIATURE)))
    cells = expand(tmp_path / "shown.yaml").cells
    assert "Here: 2 · 3 cells of 5 arms." in page
    assert [len(cell.config.arms) for cell in cells] == [5] * 6


def test_a_cell_can_be_run_by_its_name(tmp_path):
    ablation = expand(written(tmp_path, seeds=[0, 1, 2]))
    assert [cell.seed for cell in ablation.cells_named(["seed2", "seed0"])] == [0, 2]
    assert ablation.cells_named([]) == ablation.cells
    with pytest.raises(ConfigError, match=r"--cell: scan has no cell 'sed1'; did you mean 'seed1'\?"):
        ablation.cells_named(["sed1"])
