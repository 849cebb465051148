"""Every kind of broken or mismatched pair of checkpoints: one line that names it, exit code 2, and no output."""

import json
import math
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from drift.cli.app import main
from drift.ground.artifacts import write_json
from drift.weights.storage.files import INDEX
from tests.tiny_models import Family, tiny_family, tiny_llm, tiny_vlm

WEIGHTS = "model.safetensors"
SHARD = "model-00001.safetensors"
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"))


def config(model: Path, **changes: object) -> None:
    content = json.loads((model / "config.json").read_text())
    write_json(model / "config.json", {**content, **changes})


def rewrite(model: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(model / WEIGHTS)
    change(tensors)
    save_file(tensors, model / WEIGHTS, {"format": "pt"})


def header(model: Path, change: Callable[[dict[str, dict[str, object]]], object]) -> None:
    """Change the header in place, without moving a byte of data."""
    content = (model / WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + length])
    change(entries)
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (length - len(text))
    assert len(text) == length
    (model / WEIGHTS).write_bytes(content[:8] + text + content[8 + length :])


def swap_offsets(entries: dict[str, dict[str, object]]) -> None:
    """Two tensors of different size claim each other's bytes."""
    norm, up = entries["model.norm.weight"], entries[UP]
    norm["data_offsets"], up["data_offsets"] = up["data_offsets"], norm["data_offsets"]


def overlap(entries: dict[str, dict[str, object]]) -> None:
    gate = entries["model.layers.1.mlp.gate_proj.weight"]
    entries[UP]["data_offsets"] = gate["data_offsets"]


def transpose_shape(entries: dict[str, dict[str, object]]) -> None:
    entries[UP]["shape"] = list(reversed(entries[UP]["shape"]))  # type: ignore[call-overload]


def set_value(name: str, value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors[name].view(-1)[3].fill_(value)


def shards(model: Path, **index: object) -> None:
    """The single file, which comes before any index, becomes a shard."""
    (model / WEIGHTS).rename(model / SHARD)
    write_json(model / INDEX, index)


def cut(model: Path, keep: Callable[[int], int]) -> None:
    os.truncate(model / WEIGHTS, keep((model / WEIGHTS).stat().st_size))


def only(model: Path, name: str) -> None:
    (model / WEIGHTS).rename(model / name)


# What is done to a copy of the expert, and what the one line says.
EXPERTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing folder": (shutil.rmtree, "no such directory"),
    "no config.json": (lambda m: (m / "config.json").unlink(), "no config.json"),
    "config.json is no JSON": (lambda m: (m / "config.json").write_text("{"), "not JSON"),
    "no weights": (lambda m: (m / WEIGHTS).unlink(), "no weights"),
    "only .bin": (lambda m: only(m, "pytorch_model.bin"), "convert it to safetensors"),
    "only .gguf": (lambda m: only(m, "model-q4.gguf"), "convert it to safetensors"),
    "an adapter of another kind": (
        lambda m: (write_json(m / "adapter_config.json", {"peft_type": "IA3"}), only(m, "adapter_model.safetensors")),
        "merge it into its base",
    ),
    "missing shard": (lambda m: shards(m, weight_map={UP: "model-2.safetensors"}), "'model-2.safetensors' is missing"),
    "index names what is not there": (lambda m: shards(m, weight_map={"ghost": SHARD}), "'ghost' is in"),
    "index without a map": (shards, "has no weight_map"),
    "truncated data": (lambda m: cut(m, lambda size: size - 10), "cut off"),
    "truncated header": (lambda m: cut(m, lambda size: 100), "cut off in its header"),
    "empty file": (lambda m: cut(m, lambda size: 0), "no safetensors file"),
    "git-lfs pointer": (lambda m: (m / WEIGHTS).write_text("version https://git-lfs"), "no safetensors file"),
    "header swaps offsets": (lambda m: header(m, swap_offsets), "the header lies about"),
    "header overlaps tensors": (lambda m: header(m, overlap), "the header lies about"),
    "header transposes a shape": (lambda m: header(m, transpose_shape), "does not fit"),
    "other depth": (lambda m: tiny_llm(m, num_hidden_layers=3), "num_hidden_layers: 3"),
    "other hidden size": (lambda m: tiny_llm(m, hidden_size=64), "hidden_size: 64"),
    "other MLP width": (lambda m: tiny_llm(m, intermediate_size=40), "intermediate_size: 40"),
    "other number of heads": (lambda m: tiny_llm(m, num_attention_heads=2), "num_attention_heads: 2"),
    "other number of key heads": (lambda m: tiny_llm(m, num_key_value_heads=4), "num_key_value_heads: 4"),
    "other activation": (lambda m: config(m, hidden_act="gelu"), "hidden_act: gelu"),
    "renumbered layers": (lambda m: config(m, cross_attention_layers=[1]), "cross-attention layers"),
    "quantised": (
        lambda m: config(m, quantization_config={"quant_method": "gptq"}), "quantised (gptq)",
    ),
    "eight-bit tensor": (
        lambda m: rewrite(m, lambda t: t.update({UP: torch.zeros(48, 32, dtype=torch.int8)})), "is I8",
    ),
    "a projection is missing": (
        lambda m: rewrite(m, lambda t: t.pop("model.layers.1.self_attn.q_proj.bias")), "q_proj.bias'",
    ),
    "a norm more": (
        lambda m: rewrite(m, lambda t: t.update({"model.layers.1.self_attn.q_proj.extra.bias": torch.ones(8)})),
        "no tensor of this name",
    ),
    "no decoder at all": (lambda m: rewrite(m, lambda t: [t.pop(n) for n in list(t) if "layers" in n]), "text decoder"),
    "NaN": (lambda m: rewrite(m, set_value(UP, math.nan)), "NaN or infinity"),
    "infinity": (lambda m: rewrite(m, set_value(UP, math.inf)), "NaN or infinity"),
    "unrelated weights": (lambda m: tiny_llm(m, seed=99), "not fine-tunes of one base"),
}  # fmt: skip
MERGED_ANYWAY = {"a norm more"}
"""Merging names a tensor too many by another rule."""


def refusal(capsys: pytest.CaptureFixture[str], out: Path, arguments: list[str]) -> str:
    """What is said; one line, exit code 2, nothing at `out` or beside it."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--out", str(out)])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("drift: ")]
    assert end.value.code == 2
    assert len(lines) == 1
    assert not list(out.parent.glob(f"{out.name}*"))
    return lines[0]


def test_the_table_has_at_least_25_kinds() -> None:
    assert len(EXPERTS) >= 25


@pytest.mark.parametrize("kind", EXPERTS)
def test_a_delta_of_a_bad_expert_is_refused(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    damage, message = EXPERTS[kind]
    expert = Path(shutil.copytree(family.expert, tmp_path / "expert"))
    damage(expert)
    delta = ["delta", "--expert", str(expert), "--vlm", str(family.vlm)]
    if kind == "a norm more":
        delta += ["--modules", "re:."]
    assert message in refusal(capsys, tmp_path / "out", delta)


@pytest.mark.parametrize("kind", [kind for kind in EXPERTS if kind not in MERGED_ANYWAY])
def test_a_merge_with_a_bad_expert_is_refused(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    damage, message = EXPERTS[kind]
    expert = Path(shutil.copytree(family.expert, tmp_path / "expert"))
    damage(expert)
    merge = ["merge", "--method", "linear", "--expert", str(expert), "--vlm", str(family.vlm)]
    assert message in refusal(capsys, tmp_path / "out", merge)


ARGUMENTS = {
    "same model twice": (["--expert", "{vlm}"], "identical"),
    "a text model as the VLM of another family": (["--vlm", "{deep}"], "num_hidden_layers"),
    "unknown module": (["--modules", "atn"], "modules"),
    "pattern that selects nothing": (["--modules", "re:nothing"], "selects no tensor"),
    "pattern that is none": (["--modules", "re:["], "no regular expression"),
    "layer out of range": (["--layers", "2"], "layer 2"),
    "layers that are none": (["--layers", "a-b"], "no layer or range"),
    "minus a base that is not given": (["--minus", "base"], "needs models.base"),
    "minus a checkpoint that is not there": (["--minus", "/none/model"], "/none/model"),
    "a hub id out of reach": (["--expert", "drift-tests/no-such-model"], "out of reach"),
    "a file as a model": (["--expert", "{expert}/config.json"], "give the model's directory"),
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_a_delta_with_a_bad_argument_is_refused(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    changed, message = ARGUMENTS[kind]
    places = {"expert": family.expert, "vlm": family.vlm, "deep": tiny_vlm(tmp_path / "deep", num_hidden_layers=3)}
    options = {"--expert": str(family.expert), "--vlm": str(family.vlm)}
    options |= {changed[0]: changed[1].format(**places)}
    assert message in refusal(capsys, tmp_path / "out", ["delta", *(part for pair in options.items() for part in pair)])


@pytest.mark.parametrize("command", [["delta"], ["merge", "--method", "linear"]])
def test_a_disk_without_room_is_told_and_leaves_nothing(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        models = ["--expert", str(family.expert), "--vlm", str(family.vlm)]
        assert "no room for" in refusal(capsys, tmp_path / "out", [*command, *models])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("command", [["delta"], ["merge", "--method", "linear"]])
def test_an_output_that_exists_is_left_alone(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(SystemExit) as end:
        main([*command, "--expert", str(family.expert), "--vlm", str(family.vlm), "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "precious"]
