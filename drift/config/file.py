"""Configuration files: YAML that may `extends:` another, with dotted overrides (`train.learning_rate=2e-5`) on top.

What has a name (an arm, a Δ, a benchmark) and is inherited is taken out by null in its place, in a file or an override;
`~KEY` takes any key out, which then has its default.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from drift.config.chain import Config
from drift.config.section import SectionType, suggest, validate
from drift.ground.errors import ConfigError

NAMED = ("arms", "deltas", "evaluate.benchmarks")
"""Mappings by name, whose entries can be taken out by null."""


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read, merge and validate a configuration file; ``overrides`` are `dotted.key=value`, over the file's.

    Raises ConfigError, one line that names the key.
    """
    return validate(Config, read_raw(path, overrides))


def read_raw(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A file with what it extends and the overrides, not validated yet. Raises ConfigError, one line."""
    return resolved(overridden(read_yaml(Path(path)), overrides), str(path))


def overridden(tree: Any, overrides: Sequence[str]) -> Any:
    """A tree with `key=value` and `~key` applied, in their order. Raises ConfigError, one line."""
    for override in overrides:
        tree = _override(tree, override)
    return tree


def resolved(tree: Any, where: str) -> dict[str, Any]:
    """A tree as plain mappings, without the entries that null takes out. Raises ConfigError."""
    try:
        raw: Any = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}") from error
    for key in NAMED:
        *above, last = key.split(".")
        section = raw
        for part in above:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict) and isinstance(named := section.get(last), dict):
            section[last] = {name: entry for name, entry in named.items() if entry is not None}
    return dict(raw)


def schema() -> dict[str, Any]:
    """JSON schema of the whole file, for editors."""
    tree = Config.model_json_schema(by_alias=True)
    tree["properties"]["generate"] = {"anyOf": [tree["properties"]["generate"], {"type": "null"}]}
    tree["required"] = [key for key in tree["required"] if key not in {"ingest", "generate"}]  # see `curate.ready`
    return tree


def read_yaml(path: Path) -> Any:
    try:
        tree: Any = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; `drift init` writes one") from error
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from error
    if not OmegaConf.is_dict(tree):
        raise ConfigError(f"{path}: not a mapping of sections; `drift init --from miniature` writes an example")
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str) or (path.parent / parent).resolve() == path.resolve():
        raise ConfigError(f"{path}: extends: '{parent}' must name another file beside this one")
    inherited = read_yaml(path.parent / parent)
    check_taken_out(inherited, tree, str(path))
    return _extended(inherited, tree)


def check_taken_out(inherited: Any, tree: Any, where: str) -> None:
    """Raise ConfigError for a null in place of what is not there to be taken out."""
    for key in NAMED:
        given, there = (OmegaConf.select(one, key) for one in (tree, inherited))
        known = list(there) if OmegaConf.is_dict(there) else []
        out = [name for name in given if given[name] is None] if OmegaConf.is_dict(given) else []
        for name in out:
            if name not in known:
                hint = suggest(str(name), known)
                raise ConfigError(f"{where}: {key}.{name}: null takes out what is inherited, and that is not{hint}")


def _extended(parent: Any, child: Any) -> Any:
    """``child`` over ``parent``. A section that names its `kind` replaces the parent's, as other keys belong to it."""
    both = [key for key in child if OmegaConf.is_dict(child.get(key)) and OmegaConf.is_dict(parent.get(key))]
    merged = {key: child[key] if "kind" in child[key] else _extended(parent[key], child[key]) for key in both}
    return OmegaConf.merge({key: parent._get_node(key) for key in parent if key not in both}, child, merged)


def _override(tree: Any, override: str) -> Any:
    if override.startswith("~"):
        return _without(tree, override)
    key, equals, _ = override.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"override '{override}': write it as key=value, for example train.learning_rate=2e-5, or ~key to take "
            "key out"
        )
    try:
        change = OmegaConf.from_dotlist([override])
        check_taken_out(tree, change, f"override '{override}'")
        return OmegaConf.merge(tree, change)
    except (OmegaConfBaseException, YAMLError, TypeError, ValueError) as error:
        raise ConfigError(f"override '{override}': {str(error).splitlines()[0]}") from error


def _without(tree: Any, override: str) -> Any:
    """``tree`` without the key that `~key` names. Raises ConfigError if it has none."""
    key, left = override[1:], copy.deepcopy(tree)
    place = _place(left, key)
    if place is None:
        above, _, last = key.rpartition(".")
        near = OmegaConf.select(left, above) if above else left
        hint = suggest(last, map(str, near)) if OmegaConf.is_dict(near) else ""
        raise ConfigError(f"override '{override}': there is no '{key}' to take out{hint}")
    section, last = place
    del section[last]
    return left


def _place(section: Any, key: str) -> tuple[Any, str] | None:
    """The mapping that holds a dotted key, and its last part, which may have dots itself; None if there is none."""
    if not OmegaConf.is_dict(section) or key in section:
        return (section, key) if OmegaConf.is_dict(section) else None
    below = [name for name in section if key.startswith(f"{name}.")]
    return next((found for name in below if (found := _place(section[name], key[len(name) + 1 :]))), None)


def load_section(
    section: type[SectionType],
    key: str,
    path: Path | None,
    overrides: Sequence[str],
    given: dict[str, Any],
) -> SectionType:
    """One section for a single step: of the file ``path`` if there is one, then ``given``, then the overrides.

    ``given`` holds what the command line's own options set; entries that are None do not count. An override may be
    written as in a whole configuration, with the section in front.
    """
    overrides = [one.removeprefix(f"{key}.") for one in overrides]
    tree = OmegaConf.create({}) if path is None else (read_yaml(path).get(key) or OmegaConf.create({}))
    tree = overridden(OmegaConf.merge(tree, _without_none(given)), overrides)
    return validate(section, OmegaConf.to_container(tree, resolve=True), where=key)


def _without_none(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in tree.items()
        if value is not None and value != {}
    }
