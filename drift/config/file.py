"""Configuration files: YAML that may `extends:` another, with dotted overrides (`train.learning_rate=2e-5`) on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from drift.config.chain import Config
from drift.config.section import SectionType, validate
from drift.ground.errors import ConfigError


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read, merge and validate a configuration file. Raises ConfigError, one line."""
    tree = read_yaml(Path(path))
    for override in overrides:
        tree = _override(tree, override)
    try:
        raw = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from error
    return validate(Config, raw)


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
        raise ConfigError(f"{path}: no such file; see the examples in configs/") from error
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from error
    if not OmegaConf.is_dict(tree):
        raise ConfigError(f"{path}: not a mapping of sections; see the examples in configs/")
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str) or (path.parent / parent).resolve() == path.resolve():
        raise ConfigError(f"{path}: extends: '{parent}' must name another file beside this one")
    return _extended(read_yaml(path.parent / parent), tree)


def _extended(parent: Any, child: Any) -> Any:
    """``child`` over ``parent``. A section that names its `kind` replaces the parent's, as other keys belong to it."""
    both = [key for key in child if OmegaConf.is_dict(child.get(key)) and OmegaConf.is_dict(parent.get(key))]
    merged = {key: child[key] if "kind" in child[key] else _extended(parent[key], child[key]) for key in both}
    return OmegaConf.merge({key: parent._get_node(key) for key in parent if key not in both}, child, merged)


def _override(tree: Any, override: str) -> Any:
    key, equals, _ = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override '{override}': write it as key=value, for example train.learning_rate=2e-5")
    try:
        return OmegaConf.merge(tree, OmegaConf.from_dotlist([override]))
    except (OmegaConfBaseException, YAMLError, TypeError, ValueError) as error:
        raise ConfigError(f"override '{override}': {str(error).splitlines()[0]}") from error


def load_section(
    section: type[SectionType],
    key: str,
    path: Path | None,
    overrides: Sequence[str],
    given: dict[str, Any],
) -> SectionType:
    """One section for a single step: of the file ``path`` if there is one, then ``given``, then the overrides.

    ``given`` holds what the command line's own options set; entries that are None do not count.
    """
    tree = OmegaConf.create({}) if path is None else (read_yaml(path).get(key) or OmegaConf.create({}))
    tree = OmegaConf.merge(tree, _without_none(given))
    for override in overrides:
        tree = _override(tree, override)
    return validate(section, OmegaConf.to_container(tree, resolve=True), where=key)


def _without_none(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in tree.items()
        if value is not None and value != {}
    }
