"""Every image-text class of the installed transformers: Δ and a merge are exact, or refused in a line with the cause.

Each class is shrunk from its own configuration (`tests/shrunk_models.py`), built once, and written by transformers. The
outcomes are the second table of `docs/families.md`, which the last test compares and `make golden` writes.
"""

import functools
import logging
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from drift.config.models import DeltaConfig, MergeConfig
from drift.ground.errors import DriftError
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import DeltaFile, load_delta
from drift.weights.merging.merge import merge
from drift.weights.storage.checkpoints import match_parameters
from tests.model_families import DOCUMENT, SWEEP, written_parts
from tests.shrunk_models import CLASSES, NOT_BUILT, build_expert, build_vlm, text_decoder

OF_ANOTHER_SENSE = re.compile(r"vision|visual|vq|image|img|audio|protein|projector|connector")


@dataclass(frozen=True)
class Outcome:
    """What Δ and a merge of one class came to."""

    vlm: str
    expert: str
    delta: str
    merge: str

    @property
    def kind(self) -> str:
        """exact, refused, or not built."""
        return self.delta.partition(":")[0].partition(",")[0]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What drift warns of is the subject of other tests."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_delta_and_merge_are_exact_or_refused_in_a_line(name: str) -> None:
    found = outcome(name)
    assert f"{row(name, found)}\n" in written_parts()[1] or os.environ.get("DRIFT_UPDATE_GOLDEN"), (
        f"{row(name, found)}\nis not the row of docs/families.md: make golden, and look at the diff"
    )


@functools.cache
def outcome(name: str) -> Outcome:
    """Build a class and try it, once."""
    if name in NOT_BUILT:
        return Outcome(CLASSES[name], "–", f"not built: {NOT_BUILT[name]}", "–")
    with tempfile.TemporaryDirectory() as folder:
        vlm = build_vlm(name)
        expert = build_expert(vlm)
        vlm.save_pretrained(f"{folder}/vlm")
        expert.save_pretrained(f"{folder}/expert")
        models = Models(vlm, expert, Path(folder))
        return Outcome(type(vlm).__name__, type(expert).__name__, models.delta(), models.merge())


@dataclass(frozen=True)
class Models:
    """Both models of a class, in memory and in a folder."""

    vlm: Any
    expert: Any
    folder: Path

    @property
    def references(self) -> dict[str, str | None]:
        return {"expert": str(self.folder / "expert"), "vlm": str(self.folder / "vlm"), "base": None}

    def delta(self) -> str:
        """Δ of attention and MLP, against the running models' own tensors."""
        try:
            compute_delta(DeltaConfig(), **self.references, out=self.folder / "delta")
        except DriftError as error:
            assert not (self.folder / "delta").exists()
            return self.refusal(error)
        prior = load_delta(self.folder / "delta")
        self.require_exact(prior)
        return f"exact, {len(prior.names)} tensors"

    def require_exact(self, prior: DeltaFile) -> None:
        """Each tensor is the difference of the two decoders' parameters of its name, and finds that of the VLM."""
        parameters, vlm, expert = dict(self.vlm.named_parameters()), decoder(self.vlm), decoder(self.expert)
        partners = match_parameters({own: tuple(p.shape) for own, p in parameters.items()}, prior.shapes)
        for name in prior.names:
            assert torch.equal(prior.tensor(name), torch.sub(expert[name].data, vlm[name].data)), name
            assert parameters[partners[name]] is vlm[name], f"{name} is bound to {partners[name]}"

    def merge(self) -> str:
        """A linear merge, loaded by transformers: whole, the decoder's tensors merged, all others the VLM's."""
        try:
            report = merge(MergeConfig(method="linear"), **self.references, out=self.folder / "merged")
        except DriftError as error:
            assert not (self.folder / "merged").exists()
            return self.refusal(error)
        merged, info = type(self.vlm).from_pretrained(self.folder / "merged", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        self.require_merged(dict(merged.named_parameters()))
        return f"exact, {report.merged} tensors"

    def require_merged(self, merged: dict[str, torch.Tensor]) -> None:
        """What has changed is 0.9 φ_VL + 0.1 φ_reason, of the text decoder alone, its embeddings not among it."""
        canonical = {id(parameter): name for name, parameter in decoder(self.vlm).items()}
        expert, still = decoder(self.expert), [self.vlm.get_input_embeddings(), self.vlm.get_output_embeddings()]
        untouched = {id(module.weight) for module in still if module is not None}
        for own, before in self.vlm.named_parameters():
            if not torch.equal(merged[own], before):
                assert not OF_ANOTHER_SENSE.search(own) and id(before) not in untouched, own
                assert torch.equal(merged[own], 0.9 * before + 0.1 * expert[canonical[id(before)]]), own

    def refusal(self, error: DriftError) -> str:
        """The line of an error, without this machine's folder."""
        line = str(error).replace(f"{self.folder}/", "")
        assert "\n" not in line
        return f"refused: {line}"


def decoder(model: Any) -> dict[str, torch.nn.Parameter]:
    """The oracle: canonical names, by transformers' own account of what the decoder is."""
    return dict(text_decoder(model).named_parameters())


# -------------------------------------------------------------------------------------------- document


def test_the_documented_outcomes_are_these() -> None:
    text, (before, written) = document(), written_parts()
    if os.environ.get("DRIFT_UPDATE_GOLDEN"):
        DOCUMENT.write_text(before + text)
        written = text
    assert written == text, "make golden, and look at the diff"


def document() -> str:
    found = {name: outcome(name) for name in sorted(CLASSES)}
    rows = [f"{row(name, one)}\n" for name, one in found.items()]
    return "".join([SWEEP, HEAD, summary(list(found.values())), TABLE, *rows])


def summary(found: list[Outcome]) -> str:
    kinds = Counter(one.kind for one in found)
    partly = sum(one.kind == "exact" and one.merge.startswith("refused") for one in found)
    return (
        f"Of {len(found)} model types Δ is exact in {kinds['exact']} (the merge is refused in {partly} of these), "
        f"refused in {kinds['refused']}, and {kinds['not built']} cannot be built here.\n"
    )


def row(name: str, found: Outcome) -> str:
    cells = [f"`{name}`", f"`{found.vlm}`", f"`{found.expert}`", found.delta, found.merge]
    if found.merge == found.delta:
        cells[-1] = "the same"
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


HEAD = """
The table is written by `tests/unit/weights/test_sweep.py` (`make golden`), which shrinks every class of
`AutoModelForImageTextToText` from its own configuration, lets transformers save it, and makes the expert: a fine-tune
of its decoder in the class of the text model, or of the whole where transformers has no such class. Exact means: every
tensor of Δ is, bit for bit, the difference of the two running models' parameters, and finds that parameter at run time;
a merged model loads whole, its decoder is 0.9 φ_VL + 0.1 φ_reason and all else φ_VL's. What is not exact is refused
(exit code 2) with the line that stands here. The sizes are tiny, and the names those that transformers writes: what is
on the hub under older names is in the tables above.

"""
TABLE = """
| model type | class | expert | Δ of `attn` and `mlp` | linear merge |
|---|---|---|---|---|
"""
