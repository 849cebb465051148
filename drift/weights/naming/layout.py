"""Canonical tensor names of a text decoder, in whatever family and layout it is stored.

A canonical name is relative to the decoder: `layers.3.self_attn.q_proj.weight`, `norm.weight`,
`embed_tokens.weight`; the language head is `lm_head.weight` wherever it hangs. Where the decoder hangs
(`model.`, `model.language_model.`, `language_model.model.`, ...) is found by counting which prefix makes the
most (name, shape) pairs agree: no table of families. Pure functions over names and shapes: no torch, no files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from drift.config.models import parse_layers
from drift.ground.errors import ConfigError, PriorError

Shape = Sequence[int]

_LAYER = re.compile(r"^(?P<prefix>.*?)layers\.(?P<index>\d+)\.")
_INSIDE = re.compile(r"^layers\.(?P<index>\d+)\.")
_NUMBERED = re.compile(r"^(?P<stack>.*?)\.\d+\.")
_HEAD = "lm_head."
_FUSED = re.compile(r"\.experts\.(?!\d)")
_ORDINARY = re.compile(r"^layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.(weight|bias)$")
_MODULES = {
    "attn": re.compile(r"^layers\.\d+\.(self_attn|linear_attn)\.(\w*proj\w*|dense|query_key_value)\.(weight|bias)$"),
    "mlp": re.compile(
        r"^layers\.\d+\.((mlp|feed_forward|ffn)\.(.*\.)?(\w*proj|fc[12]|w[123]|dense_\w+)|fc[12])([._]bias|\.weight)?$"
    ),
    "router": re.compile(r"^layers\.\d+\.(mlp|feed_forward)\.(gate|router|shared_expert_gate)\.(weight|bias)$"),
    "norm": re.compile(r"(^|\.)\w*norm\w*\.(weight|bias)$"),
    "head": re.compile(r"^(lm_head|unembed|output)\.(weight|bias)$"),
    "embed": re.compile(r"^(embed_tokens|embeddings|tok_embeddings|embed)\.weight$"),
}


def is_ordinary(name: str) -> bool:
    """Whether a tensor has the canonical name that it has in nearly all models, in files and at run time."""
    return bool(_ORDINARY.match(name)) or module_of(name) in ("norm", "head", "embed")


def prefixes(names: Iterable[str]) -> list[str]:
    """What stands before `layers.N.` in names, the most frequent first."""
    found = Counter(match["prefix"] for name in names if (match := _LAYER.match(name)))
    return [prefix for prefix, _ in found.most_common()]


def canonical_names(names: Iterable[str], prefix: str | None = None) -> dict[str, str]:
    """Canonical name → own name; what is outside the decoder is left out.

    The decoder hangs at ``prefix``: of a *text* model at the most frequent one. Of several heads the nearest to it is
    taken.
    """
    names = list(names)
    prefix = next(iter(prefixes(names)), None) if prefix is None else prefix
    if prefix is None:
        return {}
    inside = {name.removeprefix(prefix): name for name in names if name.startswith(prefix) and not _is_head(name)}
    heads = sorted(filter(_is_head, names), key=lambda name: name.split(".")[0] == prefix.split(".")[0])
    return inside | {_HEAD + name.rpartition(".")[2]: name for name in heads}


def is_weight(name: str, shape: Shape) -> bool:
    """Whether a tensor is a parameter with elements: old files also hold the rotary frequencies, which are computed."""
    return 0 not in shape and not name.endswith("rotary_emb.inv_freq")


def find_partners(names: Mapping[str, Shape], canonical: Mapping[str, Shape]) -> dict[str, str]:
    """Canonical name → name of the same shape in `names`, for as many as there are.

    Every prefix before `layers.N.` in `names` is tried; the one with most hits is the decoder. Two equally
    good decoders are no decoder: the result is then empty.
    """
    best = _best(names, canonical)
    return (best[0][1] if len(best) == 1 else {}) | _head_hits(names, canonical)


def find_vocabulary(names: Mapping[str, Shape], canonical: Mapping[str, Shape], prefix: str) -> dict[str, str]:
    """Canonical name → name in `names` of embeddings and head that have other rows, one for each token, there.

    ``prefix`` is where the decoder in `names` hangs; of several heads of one shape none is taken.
    """
    found: dict[str, str] = {}
    for name, shape in canonical.items():
        if module_of(name) in ("embed", "head"):
            places = [other for other in names if (_is_head(other) and other.endswith(name)) or other == prefix + name]
            like = [other for other in places if list(names[other][1:]) == list(shape[1:])]
            found |= {name: like[0]} if len(like) == 1 else {}
    return found


def _best(names: Mapping[str, Shape], canonical: Mapping[str, Shape]) -> list[tuple[str, dict[str, str]]]:
    """The prefix under which most tensors have a partner, with them; all that are equally good."""
    found = [(prefix, _hits(names, canonical, prefix)) for prefix in prefixes(names)]
    most = max((len(hits) for _, hits in found), default=0)
    return [(prefix, hits) for prefix, hits in found if most and len(hits) == most]


def equal_decoders(names: Mapping[str, Shape], canonical: Mapping[str, Shape]) -> list[str]:
    """The prefixes of several decoders that fit equally well; empty if one fits best, or none."""
    best = [prefix for prefix, _ in _best(names, canonical)]
    return best if len(best) > 1 else []


def unpaired(names: Mapping[str, Shape], partners: Mapping[str, str]) -> dict[str, str]:
    """Canonical name → name, of what stands in the paired layers of a decoder and is nobody's partner."""
    inside = next(canonical for canonical in partners if canonical.startswith("layers."))
    prefix = partners[inside].removesuffix(inside)
    layers = {layer_index(name) for name in partners} - {None}
    left = sorted(names.keys() - set(partners.values()))
    found = {
        name.removeprefix(prefix): name for name in left if name.startswith(prefix) and is_weight(name, names[name])
    }
    return {canonical: name for canonical, name in found.items() if layer_index(canonical) in layers}


def kinds_in_layers(names: Iterable[str]) -> list[str]:
    """The kinds of tensors in the layers, as `layers.N.self_attn.q_norm.weight`."""
    return sorted({re.sub(r"\.\d+(?=\.)", ".N", name) for name in names if layer_index(name) is not None})


def match_parameters(names_and_shapes: Mapping[str, Shape], canonical: Mapping[str, Shape]) -> dict[str, str]:
    """Canonical name → name in a model, for every tensor of a Δ; `names_and_shapes` may be on disk or at run time.

    Raises PriorError, naming the first tensor without a partner of its shape.
    """
    partners = find_partners(names_and_shapes, canonical)
    for name, shape in canonical.items():
        if name not in partners:
            raise PriorError(f"{name}: {explain_missing(name, shape, names_and_shapes)}; is Δ for another model?")
    return partners


def explain_missing(name: str, shape: Shape, names: Mapping[str, Shape]) -> str:
    """Why the canonical `name` has no partner among `names`, as half a sentence."""
    ending = [other for other in names if other == name or other.endswith("." + name)]
    if same := [f"'{other}'" for other in ending if list(names[other]) == list(shape)]:
        return f"{' and '.join(same)} of this shape, but not where the layers of a text decoder are"
    if ending:
        return f"shape {list(shape)} does not fit {list(names[ending[0]])} of '{ending[0]}'"
    if name.startswith(_HEAD):
        return "the model has no such tensor, its head is tied to embed_tokens (select 'embed' instead)"
    if ".experts." in name:
        return _explain_experts(names)
    return f"the model has no tensor of this name and shape in its text decoder{_what_is_there(name, names)}"


def _explain_experts(names: Iterable[str]) -> str:
    other = next((other for other in names if ".experts." in other), None)
    if other is None:
        return "the model has no experts"
    return (
        f"the model has its experts {'fused' if _FUSED.search(other) else 'unfused'} ('{other}'), and experts of this "
        "name are not converted; select attn alone, or compute a Δ of an older version again"
    )


def _what_is_there(name: str, names: Iterable[str]) -> str:
    """What a model has in place of a tensor of a layer: layers of another name, or others in the same part."""
    if layer_index(name) is None:
        return ""
    _, number, inside = name.split(".", 2)
    if other := next((other for other in names if other.endswith(f".{number}.{inside}")), None):
        return f": '{other}' is not in '...layers.N...'"
    part = inside.partition(".")[0]
    held = {match[1] for other in names if (match := re.search(rf"layers\.{number}\.{re.escape(part)}\.(\w+)", other))}
    return f": its {part} holds {', '.join(sorted(held))}" if held else ""


def stacks(names: Iterable[str]) -> list[str]:
    """Where numbered modules of any name but `layers` are, as `encoder.block.N`."""
    found = {match["stack"] for name in names if (match := _NUMBERED.match(name))}
    return sorted(f"{stack}.N" for stack in found if not stack.endswith("layers"))


def layer_index(name: str) -> int | None:
    """3 for `layers.3.mlp.up_proj.weight`, None for tensors outside the layers."""
    match = _INSIDE.match(name)
    return int(match["index"]) if match else None


def depth(names: Iterable[str]) -> int:
    """Number of layers among canonical names."""
    return len({layer_index(name) for name in names} - {None})


def module_of(name: str) -> str:
    """The module a canonical name belongs to: attn, mlp, router, norm, head, embed, or `other`."""
    return next((module for module, pattern in _MODULES.items() if pattern.search(name)), "other")


def select_modules(
    names: Sequence[str], modules: Sequence[str], layers: str | None = None, include_bias: bool = True
) -> list[str]:
    """The canonical names that `modules` choose, in the order of `names`.

    `layers` limits tensors of layers only: the final norm, head and embeddings have none.
    Raises ConfigError if a module is unknown or selects nothing, or a layer does not exist.
    """
    within = _in_layers(names, layers)
    chosen: set[str] = set()
    for module in modules:
        hits = {name for name in within if is_selected(name, module, include_bias)}
        if not hits:
            raise ConfigError(f"modules: '{module}' {_explain_nothing(module, within)}")
        chosen |= hits
    if not chosen:
        raise ConfigError("modules: empty; choose of attn, mlp, router, norm, head, embed or re:<pattern>")
    return [name for name in names if name in chosen]


def _explain_nothing(module: str, names: Sequence[str]) -> str:
    """Why a module selects nothing of some canonical names, as the rest of a sentence."""
    if module == "head":
        return "selects no tensor (a head tied to the embeddings is no tensor of its own: select embed)"
    if module == "embed" or not (parts := _parts_of_layers(names)):
        return "selects no tensor of the text decoder"
    if module.startswith("re:"):
        return f"selects no tensor of the text decoder, whose layers hold {parts}"
    return f"finds none of its names: the layers hold {parts}; name them by re:<pattern>"


def _parts_of_layers(names: Iterable[str]) -> str:
    """What the layers hold, as `mlp (up, down), norm1`."""
    parts: dict[str, set[str]] = {}
    for name in (name for name in names if layer_index(name) is not None):
        part, _, rest = name.split(".", 2)[2].partition(".")
        inside = rest.partition(".")[0]
        parts.setdefault(part, set()).update({inside} - {"weight", "bias", ""} if not inside.isdigit() else ())
    return ", ".join(f"{part} ({', '.join(sorted(own))})" if own else part for part, own in sorted(parts.items()))


def layers_without(names: Sequence[str], modules: Sequence[str], layers: str | None = None) -> list[str]:
    """Which layers a named module says nothing of though others have it, as a sentence for each module."""
    within = _in_layers(names, layers)
    present = {layer for name in within if (layer := layer_index(name)) is not None}
    found = []
    for module in (module for module in modules if module in _MODULES):
        having = {layer_index(name) for name in within if is_selected(name, module, include_bias=True)} - {None}
        if having and (without := sorted(present - having)):
            found.append(f"layers {','.join(map(str, without))} have no tensor of '{module}'")
    return found


def is_selected(name: str, module: str, include_bias: bool) -> bool:
    """Whether a module's pattern finds a canonical name. Raises ConfigError if the module is unknown."""
    return bool(_pattern(module).search(name)) and (include_bias or not name.endswith((".bias", "_bias")))


def _in_layers(names: Sequence[str], layers: str | None) -> list[str]:
    if layers is None:
        return list(names)
    wanted = parse_layers(layers)
    present = {layer_index(name) for name in names} - {None}
    if missing := sorted(wanted - present):
        raise ConfigError(
            f"layers: '{layers}' names layer {missing[0]}, but the decoder has layers 0-{len(present) - 1}"
        )
    return [name for name in names if layer_index(name) is None or layer_index(name) in wanted]


def _pattern(module: str) -> re.Pattern[str]:
    if module in _MODULES:
        return _MODULES[module]
    if not module.startswith("re:"):
        raise ConfigError(f"modules: '{module}' is unknown; choose of {', '.join(_MODULES)} or re:<pattern>")
    try:
        return re.compile(module.removeprefix("re:"))
    except re.error as error:
        raise ConfigError(f"modules: '{module}' is no regular expression ({error})") from error


def _is_head(name: str) -> bool:
    return name.startswith(_HEAD) or f".{_HEAD}" in name


def _hits(names: Mapping[str, Shape], canonical: Mapping[str, Shape], prefix: str) -> dict[str, str]:
    return {
        name: prefix + name
        for name, shape in canonical.items()
        if not _is_head(name) and list(names.get(prefix + name, ())) == list(shape) and prefix + name in names
    }


def _head_hits(names: Mapping[str, Shape], canonical: Mapping[str, Shape]) -> dict[str, str]:
    heads = [name for name in names if _is_head(name)]
    wanted = {name: shape for name, shape in canonical.items() if _is_head(name)}
    pairs = {
        name: [head for head in heads if head.endswith(name) and list(names[head]) == list(shape)]
        for name, shape in wanted.items()
    }
    return {name: hits[0] for name, hits in pairs.items() if len(hits) == 1}
