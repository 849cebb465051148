"""Embeddings and head of vocabularies of different size: Δ of the rows that all have, and nothing elsewhere."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel

from drift.config.models import DeltaConfig, ExpertConfig, MergeConfig
from drift.config.train import PriorConfig
from drift.ground.artifacts import write_json
from drift.ground.errors import CheckpointError
from drift.prior.prior import Prior
from drift.weights.delta.delta import DeltaReport, compute_delta
from drift.weights.delta.deltafile import load_delta, projection
from drift.weights.merging.merge import merge
from drift.weights.modeling import load_vlm
from drift.weights.pairing import plan
from drift.weights.vocabulary import tokens
from tests.tiny_models import Family, tiny_family

EMBED, HEAD = "embed_tokens.weight", "lm_head.weight"
ON_DISK = {EMBED: "model.embed_tokens.weight", HEAD: "lm_head.weight"}
BOTH = DeltaConfig(modules=("attn", "embed", "head"))
ROWS = 64
"""Of the family's VLM."""


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"))


def with_rows(model: Path, folder: Path, rows: int) -> Path:
    """The same model with another number of rows: cut, or with ones that no token of ``model`` has."""
    there = Path(shutil.copytree(model, folder))
    tensors = load_file(there / "model.safetensors")
    for name in ON_DISK.values():
        more = torch.full((max(0, rows - len(tensors[name])), 32), 9.0)
        tensors[name] = torch.cat([tensors[name][:rows], more])
    save_file(tensors, there / "model.safetensors", {"format": "pt"})
    config = json.loads((there / "config.json").read_text())
    write_json(there / "config.json", config | {"vocab_size": rows})
    return there


def name_tokens(model: Path, count: int, **changes: str) -> Path:
    """Give a model a tokenizer of so many tokens; ``changes`` by `t` and id."""
    words = {changes.get(f"t{place}", f"word{place}"): place for place in range(count - 1)}
    tokenizer = Tokenizer(WordLevel(words, unk_token=next(iter(words))))
    tokenizer.add_special_tokens([AddedToken(changes.get(f"t{count - 1}", f"word{count - 1}"))])
    tokenizer.save(str(model / "tokenizer.json"))
    return model


def computed(family: Family, out: Path, config: DeltaConfig = BOTH, **models: Path) -> DeltaReport:
    return compute_delta(config, **family.references | {role: str(path) for role, path in models.items()}, out=out)


def on_disk(model: Path) -> Mapping[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


@pytest.mark.parametrize("minus", ["vlm", "base"])
@pytest.mark.parametrize(("expert", "base", "common"), [(72, 64, 64), (60, 64, 60), (60, 50, 50), (64, 60, 60)])
def test_delta_is_of_the_rows_that_all_have(
    family: Family, tmp_path: Path, minus: str, expert: int, base: int, common: int
) -> None:
    models = {
        "expert": with_rows(family.expert, tmp_path / "e", expert),
        "base": with_rows(family.base, tmp_path / "b", base),
    }
    common = common if minus == "base" else min(expert, ROWS)
    report = computed(family, tmp_path / "delta", BOTH.model_copy(update={"minus": minus}), **models)
    other = family.vlm if minus == "vlm" else models["base"]
    delta = load_delta(tmp_path / "delta")
    for name, own in ON_DISK.items():
        found = delta.tensor(name)
        assert found.shape == (ROWS, 32)
        assert torch.equal(found[:common], (on_disk(models["expert"])[own][:common] - on_disk(other)[own][:common]))
        assert not found[common:].any()
        assert delta.stats[name]["vlm_l2"] == pytest.approx(float(on_disk(family.vlm)[own].norm()))
    said = [
        line
        for line in report.warnings
        if f"Δ is of the first {common} rows, which all have (vlm 64, e {expert}" in line
    ]
    assert len(said) == (2 if {expert, ROWS} | ({base} if minus == "base" else set()) != {ROWS} else 0)


def test_stretches_end_where_they_may(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expert = with_rows(family.expert, tmp_path / "e", 60)
    computed(family, tmp_path / "one", expert=expert)
    for module in ("delta.delta", "delta.stretches", "pairing"):
        monkeypatch.setattr(f"drift.weights.{module}.PIECE_ELEMENTS", 77)
    computed(family, tmp_path / "two", expert=expert)
    one, two = (load_file(tmp_path / name / "delta.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_several_experts_and_other_forms_have_nothing_in_the_other_rows(family: Family, tmp_path: Path) -> None:
    small, large = with_rows(family.expert, tmp_path / "s", 40), with_rows(family.base, tmp_path / "l", 80)
    experts = (ExpertConfig(model=str(small)), ExpertConfig(model=str(large), weight=0.5, minus=str(small)))
    for form in ({}, {"rank": 4}, {"dtype": "int8"}):
        config = BOTH.model_copy(update={"experts": experts, **form})
        computed(family, tmp_path / f"delta {form}", config)
        found = load_delta(tmp_path / f"delta {form}").tensor(EMBED)
        assert found[:40].any(dim=1).all()
        assert found[40:].abs().max() < 1e-6


def test_it_merges_and_projects_and_leaves_the_other_rows_alone(family: Family, tmp_path: Path) -> None:
    expert = with_rows(family.expert, tmp_path / "e", 60)
    computed(family, tmp_path / "delta", expert=expert)
    config = MergeConfig(method="delta", weights=(1, 1))
    merge(config, expert=None, vlm=str(family.vlm), base=None, delta=tmp_path / "delta", out=tmp_path / "merged")
    before, after = on_disk(family.vlm), on_disk(tmp_path / "merged")
    for own in ON_DISK.values():
        torch.testing.assert_close(after[own][:60], on_disk(expert)[own], rtol=0, atol=1e-6)
        assert torch.equal(after[own][60:], before[own][60:])
    assert projection(tmp_path / "merged", tmp_path / "delta") == pytest.approx(1, abs=1e-5)


def test_a_guided_step_moves_the_common_rows_along_it_alone(family: Family, tmp_path: Path) -> None:
    computed(family, tmp_path / "delta", expert=with_rows(family.expert, tmp_path / "e", 60))
    model, delta = load_vlm(family.vlm, dtype="float32").train(), load_delta(tmp_path / "delta")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    prior = Prior(PriorConfig(scale="absolute"), delta)
    assert prior.bind(model, optimizer).parameters == len(delta.names)
    before = model.get_input_embeddings().weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    prior.guide()
    optimizer.step()
    moved = model.get_input_embeddings().weight.detach() - before
    torch.testing.assert_close(moved, 0.5 * delta.tensor(EMBED) - 0.5e-3, rtol=0, atol=1e-6)  # −lr (g − Δ)
    assert delta.tensor(EMBED)[:60].any() and not delta.tensor(EMBED)[60:].any()


def test_merges_of_experts_keep_the_vlms_embeddings_and_head(family: Family, tmp_path: Path) -> None:
    expert = with_rows(family.expert, tmp_path / "e", 60)
    merge(MergeConfig(method="linear"), expert=str(expert), vlm=str(family.vlm), base=None, out=tmp_path / "merged")
    before, after = on_disk(family.vlm), on_disk(tmp_path / "merged")
    assert all(torch.equal(before[own], after[own]) for own in ON_DISK.values())


# -------------------------------------------------------------------------------------------- tokens


def token_models(family: Family, folder: Path, rows: int, ours: dict[str, Any], theirs: dict[str, Any]) -> Family:
    vlm = Path(shutil.copytree(family.vlm, folder / "vlm"))
    expert = with_rows(family.expert, folder / "expert", rows)
    return Family(family.base, name_tokens(expert, **theirs), name_tokens(vlm, **ours))


def warnings_of(family: Family, **config: Any) -> str:
    return "\n".join(plan(BOTH.model_copy(update=config), **family.references).warnings)


def test_equal_tokens_of_vocabularies_of_different_size_are_no_cause_for_words(family: Family, tmp_path: Path) -> None:
    own = token_models(family, tmp_path, 60, {"count": 62}, {"count": 60})
    assert tokens(own.vlm, 60) == tokens(own.expert, 60) == {place: f"word{place}" for place in range(60)}
    assert "token " not in warnings_of(own) and "tokens " not in warnings_of(own)


def test_another_token_in_a_common_row_is_refused_by_its_name_unless_forced(family: Family, tmp_path: Path) -> None:
    own = token_models(family, tmp_path, 60, {"count": 62}, {"count": 60, "t59": "<think>"})
    message = (
        r"expert: token 59 is '<think>', but 'word59' in .*vlm; select neither embed nor head \(force: true goes on\)"
    )
    with pytest.raises(CheckpointError, match=message):
        computed(own, tmp_path / "delta")
    assert not (tmp_path / "delta").exists()
    assert "token 59 is '<think>', but 'word59' in" in warnings_of(own, force=True)
    plan(DeltaConfig(), **own.references)  # of neither is asked


def test_another_token_in_vocabularies_of_one_size_is_warned_of(family: Family, tmp_path: Path) -> None:
    own = token_models(family, tmp_path, ROWS, {"count": 62}, {"count": 62, "t0": "<s>"})
    assert "token 0 is '<s>', but 'word0' in" in warnings_of(own)


def test_tokens_that_only_one_has_are_counted(family: Family, tmp_path: Path) -> None:
    own = token_models(family, tmp_path, 60, {"count": 62}, {"count": 55})
    assert "5 tokens that only one of" in warnings_of(own) and "('word55') are in Δ" in warnings_of(own)


def test_without_a_tokenizer_the_tokens_are_said_to_be_unknown(family: Family, tmp_path: Path) -> None:
    own = token_models(family, tmp_path, 60, {"count": 62}, {"count": 60})
    (own.expert / "tokenizer.json").unlink()
    assert "expert has no tokenizer.json: whether common rows" in warnings_of(own)
    (own.vlm / "tokenizer.json").write_text("{")
    name_tokens(own.expert, 60)
    with pytest.raises(CheckpointError, match=r"vlm/tokenizer\.json: does not load \(.*\); download it again"):
        warnings_of(own)
