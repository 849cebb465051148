"""The text decoder in every family people have: on disk, at run time, and in a Δ; and the families that are refused.

The oracle is transformers' own `get_decoder()`. `docs/families.md` is written by the last test: `make golden`.
"""

import functools
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from drift.config.models import DeltaConfig, MergeConfig
from drift.ground.errors import CheckpointError
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import load_delta
from drift.weights.merging.merge import merge
from drift.weights.naming.layout import explain_missing
from drift.weights.storage.checkpoints import Checkpoint, match_parameters, pair_decoders
from drift.weights.storage.mixture import layout_of
from tests.model_families import DOCUMENT, FAMILIES, MIXTURES, REFUSED, ModelFamily, written_parts

ALL = DeltaConfig(modules=("attn", "mlp", "norm", "head", "embed"))


@dataclass(frozen=True)
class Built:
    """A family's two models, in memory and on disk."""

    vlm: Any
    expert: Any
    folder: tempfile.TemporaryDirectory[str]

    @property
    def references(self) -> dict[str, str | None]:
        return {"expert": f"{self.folder.name}/expert", "vlm": f"{self.folder.name}/vlm", "base": None}


@functools.cache
def built(name: str) -> Built:
    family = {**FAMILIES, **MIXTURES}[name]
    vlm = family.build_vlm()
    expert = family.build_expert(vlm)
    folder = tempfile.TemporaryDirectory()
    family.save_vlm(vlm, Path(folder.name) / "vlm")
    expert.save_pretrained(Path(folder.name) / "expert")
    return Built(vlm, expert, folder)


def decoder(model: Any) -> dict[str, torch.nn.Parameter]:
    """The oracle: canonical names, by transformers' own account of what the decoder and the head are."""
    return {**dict(model.get_decoder().named_parameters()), "lm_head.weight": model.get_output_embeddings().weight}


@pytest.mark.parametrize("name", FAMILIES)
def test_names_from_headers_are_those_of_the_running_decoder(name: str) -> None:
    models = built(name)
    on_disk = Checkpoint(models.references["vlm"] or "")
    partners = pair_decoders(Checkpoint(models.references["expert"] or ""), on_disk)
    expected = decoder(models.vlm)
    assert set(partners) == set(expected)
    assert all(torch.equal(on_disk.tensor(own), expected[canonical]) for canonical, own in partners.items())


@pytest.mark.parametrize("name", FAMILIES)
def test_of_a_vlm_given_as_expert_the_decoder_and_nothing_else_is_found(name: str) -> None:
    models = built(name)
    as_expert, expected = Checkpoint(models.references["vlm"] or ""), decoder(models.vlm)
    assert set(as_expert.canonical()) == set(expected)
    assert all(torch.equal(as_expert.tensor(own), expected[name]) for name, own in as_expert.canonical().items())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_delta_finds_the_running_models_own_parameters(name: str) -> None:
    models = built(name)
    parameters = dict(models.vlm.named_parameters())
    shapes = {canonical: tuple(tensor.shape) for canonical, tensor in decoder(models.expert).items()}
    partners = match_parameters({own: tuple(tensor.shape) for own, tensor in parameters.items()}, shapes)
    assert set(partners) == set(shapes)
    assert all(parameters[own] is decoder(models.vlm)[canonical] for canonical, own in partners.items())


@pytest.mark.parametrize("name", FAMILIES)
def test_delta_is_the_subtraction_of_the_two_decoders_bit_for_bit(name: str, tmp_path: Path) -> None:
    models = built(name)
    compute_delta(ALL, **models.references, out=tmp_path / "delta")
    prior, expert, vlm = load_delta(tmp_path / "delta"), decoder(models.expert), decoder(models.vlm)
    # Some decoders have parameters that are neither projection nor norm (Qwen3.5's A_log, conv1d): never selected.
    assert {canonical for canonical in expert if "proj" in canonical or "norm" in canonical} <= set(prior.names)
    assert all(torch.equal(prior.tensor(n), torch.sub(expert[n].data, vlm[n].data)) for n in prior.names)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_merged_model_loads_whole_and_generates(name: str, tmp_path: Path) -> None:
    models = built(name)
    report = merge(MergeConfig(method="linear"), **models.references, out=tmp_path / "merged")
    assert report.merged == len(decoder(models.expert)) - 2  # head and embeddings stay the VLM's
    kind = type(models.vlm)
    merged, info = kind.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    expert, vlm = decoder(models.expert)["norm.weight"], decoder(models.vlm)["norm.weight"]
    assert torch.equal(decoder(merged)["norm.weight"], 0.9 * vlm + 0.1 * expert)
    with torch.inference_mode():
        tokens = merged.generate(input_ids=torch.tensor([[5, 6, 7]]), max_new_tokens=2, min_new_tokens=2)
    assert tokens.shape == (1, 5)


# --------------------------------------------------------------------------------------------- refusals


def refused(family: ModelFamily, tmp_path: Path, config: DeltaConfig) -> str:
    family.save_vlm(family.build_vlm(), tmp_path / "vlm")
    family.build_expert().save_pretrained(tmp_path / "expert")
    with pytest.raises(CheckpointError) as raised:
        compute_delta(
            config, expert=str(tmp_path / "expert"), vlm=str(tmp_path / "vlm"), base=None, out=tmp_path / "delta"
        )
    assert not list(tmp_path.glob("delta*"))
    return str(raised.value)


@pytest.mark.parametrize("layers", [None, "0", "2"])
def test_mllama_is_refused_whatever_layers_are_chosen(tmp_path: Path, layers: str | None) -> None:
    # Layer 2 of the VLM is layer 1 of its base: a Δ of the layers whose names agree would be misaligned.
    message = refused(REFUSED["Mllama"], tmp_path, DeltaConfig(layers=layers, force=True))
    assert "cross-attention layers" in message


def test_unfused_experts_against_fused_ones_are_explained_too() -> None:
    unfused = {"model.layers.0.mlp.experts.0.down_proj.weight": (4, 4)}
    assert "unfused" in explain_missing("layers.0.mlp.experts.down_proj", (2, 4, 4), unfused)


# -------------------------------------------------------------------------------------------- document


def test_the_documented_table_is_what_the_models_are() -> None:
    text, (written, sweep) = document(), written_parts()
    if os.environ.get("DRIFT_UPDATE_GOLDEN"):
        DOCUMENT.write_text(text + sweep)
        written = text
    assert written == text, "make golden, and look at the diff"


def document() -> str:
    rows = [row(name) for name in FAMILIES]
    mixtures = [mixture_row(name) for name in MIXTURES]
    return "\n".join([HEAD, *rows, "", MIXED, *mixtures, "", TAIL, "", ""])


def row(name: str) -> str:
    models = built(name)
    on_disk = pair_decoders(*(Checkpoint(models.references[role] or "") for role in ("expert", "vlm")))
    shapes = {canonical: tuple(tensor.shape) for canonical, tensor in decoder(models.expert).items()}
    at_run_time = match_parameters({n: tuple(p.shape) for n, p in models.vlm.named_parameters()}, shapes)
    places = [f"`{partners['norm.weight'].removesuffix('norm.weight')}`" for partners in (on_disk, at_run_time)]
    family, pairs = FAMILIES[name], f"{len(on_disk)} of {len(shapes)}"
    cells = [name, f"`{family.vlm}`", f"`{family.expert}`", *places, f"`{on_disk['lm_head.weight']}`", pairs]
    return f"| {' | '.join(cells)} |"


def mixture_row(name: str) -> str:
    """How a mixture's experts are laid out in both files, and at run time."""
    models, family = built(name), MIXTURES[name]
    files = [Checkpoint(models.references[role] or "") for role in ("vlm", "expert")]
    shapes = {own: tuple(parameter.shape) for own, parameter in decoder(models.expert).items()}
    at_run_time = match_parameters({own: tuple(p.shape) for own, p in models.vlm.named_parameters()}, shapes)
    prefix = at_run_time["norm.weight"].removesuffix("norm.weight")
    cells = [name, f"`{family.vlm}`", f"`{family.expert}`", *map(laid_out, files), f"`{prefix}`"]
    return f"| {' | '.join(cells)} |"


def laid_out(checkpoint: Checkpoint) -> str:
    layout = layout_of(checkpoint)
    assert layout is not None
    return "transposed" if layout.turned else "fused" if layout.fused else "one by one"


HEAD = """# Model families

Where the text decoder hangs is found by counting: the prefix before `layers.N.` under which most tensors of the expert
have a partner of equal name and shape. There is no table of families in the code. This one is written by
`tests/unit/weights/test_families.py` (`make golden`), which builds a tiny model of each class and compares with
transformers' own `get_decoder()`, on disk and at run time; Δ is then checked bit for bit.

An expert may be multimodal itself: its decoder is then the one with the embeddings beside its layers and the width and
depth of its text configuration, or it is refused; vision towers are never taken. Layers from `num_hidden_layers` on
(multi-token prediction) and rotary buffers are left out.

| family | class | expert | decoder on disk | decoder at run time | head on disk | tensors paired |
|---|---|---|---|---|---|---|"""

MIXED = """## Mixtures of experts

Experts are stored one by one (`mlp.experts.3.gate_proj.weight`), fused (`mlp.experts.gate_up_proj` for a whole layer),
or fused with every matrix transposed, and transformers 5 fuses all of them at run time. Δ has them as they are there,
whatever the two files have (either side in any of the three ways); a merged model has its VLM's own names and layout.
Both are converted while reading, with one expert's matrix in memory, and compared with what transformers makes of the
same files (`tests/unit/weights/test_mixtures.py`). `mlp` is the experts and the shared experts, not what chooses among
them: that is the module `router` (`mlp.gate`, `shared_expert_gate`). A merge merges both. Of Qwen3-Omni the thinker is
meant, saved as a model of its own: the whole, with its talker, is no image-text-to-text model of transformers.

| family | class | expert | VLM's experts on disk | expert's | decoder at run time |
|---|---|---|---|---|---|"""

TAIL = """## Refused, by name

- **Mllama** (Llama-3.2-Vision): its cross-attention layers are counted among the decoder's, so layer N of the VLM is
  another layer of the base.
- **Encoder-decoder models** (Florence-2, T5Gemma2, UDOP, Pix2Struct): both stacks have the same names.
- **Experts that make no tensor together**: one of their matrices missing, of another shape or dtype, or named otherwise
  (`experts.3.w1`); and what is no parameter at run time. `drift plan` and `drift delta` ask transformers for the
  model's parameters, which takes a configuration and no weights; of a model that it does not know they warn.
- **Quantised** checkpoints, adapters of an unknown base, and weights in `.pth` or `.gguf`.
- `pytorch_model.bin` of a φ_VL, whose files a merge keeps and training reads. An expert's or base's is read from a
  directory with `--allow-pickle` (`allow_pickle: true` of a Δ or a merge), by torch's weights-only loader, which runs
  no code.
- `consolidated.safetensors` alone, and shards without their index, which transformers does not load either.
- Models of another depth, width or number of heads, two equally good decoders, any selected tensor without a partner.
- A text model given as the VLM, and models that are no fine-tunes of one base (mean cosine of a sample of projections
  below 0.1; of a merge the base, too). `force` goes on.

A folder may hold more weight files than one model: the single `model.safetensors` is read before an index, as
transformers does, and what is not read is named. `attn` and `mlp` go by names (`…proj`, `dense…`, `query_key_value`,
`fc1`, `w1`): layers that have none of a module are listed, and so is what one of the two decoders has alone. A decoder
whose names are none of these is refused with the names it has; `re:<pattern>` takes them, if they are the running
model's, too.

A head tied to the embeddings is no tensor of its own: select `embed` instead of `head`. Vocabularies of different size
are no obstacle: Δ of `embed` and `head` is that of their common rows ([delta.md](delta.md#tensors))."""
