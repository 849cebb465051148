"""Weights that torch has pickled: read only if asked for, where they lie, and nothing but tensors."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from drift.cli.app import main
from drift.config.file import load
from drift.config.models import DeltaConfig, MergeConfig
from drift.ground.artifacts import write_json
from drift.ground.errors import CheckpointError
from drift.planning.outside import check_model
from drift.planning.sizing import headers
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import load_delta
from drift.weights.merging.merge import merge
from drift.weights.storage.checkpoints import Checkpoint
from drift.weights.storage.files import PICKLED, PICKLED_INDEX, SINGLE
from drift.weights.storage.pickled import Pickled, model_at
from tests.tiny_models import Family, tiny_family
from tests.world import EXPERT

from transformers import Qwen2ForCausalLM  # isort: skip  # after tiny_models has made torchvision importable

MINIATURE = Path(__file__).parents[3] / "configs" / "miniature.yaml"
ALLOWED = {"allow_pickle": True}
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"), dtype=torch.bfloat16)


@pytest.fixture
def pickled(family: Family, tmp_path: Path) -> Path:
    """The expert as an older transformers saved it."""
    return in_torchs_format(family.expert, tmp_path / "pickled")


def in_torchs_format(source: Path, path: Path) -> Path:
    shutil.copytree(source, path)
    torch.save(load_file(path / SINGLE), path / PICKLED)
    (path / SINGLE).unlink()
    return path


def in_shards(path: Path) -> None:
    tensors = torch.load(path / PICKLED, weights_only=True)
    names, parts = list(tensors), ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    for place, part in enumerate(parts):
        torch.save({name: tensors[name] for name in names[place::2]}, path / part)
    where = {name: parts[i % 2] for i, name in enumerate(names)}
    write_json(path / PICKLED_INDEX, {"metadata": {}, "weight_map": where})
    (path / PICKLED).unlink()


def test_every_tensor_is_the_one_that_transformers_loads(family: Family, pickled: Path) -> None:
    # transformers 5.23, modeling_utils.py, lines 606-620, _get_resolved_checkpoint_files: after safetensors, the single
    # pytorch_model.bin, then its index.
    for arrange in (lambda path: None, in_shards):
        arrange(pickled)
        loaded, model = Qwen2ForCausalLM.from_pretrained(pickled).state_dict(), Pickled(pickled)
        safe = Checkpoint(family.expert)
        assert loaded.keys() == model.tensors.keys()
        for name, tensor in loaded.items():
            pieces = [piece.clone() for piece in model.pieces(name, 100)]
            assert torch.equal(model.tensor(name), tensor)
            assert torch.equal(torch.cat(pieces).view(tensor.shape), tensor)
            assert torch.equal(model.first_rows(name, 64), safe.first_rows(name, 64))


@pytest.mark.parametrize("arrange", [lambda path: None, in_shards])
def test_delta_and_merge_are_those_of_the_same_weights_in_safetensors(
    family: Family, pickled: Path, tmp_path: Path, arrange: object
) -> None:
    arrange(pickled)  # type: ignore[operator]
    base = in_torchs_format(family.base, tmp_path / "base")
    models = {"expert": str(pickled), "vlm": str(family.vlm), "base": str(base)}
    compute_delta(DeltaConfig(minus="base", **ALLOWED), **models, out=tmp_path / "delta")
    compute_delta(DeltaConfig(minus="base"), **family.references, out=tmp_path / "same")
    first, second = load_delta(tmp_path / "delta"), load_delta(tmp_path / "same")
    assert first.names == second.names
    assert all(torch.equal(first.tensor(name), second.tensor(name)) for name in first.names)
    merge(MergeConfig(method="ties", **ALLOWED), **models, out=tmp_path / "merged")
    merge(MergeConfig(method="ties"), **family.references, out=tmp_path / "same_merged")
    assert (tmp_path / "merged" / SINGLE).read_bytes() == (tmp_path / "same_merged" / SINGLE).read_bytes()


@pytest.mark.parametrize("command", [["delta"], ["merge", "--method", "linear"]])
def test_without_the_flag_a_command_refuses_on_a_line_that_names_it(
    family: Family, pickled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    words = [*command, "--expert", str(pickled), "--vlm", str(family.vlm), "--out", str(tmp_path / "out"), "--dry-run"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--allow-pickle (allow_pickle: true)" in said and "Traceback" not in said
    with pytest.raises(SystemExit) as ended:
        main([*words, "--allow-pickle", "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["tensors"] > 0


def test_the_vlm_is_refused_with_the_flag_too(family: Family, tmp_path: Path) -> None:
    models = {**family.references, "vlm": str(in_torchs_format(family.vlm, tmp_path / "vlm"))}
    with pytest.raises(CheckpointError, match="convert it to safetensors first"):
        merge(MergeConfig(method="linear", **ALLOWED), **models, out=tmp_path / "merged")
    with pytest.raises(CheckpointError, match="convert it to safetensors first"):
        compute_delta(DeltaConfig(**ALLOWED), **models, out=tmp_path / "delta")


@pytest.mark.parametrize("key", ["deltas.paper.allow_pickle", "arms.merged.merge.allow_pickle"])
def test_the_checks_before_a_run_read_it_where_a_delta_or_a_merge_may(tmp_path: Path, key: str) -> None:
    expert = str(in_torchs_format(EXPERT, tmp_path / "expert"))
    words = [f"models.expert={expert}", "arms.merged.merge.method=linear"]
    plain, allowed = load(MINIATURE, words), load(MINIATURE, [*words, f"{key}=true"])
    assert headers(plain.models, allow_pickle=plain.allow_pickle) is None
    assert headers(allowed.models, allow_pickle=allowed.allow_pickle) is not None
    with pytest.raises(CheckpointError, match="--allow-pickle"):
        check_model("models.expert", expert, allow_pickle=plain.allow_pickle)
    check_model("models.expert", expert, allow_pickle=allowed.allow_pickle)


def test_safetensors_are_read_where_both_are(family: Family, pickled: Path) -> None:
    shutil.copy(family.expert / SINGLE, pickled)
    assert type(model_at(pickled, allow_pickle=True)) is Checkpoint


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.path,))  # type: ignore[return-value]


def test_code_in_the_file_is_refused_and_not_run(pickled: Path, tmp_path: Path) -> None:
    torch.save({UP: Runs(tmp_path / "was run")}, pickled / PICKLED)
    with pytest.raises(CheckpointError, match="torch's weights-only loader refuses it") as raised:
        Pickled(pickled)
    assert str(pickled / PICKLED) in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "was run").exists()


def rewritten(file: Path, method: int = zipfile.ZIP_STORED, byteorder: bytes | None = None) -> None:
    """Its entries written anew by zipfile, one of them changed where that is given."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, byteorder if byteorder and name.endswith("/byteorder") else content)


def compressed(file: Path) -> None:
    rewritten(file, zipfile.ZIP_DEFLATED)


def packed_anew(file: Path) -> None:
    """Not compressed, but no tensor where torch expects it, which reckons places and does not look."""
    rewritten(file)


def of_the_other_order(file: Path) -> None:
    rewritten(file, byteorder=b"big")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def older(file: Path) -> None:
    torch.save({UP: torch.zeros(2)}, file, _use_new_zipfile_serialization=False)


def of_other_things(file: Path) -> None:
    torch.save({UP: torch.zeros(2), "epoch": 3}, file)


def nested(file: Path) -> None:
    torch.save({"state_dict": {UP: torch.zeros(2)}}, file)


def a_list(file: Path) -> None:
    torch.save([torch.zeros(2)], file)


def turned(file: Path) -> None:
    torch.save({UP: torch.zeros(2, 3).T}, file)


def no_zip(file: Path) -> None:
    file.write_bytes(pickle.dumps({"a": 1}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (compressed, "compressed, or in another order of bytes"),
        (of_the_other_order, "compressed, or in another order of bytes"),
        (packed_anew, "does not lie in the file as plain numbers"),
        (cut, "cut off"),
        (older, "no file of torch.save"),
        (of_other_things, "'epoch' is no tensor, but int"),
        (nested, "'state_dict' is no tensor, but dict"),
        (a_list, "holds no tensors by name, but list"),
        (turned, f"'{UP}' does not lie in the file as plain numbers"),
        (no_zip, "no file of torch.save"),
    ],
)
def test_what_is_no_plain_file_of_tensors_is_refused_on_one_line(pickled: Path, damage: object, message: str) -> None:
    damage(pickled / PICKLED)  # type: ignore[operator]
    with pytest.raises(CheckpointError) as raised:
        Pickled(pickled)
    assert message in str(raised.value)
    assert str(pickled / PICKLED) in str(raised.value) and "\n" not in str(raised.value)


def test_a_shard_that_is_missing_is_named(pickled: Path) -> None:
    in_shards(pickled)
    (pickled / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"shard 'pytorch_model-00002-of-00002[.]bin' is missing"):
        Pickled(pickled)


def test_views_of_one_storage_are_read_each_from_its_own_place(pickled: Path) -> None:
    whole = torch.arange(24, dtype=torch.float32).view(4, 6)
    torch.save({"whole": whole, "below": whole[1:3], "number": torch.tensor(3.0)}, pickled / PICKLED)
    model = Pickled(pickled)
    for name, expected in (("below", whole[1:3]), ("number", torch.tensor(3.0)), ("whole", whole)):
        assert torch.equal(next(model.pieces(name, 100)).view(expected.shape), expected)
        assert torch.equal(model.tensor(name), expected)
